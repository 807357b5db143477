"""The pass that writes events and withdrawals of kept users and songs as shards, split by time, sorted by user.

One thread reads. Other threads filter, merge the files and write full shards, several ranges of users at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from music_map.preprocess.dataset import (
    DISLIKE,
    EVENT_TYPES,
    LIKE,
    LISTEN,
    SPLITS,
    WITHDRAWAL_TYPES,
    Events,
    Withdrawals,
)
from music_map.preprocess.filtering import Filter
from music_map.preprocess.shards import ShardWriter
from music_map.preprocess.splits import Cutoffs
from music_map.raw.reader import EVERYONE, Columns, EventTable, UserRange, user_chunks
from music_map.reporter import Progress
from music_map.storage import ArrayWriter
from music_map.threads import num_workers, ordered_map

KINDS = {"listens": LISTEN, "likes": LIKE, "dislikes": DISLIKE}
WITHDRAWN_KINDS = {"unlikes": LIKE, "undislikes": DISLIKE}
_TYPES = EVENT_TYPES._asdict()
# Columns of Events that have another name in raw files.
_RAW_NAMES = {"played_pct": "played_ratio_pct"}


class Written(NamedTuple):
    """The result of write_events.

    Attributes:
      num_shards, num_withdrawn_shards: by split.
      num_rows: interactions by split, without those of held-out songs.
      num_held_out_shards, num_held_out_rows: of the interactions of held-out songs.
      num_withdrawals: unlikes and undislikes written, over all splits.
      track_seconds: float32 [I], see ItemFeatures.
      train_end: seconds, the last train event; None if there is none.
      num_read: rows read, by file.
    """

    num_shards: dict[str, int]
    num_withdrawn_shards: dict[str, int]
    num_rows: dict[str, int]
    num_held_out_shards: int
    num_held_out_rows: int
    num_withdrawals: int
    track_seconds: np.ndarray
    train_end: int | None
    num_read: dict[str, int]


class EventShards:
    """The shard writers of a data set: events and withdrawals by split, and the interactions of held-out songs.

    Args:
      writer: the folder to write into.
      chunk_size: rows per shard.
      held_out: whether there are held-out songs.
      first_rows: number of events by split that precede those written here, see ShardWriter.
      pool: writes full shards.
    """

    def __init__(
        self,
        writer: ArrayWriter,
        *,
        chunk_size: int,
        held_out: bool,
        first_rows: Mapping[str, int] | None = None,
        pool: ThreadPoolExecutor | None = None,
    ):
        shards = functools.partial(ShardWriter, writer, chunk_size=chunk_size, pool=pool)
        self.events = {
            s: shards(f"{s}/", Events._fields, EVENT_TYPES, first_row=first_rows[s] if first_rows else 0)
            for s in SPLITS
        }
        self.withdrawn = {s: shards(f"{s}/withdrawn_", Withdrawals._fields, WITHDRAWAL_TYPES) for s in SPLITS}
        self.held_out = shards("held_out/", Events._fields, EVENT_TYPES) if held_out else None

    def finish(self, track_seconds: np.ndarray, train_end: int | None, num_read: dict[str, int]) -> Written:
        """Writes the remaining rows."""
        apart = self.held_out
        return Written(
            {name: shards.finish() for name, shards in self.events.items()},
            {name: shards.finish() for name, shards in self.withdrawn.items()},
            {name: shards.num_rows for name, shards in self.events.items()},
            apart.finish() if apart else 0,
            apart.num_rows if apart else 0,
            sum(shards.num_rows for shards in self.withdrawn.values()),
            track_seconds,
            train_end,
            num_read,
        )


def write_events(
    tables: Mapping[str, EventTable],
    kept: Filter,
    cutoffs: Cutoffs,
    writer: ArrayWriter,
    *,
    held_out: np.ndarray,
    chunk_size: int,
    batch_rows: int,
    progress: Progress,
    users: UserRange = EVERYONE,
    first_rows: Mapping[str, int] | None = None,
) -> Written:
    """Writes the events and withdrawals of kept users and songs, split by time, sorted by user, then timestamp.

    Rows with equal (user, timestamp) are ordered listens, likes, dislikes (unlikes, undislikes), then as in the file.
    Interactions of all times with `held_out` songs, bool [I], are written apart; their withdrawals are dropped.

    Args:
      users: the users whose events to write.
      first_rows: number of events by split of the users before them, see ShardWriter.
    """
    track_seconds = np.zeros(len(kept.items), np.float32)
    train_end: int | None = None
    num_read = dict.fromkeys(tables, 0)
    arrange = functools.partial(_arrange, kept=kept, cutoffs=cutoffs, held_out=held_out, track_seconds=track_seconds)
    workers = num_workers()
    total = sum(t.num_rows for t in tables.values()) if users == EVERYONE else None
    with ThreadPoolExecutor(workers) as pool, progress("write shards", total, "row") as advance:
        shards = EventShards(
            writer, chunk_size=chunk_size, held_out=bool(held_out.any()), first_rows=first_rows, pool=pool
        )
        chunks = user_chunks(tables, batch_rows=batch_rows, users=users)
        for rows in ordered_map(arrange, chunks, pool=pool, ahead=workers + 1):
            for name in SPLITS:
                shards.events[name].append(rows.events[name])
                shards.withdrawn[name].append(rows.withdrawn[name])
            if shards.held_out is not None:
                shards.held_out.append(rows.held_out)
            see_track_seconds(track_seconds, *rows.lengths)
            if len(rows.events["train"].timestamp):
                train_end = max(train_end or 0, int(rows.events["train"].timestamp.max()))
            for name, count in rows.num_read.items():
                num_read[name] += count
            advance(sum(rows.num_read.values()))
        return shards.finish(track_seconds, train_end, num_read)


class _Arranged(NamedTuple):
    """The events of a range of users, ready to be written.

    Attributes:
      events, withdrawn: by split.
      held_out: interactions of held-out songs.
      lengths: songs and track lengths in seconds, from the train events that state one, in order.
      num_read: rows read by file.
    """

    events: dict[str, Events]
    withdrawn: dict[str, Withdrawals]
    held_out: Events
    lengths: tuple[np.ndarray, np.ndarray]
    num_read: dict[str, int]


def _arrange(
    chunk: Mapping[str, Columns], *, kept: Filter, cutoffs: Cutoffs, held_out: np.ndarray, track_seconds: np.ndarray
) -> _Arranged:
    found = {name: _Found(name, columns, kept, cutoffs, held_out) for name, columns in chunk.items()}
    interactions = [found[name] for name in KINDS if name in found]
    withdrawals = [found[name] for name in WITHDRAWN_KINDS if name in found]
    events = {
        name: Events(*_merge([(rows, rows.of_split(at)) for rows in interactions], Events._fields))
        for at, name in enumerate(SPLITS)
    }
    withdrawn = {
        name: Withdrawals(*_merge([(rows, rows.of_split(at)) for rows in withdrawals], Withdrawals._fields))
        for at, name in enumerate(SPLITS)
    }
    apart = [(rows, rows.hidden) for rows in interactions if rows.hidden is not None]
    num_read = {name: len(columns["uid"]) for name, columns in chunk.items()}
    lengths = found["listens"].new_lengths(track_seconds)
    return _Arranged(events, withdrawn, Events(*_merge(apart, Events._fields)), lengths, num_read)


class _Found:
    """The rows of one file, with indices for ids.

    Attributes:
      stays: bool [n], both user and song are kept.
      hidden: bool [n], the rows of held-out songs among those that stay; None if no song is held out.
    """

    def __init__(self, name: str, columns: Columns, kept: Filter, cutoffs: Cutoffs, held_out: np.ndarray):
        uid = columns["uid"]
        # Rows of a user are adjacent: one look-up per user is enough.
        starts = np.flatnonzero(np.append(True, uid[1:] != uid[:-1])) if len(uid) else np.empty(0, np.int64)
        user_of_run = kept.users.lookup(uid[starts])
        user = np.repeat(user_of_run, np.diff(np.append(starts, len(uid))))
        item = kept.items.lookup(columns["item_id"])
        self._columns = columns | {"user": user, "item": item}
        self._kind = (KINDS | WITHDRAWN_KINDS)[name]
        self._split = cutoffs.assign(columns["timestamp"])
        self.stays = item >= 0
        if (user_of_run < 0).any():
            self.stays &= user >= 0
        self.hidden: np.ndarray | None = None
        if held_out.any():
            # Rows that do not stay have index -1; their value here is not used.
            self.hidden = self.stays & held_out[item]
            self.stays &= ~self.hidden

    def of_split(self, split: int) -> np.ndarray:
        """bool [n]: rows that stay in the split, without those of held-out songs."""
        return self.stays & (self._split == split)

    def column(self, name: str, rows: np.ndarray) -> np.ndarray:
        """One column of the chosen rows."""
        if name == "kind":
            return np.full(int(np.count_nonzero(rows)), self._kind, np.uint8)
        values = self._columns.get(_RAW_NAMES.get(name, name))
        # Only listens have a played share.
        return np.zeros(int(np.count_nonzero(rows)), _TYPES[name]) if values is None else values[rows]

    def new_lengths(self, track_seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Songs and seconds of the train rows, in order, that state the length of a song without a known length.

        Other threads may store more lengths meanwhile. Then this returns rows that are not needed, which does no harm.
        """
        item, seconds = self._columns["item"], self._columns["track_length_seconds"]
        # Rows that do not stay have index -1, which reads some other song's length, so they are masked too.
        rows = np.flatnonzero(track_seconds.take(item, mode="wrap") == 0)
        rows = rows[self.of_split(0)[rows] & (seconds[rows] > 0)]
        return item[rows], seconds[rows]


def _merge(chosen: list[tuple[_Found, np.ndarray]], names: tuple[str, ...] | list[str]) -> list[np.ndarray]:
    """Columns of the chosen rows of several files, sorted by user, then timestamp; ties by file, then row."""
    if not chosen:
        return [np.empty(0, _TYPES[name]) for name in names]
    parts = [{name: rows.column(name, mask) for name in names} for rows, mask in chosen]
    # Merge the short files first, then the result into the long one.
    merged = functools.reduce(lambda later, part: _merge_two(part, later), reversed(parts))
    return [merged[name] for name in names]


def _merge_two(first: Columns, second: Columns) -> Columns:
    """Merges sorted rows; among equal rows those of `first` come first. Fast if `second` is short."""
    if not len(second["user"]):
        return first
    at = np.searchsorted(_key(first), _key(second), side="right") + np.arange(len(second["user"]))
    of_first = np.ones(len(first["user"]) + len(at), bool)
    of_first[at] = False
    merged = {}
    for name, values in first.items():
        merged[name] = np.empty(len(of_first), values.dtype)
        merged[name][of_first] = values
        merged[name][at] = second[name]
    return merged


def _key(rows: Columns) -> np.ndarray:
    """User and timestamp in one number."""
    return rows["user"].astype(np.int64) << 32 | rows["timestamp"]


def see_track_seconds(track_seconds: np.ndarray, item: np.ndarray, seconds: np.ndarray) -> None:
    """Stores, in place, the first stated length of each song that has none yet."""
    new = np.flatnonzero(track_seconds[item] == 0)[::-1]
    # NumPy keeps the last of several values assigned to one place; rows are reversed, so a song's first row wins.
    track_seconds[item[new]] = seconds[new]
