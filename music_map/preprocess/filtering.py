"""The filter: users and songs stay if they have `min_interactions` interactions, counted once or as a k-core.

The census is the one pass that reads every interaction. It also keeps the rows that the filter may still drop: those
whose user or song has come fewer than `min_interactions` times so far. These are at most min_interactions x
(users + songs) rows, and in the end exactly the rows to subtract from the counts. So the filter "once" needs no second
pass.

Different processes may count parts of a log (ranges of users). The counts are added up before the filter decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from music_map.errors import UserError
from music_map.preprocess.ids import Counter, Counts, IdIndex, merge_counts
from music_map.preprocess.present import present_of
from music_map.raw.reader import EVERYONE, EventTable, UserRange
from music_map.reporter import Progress
from music_map.threads import ordered_map

# The event files whose rows are interactions. Unlikes and undislikes withdraw interactions, so they do not count.
INTERACTIONS = ("listens", "likes", "dislikes")
_COUNTED = ("uid", "timestamp", "item_id")
# 12 bytes each: 192 MiB. If the filter may drop more rows than this, it reads the log again.
_MOST_UNDECIDED = 1 << 24
# Number of batches that may be read ahead of the counting.
_AHEAD = 3


class Tally(NamedTuple):
    """Interactions counted by user, by song and by time.

    Attributes:
      users, items: by original id.
      times: by timestamp, seconds.
    """

    users: Counts
    items: Counts
    times: Counts


class Rows(NamedTuple):
    """Some interactions: uint32 [R] each."""

    uid: np.ndarray
    timestamp: np.ndarray
    item_id: np.ndarray


class Census(NamedTuple):
    """The counts of a log, or of a range of its users, before anything is dropped.

    Attributes:
      tally: all interactions.
      undecided: the interactions whose user or song has fewer than `min_interactions` here, and perhaps others; None
        if they were too many to keep.
    """

    tally: Tally
    undecided: Rows | None


class Kept(NamedTuple):
    """The result of the filter.

    Attributes:
      users, items: the users and songs that still have a row.
      times: the remaining rows by timestamp.
      last_timestamp: of all interactions, seconds, without those that are far later than all others, see `present_of`.
      num_raw_users, num_raw_items: users and songs before the filter.
    """

    users: IdIndex
    items: IdIndex
    times: Counts
    last_timestamp: int
    num_raw_users: int
    num_raw_items: int


class Filter(NamedTuple):
    """The users and songs that stay. A row stays if both its user and its song do."""

    users: IdIndex
    items: IdIndex


def take_census(
    tables: Mapping[str, EventTable],
    *,
    min_interactions: int,
    batch_rows: int,
    progress: Progress,
    users: UserRange = EVERYONE,
    most_undecided: int = _MOST_UNDECIDED,
) -> Census:
    """Counts the interactions of a range of users, and checks the order of every event file."""
    by_user, by_item, by_time = counters = Counter(), Counter(), Counter()
    undecided = _Undecided(by_user, by_item, min_interactions, most_undecided)

    def count(uid: np.ndarray, timestamp: np.ndarray, item_id: np.ndarray) -> None:
        times = beside.submit(by_time.add, timestamp)
        starts = np.flatnonzero(np.append(True, uid[1:] != uid[:-1]))
        by_user.add(uid[starts], np.diff(np.append(starts, len(uid))))
        by_item.add(item_id)
        undecided.add(Rows(uid, timestamp, item_id), starts)
        times.result()

    with ThreadPoolExecutor(len(counters)) as beside:
        _each_batch(
            "count users and songs",
            count,
            tables,
            counted=INTERACTIONS,
            users=users,
            batch_rows=batch_rows,
            progress=progress,
        )
        tally = Tally(*beside.map(Counter.result, counters))
    return Census(tally, undecided.result())


class _Undecided:
    """Keeps the rows whose user or song has come fewer than `least` times so far."""

    def __init__(self, by_user: Counter, by_item: Counter, least: int, most: int):
        self._by_user = by_user
        self._by_item = by_item
        self._least = least
        self._most = most
        self._parts: list[Rows] = [Rows(*(np.empty(0, np.uint32) for _ in Rows._fields))]
        self._num_rows = 0
        self._limit = 1 << 20
        self._given_up = False

    def add(self, rows: Rows, starts: np.ndarray) -> None:
        """Adds rows that have been counted and are sorted by user; `starts` are the first rows of the users."""
        self._given_up |= not (self._by_user.is_dense and self._by_item.is_dense)
        if self._given_up:
            return
        rare = self._by_item.seen(rows.item_id) < self._least
        rare_users = self._by_user.seen(rows.uid[starts]) < self._least
        if rare_users.any():
            rare |= np.repeat(rare_users, np.diff(np.append(starts, len(rows.uid))))
        self._keep(rows, rare)
        if self._num_rows > self._limit:
            self._prune()
            self._limit = 2 * self._num_rows + (1 << 20)

    def result(self) -> Rows | None:
        """The rows whose user or song is still rare; None if they were too many."""
        if not self._given_up:
            self._prune()
        return None if self._given_up else self._parts[0]

    def _keep(self, rows: Rows, rare: np.ndarray) -> None:
        self._parts.append(Rows(*(column[rare] for column in rows)))
        self._num_rows += len(self._parts[-1].uid)

    def _prune(self) -> None:
        rows = Rows(*(np.concatenate(columns) for columns in zip(*self._parts, strict=True)))
        self._parts, self._num_rows = [], 0
        if len(rows.uid):
            rare = self._by_item.seen(rows.item_id) < self._least
            self._keep(rows, rare | (self._by_user.seen(rows.uid) < self._least))
        else:
            self._parts = [rows]
        if self._num_rows > self._most:
            self._parts, self._given_up = [], True


def count_left(
    tables: Mapping[str, EventTable],
    kept: Filter,
    *,
    label: str,
    batch_rows: int,
    progress: Progress,
    users: UserRange = EVERYONE,
) -> Tally:
    """Counts the remaining interactions of a range of users, in a pass over them."""
    user_counts, item_counts = (np.zeros(len(index), np.int64) for index in kept)
    by_time = Counter()

    def count(uid: np.ndarray, timestamp: np.ndarray, item_id: np.ndarray) -> None:
        user, item = kept.users.lookup(uid), kept.items.lookup(item_id)
        stays = (user >= 0) & (item >= 0)
        user_counts[:] += np.bincount(user[stays], minlength=len(user_counts))
        item_counts[:] += np.bincount(item[stays], minlength=len(item_counts))
        by_time.add(timestamp[stays])

    interactions = {name: table for name, table in tables.items() if name in INTERACTIONS}
    _each_batch(label, count, interactions, counted=INTERACTIONS, users=users, batch_rows=batch_rows, progress=progress)
    return Tally(_counts(kept.users, user_counts), _counts(kept.items, item_counts), by_time.result())


def _each_batch(
    label: str,
    function: Callable[..., None],
    tables: Mapping[str, EventTable],
    *,
    counted: Sequence[str],
    users: UserRange,
    batch_rows: int,
    progress: Progress,
) -> None:
    """Reads all files in this thread, and passes the batches of the files `counted` to a counting thread."""

    def batches() -> Iterator[list[np.ndarray]]:
        for name, table in tables.items():
            for batch in table.batches(_COUNTED, batch_rows=batch_rows, users=users):
                advance(len(batch["uid"]))
                if name in counted:
                    yield [batch[column] for column in _COUNTED]

    total = sum(t.num_rows for t in tables.values()) if users == EVERYONE else None
    # One counting thread, so that batches are counted one after the other.
    with (
        progress(label, total, "row") as advance,
        ThreadPoolExecutor(1) as pool,
    ):
        for _ in ordered_map(lambda columns: function(*columns), batches(), pool=pool, ahead=_AHEAD):
            pass


def _counts(index: IdIndex, counts: np.ndarray) -> Counts:
    left = counts > 0
    return Counts(index.ids[left].astype(np.int64), counts[left])


def left_of(census: Census, kept: Filter) -> Tally:
    """The tally that remains of a census under the first filter, without another pass; needs `census.undecided`."""
    rows = census.undecided
    dropped = (kept.users.lookup(rows.uid) < 0) | (kept.items.lookup(rows.item_id) < 0)
    columns = [values[dropped] for values in (rows.uid, rows.item_id, rows.timestamp)]
    with ThreadPoolExecutor(len(columns)) as pool:
        return Tally(*pool.map(_less, census.tally, columns))


def _less(counts: Counts, dropped: np.ndarray) -> Counts:
    """The counts without the values `dropped`."""
    values, times = np.unique(dropped, return_counts=True)
    left = counts.counts.copy()
    left[np.searchsorted(counts.values, values)] -= times
    return Counts(counts.values[left > 0], left[left > 0])


def merge_tallies(tallies: Iterable[Tally]) -> Tally:
    """Adds up the tallies of the parts of a log."""
    total: Tally | None = None
    for tally in tallies:
        total = tally if total is None else Tally(*(merge_counts([a, b]) for a, b in zip(total, tally, strict=True)))
    assert total is not None
    return total


def select(
    censuses: Sequence[Census],
    recount: Callable[[int, Filter], Iterable[Tally]],
    *,
    rule: str,
    min_interactions: int,
    path: Path,
) -> tuple[Kept, Callable[[], Iterable[Tally]]]:
    """Applies the filter to a log that was counted in parts.

    A row stays if both its user and its song stay. A user with enough interactions is dropped if all its songs are
    dropped, and likewise a song if all its users are.

    Args:
      censuses: of the parts.
      recount: takes the number of the pass, from 1, and a filter; returns the remaining rows of every part, like
        count_left.
      rule: "once": users and songs are both counted over all rows, before anything is dropped. "k_core": repeated until
        every remaining user and song has `min_interactions` remaining rows.
      path: the listens, named in errors.
    Returns:
      The result of the filter, and a function that returns the remaining rows of every part.
    Raises:
      UserError: nothing remains.
    """
    enough_kept = True

    def tallies() -> Iterator[Tally]:
        nonlocal enough_kept
        for census in censuses:
            enough_kept &= census.undecided is not None
            yield census.tally

    counted = merge_tallies(tallies())
    kept = _at_least(counted, min_interactions)
    round_number = 0

    def again(number: int, kept: Filter) -> Callable[[], Iterable[Tally]]:
        return lambda: recount(number, kept)

    def spared(kept: Filter) -> Callable[[], Iterable[Tally]]:
        return lambda: (left_of(census, kept) for census in censuses)

    if enough_kept:
        lefts = spared(kept)
    else:
        round_number += 1
        lefts = again(round_number, kept)
    while True:
        left = merge_tallies(lefts())
        narrower = _at_least(left, min_interactions if rule == "k_core" else 1)
        if not len(narrower.users) or not len(narrower.items):
            most = f"{counted.users.counts.max()} and {counted.items.counts.max()}"
            raise UserError(
                f"{path}: the filter leaves nothing: users and songs need {min_interactions} "
                f"interactions, and those of this log have at most {most}; lower --config.data.min_interactions"
            )
        if len(narrower.users) == len(left.users.values) and len(narrower.items) == len(left.items.values):
            return Kept(
                *narrower,
                left.times,
                last_timestamp=present_of(*counted.times),
                num_raw_users=len(counted.users.values),
                num_raw_items=len(counted.items.values),
            ), lefts
        round_number += 1
        lefts = again(round_number, narrower)


def _at_least(tally: Tally, least: int) -> Filter:
    """Users and songs counted at least this often."""
    enough = (counts.values[counts.counts >= least].astype(np.uint32) for counts in (tally.users, tally.items))
    return Filter(*map(IdIndex, enough))
