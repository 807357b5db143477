"""The features of users at a moment, from their events up to it. Plain NumPy.

Ages are hours between an event and the moment, at least MIN_AGE. An event's engagement is clip(played_pct / 100, 0.05,
1) for a listen and 1 for a like. Dislikes only count in their own feature.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from music_map import rows as compressed
from music_map.decay import decay
from music_map.preprocess.dataset import DISLIKE, LIKE, Events
from music_map.storage import ArrayFolder, ArrayWriter

HOUR = 3_600.0
# Without this least age, the activation of a very recent event would be unbounded.
MIN_AGE = 0.25
_LEAST_ENGAGEMENT = 0.05

# Powers of age in the base-level activation.
ACTIVATION_POWERS = (0.5, 1.0, 1.5)
# Half-lives in hours: after this age, an event counts half as the start of a walk.
WALK_HALF_LIVES = (24.0, 336.0)

FAMILIARITY = (
    "heard",
    *(f"activation^{power}" for power in ACTIVATION_POWERS),
    "log_count",
    "log_age",
    "mean_engagement",
    "last_engagement",
    "liked",
    "disliked",
    "repeater",
)


class Histories(NamedTuple):
    """The events of U users. Arrays may be memory maps; then only the requested rows are read.

    Attributes:
      offsets: int64 [U + 1]; user u has events offsets[u]:offsets[u + 1], by time.
      item: int32 [E].
      timestamp: uint32 [E], seconds.
      kind: uint8 [E], LISTEN, LIKE or DISLIKE.
      played_pct: uint16 [E], see Events.
    """

    offsets: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    kind: np.ndarray
    played_pct: np.ndarray

    @classmethod
    def of(cls, *splits: Events, num_users: int) -> Histories:
        """The events of splits that follow each other in time. A single split is not copied.

        Args:
          splits: each sorted by user, then timestamp; no event of one is later than one of the next.
          num_users: U.
        """
        offsets = [compressed.offsets_of_sorted(split.user, num_users) for split in splits]
        if len(splits) == 1:
            events = splits[0]
            return cls(offsets[0], events.item, events.timestamp, events.kind, events.played_pct)
        whole = sum(offsets)
        columns = {
            name: np.empty(whole[-1], getattr(splits[0], name).dtype)
            for name in ("item", "timestamp", "kind", "played_pct")
        }
        first = whole[:-1].copy()
        for own, split in zip(offsets, splits, strict=True):
            sizes = np.diff(own)
            place = np.arange(own[-1]) + np.repeat(first - own[:-1], sizes)
            for name, column in columns.items():
                column[place] = getattr(split, name)
            first += sizes
        return cls(whole, **columns)

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    def select(self, users: np.ndarray) -> Histories:
        """Some users, in the given order, as users 0, 1, ...; only their rows are read."""
        offsets, at = compressed.select(self.offsets, users)
        return Histories(offsets, *(column[at] for column in self[1:]))

    def events(self) -> Events:
        """The histories as one split. They do not have is_organic, which is 0."""
        user = compressed.row_of_each(self.offsets).astype(np.int32)
        organic = np.broadcast_to(np.uint8(0), user.shape)
        return Events(user, self.item, self.timestamp, self.kind, organic, self.played_pct)

    def save(self, writer: ArrayWriter, prefix: str = "histories") -> None:
        """Writes the arrays as PREFIX/NAME; `load` reads them."""
        for name, column in self._asdict().items():
            writer.write(f"{prefix}/{name}", column)

    @classmethod
    def load(cls, store: ArrayFolder, prefix: str = "histories", *, verify: bool = False) -> Histories:
        """Maps the files of `save`. Only requested rows are read, so checksums are not compared by default.

        Raises:
          DamagedFileError: a file is missing or has a wrong size.
        """
        return cls(*(store.load(f"{prefix}/{name}", verify=verify, mmap=True) for name in cls._fields))


class Latest(NamedTuple):
    """The latest events of each of B users, the latest first.

    Attributes:
      items: int32 [B, L], padded with -1.
      age: float32 [B, L], hours.
      engagement: float32 [B, L], padded with 0.
    """

    items: np.ndarray
    age: np.ndarray
    engagement: np.ndarray


class UserLists(NamedTuple):
    """The parts of the histories of B users that the score reads.

    Attributes:
      offsets: int64 [B + 1]; user b has met the songs items[offsets[b]:offsets[b + 1]], ascending.
      items: int32 [P].
      features: float32 [P, F], see FAMILIARITY.
      starts: float32 [P, len(WALK_HALF_LIVES)], the start distributions of the user's walks; each sums to 1 over the
        user's songs.
      latest: of these users.
    """

    offsets: np.ndarray
    items: np.ndarray
    features: np.ndarray
    starts: np.ndarray
    latest: Latest

    def padded(self, size: int) -> UserLists:
        """With users without events at the end, `size` in all."""
        more = size - len(self.offsets) + 1
        offsets = np.append(self.offsets, np.full(more, self.offsets[-1]))
        filled = (
            np.pad(column, ((0, more), (0, 0)), constant_values=fill)
            for column, fill in zip(self.latest, (-1, 0, 0), strict=True)
        )
        return self._replace(offsets=offsets, latest=Latest(*filled))


def event_age(timestamp: np.ndarray, now: int) -> np.ndarray:
    """Hours between events and a moment, at least MIN_AGE; float64 [E]."""
    return np.maximum((now - timestamp.astype(np.int64)) / HOUR, MIN_AGE)


def engagement(kind: np.ndarray, played_pct: np.ndarray) -> np.ndarray:
    """The engagement of each event with its song, float64 [E]; 0 for dislikes."""
    value = np.clip(played_pct / 100.0, _LEAST_ENGAGEMENT, 1.0)
    value[kind == LIKE] = 1.0
    value[kind == DISLIKE] = 0.0
    return value


def before(events: Events, now: int) -> Events:
    """The events at or before a moment."""
    known = events.timestamp <= now
    return events if known.all() else Events(*(column[known] for column in events))


def read_users(histories: Histories, users: np.ndarray, *, now: int, num_items: int, latest_length: int) -> UserLists:
    """Reads the features of some users at a moment, without their later events.

    The base-level activation of a song is log sum_events engagement * age^-power: frequency and recency in one number,
    which predicts re-listening (Anderson and Schooler 1991; for music, Kowald et al., UMAP 2020).
    "repeater" is log(events / distinct songs) of the user, the same for all of the user's songs.
    A walk starts at a song with probability in proportion to sum_events engagement * 2^(-age / half-life).

    Args:
      histories: of all users.
      users: integers [B], rows of `histories`, in any order.
      now: seconds.
      num_items: number of songs.
      latest_length: L.
    """
    offsets, at = compressed.select(histories.offsets, users)
    row, timestamp = compressed.row_of_each(offsets), histories.timestamp[at]
    known = timestamp <= now
    if not known.all():
        at, row, timestamp = at[known], row[known], timestamp[known]
    item, kind = histories.item[at], histories.kind[at]
    age, strength = event_age(timestamp, now), engagement(kind, histories.played_pct[at])
    num_rows = len(offsets) - 1
    latest = _latest(row, item, age, strength, kind != DISLIKE, num_rows=num_rows, length=latest_length)
    # A stable sort keeps the events of a pair in order of time.
    key = row * num_items + item
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else np.zeros(0, np.int64)
    rows, items = np.divmod(key[first], num_items)
    sizes = np.bincount(rows, minlength=num_rows)
    pairs = compressed.offsets_of(sizes)
    if not len(key):
        empty = np.zeros((0, len(FAMILIARITY)), np.float32), np.zeros((0, len(WALK_HALF_LIVES)), np.float32)
        return UserLists(pairs, items.astype(np.int32), *empty, latest)
    # Ages count from the user's last event: a user who was away for a month starts from the last songs before.
    end = compressed.offsets_of(np.bincount(row, minlength=num_rows))[1:]
    since = age - age[np.maximum(end - 1, 0)][row]
    age, strength, kind, since = age[order], strength[order], kind[order], since[order]

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, first)

    counted = (kind != DISLIKE).astype(np.float64)
    count = total(counted)
    last = np.append(first[1:], len(key)) - 1
    plays = np.bincount(rows, count, minlength=num_rows)
    # The sum is 0 for songs that were only disliked; the floor is one event of least engagement a year ago.
    floor = [_LEAST_ENGAGEMENT * (365 * 24.0) ** -power for power in ACTIVATION_POWERS]
    features = [
        np.ones(len(first)),
        *(np.log(total(strength * age**-power) + least) for power, least in zip(ACTIVATION_POWERS, floor, strict=True)),
        np.log1p(count),
        np.log(age[last]),
        total(strength) / np.maximum(count, 1.0),
        strength[last],
        total(kind == LIKE) > 0,
        total(kind == DISLIKE) > 0,
        np.log(np.maximum(plays, 1.0) / np.maximum(sizes, 1))[rows],
    ]
    starts = [total(strength * decay(since, half_life)) for half_life in WALK_HALF_LIVES]
    starts = [start / np.maximum(np.bincount(rows, start, num_rows), 1e-12)[rows] for start in starts]
    stacked = (np.stack(columns, axis=1).astype(np.float32) for columns in (features, starts))
    return UserLists(pairs, items.astype(np.int32), *stacked, latest)


def _latest(
    row: np.ndarray,
    item: np.ndarray,
    age: np.ndarray,
    strength: np.ndarray,
    counts: np.ndarray,
    *,
    num_rows: int,
    length: int,
) -> Latest:
    """The last `length` events of each row, among those with engagement."""
    where = np.flatnonzero(counts)
    end = compressed.offsets_of(np.bincount(row[where], minlength=num_rows))[1:]
    back = end[row[where]] - 1 - np.arange(len(where))
    where, back = where[back < length], back[back < length]
    latest = Latest(
        np.full((num_rows, length), -1, np.int32),
        np.zeros((num_rows, length), np.float32),
        np.zeros((num_rows, length), np.float32),
    )
    for column, values in zip(latest, (item, age, strength), strict=True):
        column[row[where], back] = values[where]
    return latest
