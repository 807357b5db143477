"""What is known of users and songs at a moment, from the events before it alone. Plain NumPy.

Ages are hours between an event and the moment, at least MIN_AGE. An event's engagement is clip(played_pct / 100, 0.05,
1) for a listen and 1 for a like; dislikes count nowhere but in their own feature.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from music_map.preprocess.dataset import DISLIKE, LIKE, Events

HOUR = 3_600.0
# An event a moment old would otherwise have an activation without bound.
MIN_AGE = 0.25
_LEAST_ENGAGEMENT = 0.05

# Powers of age in the base-level activation, and half-lives in hours of the songs' trends.
ACTIVATION_POWERS = (0.5, 1.0, 1.5)
TREND_HALF_LIVES = (6.0, 24.0, 72.0, 168.0, 720.0)

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
TREND = (*(f"log_plays_{half_life:g}h" for half_life in TREND_HALF_LIVES), "log_plays", "log_listeners", "log_song_age")


class Familiar(NamedTuple):
    """The songs that each of R users met before a moment.

    Attributes:
      offsets: int64 [R + 1]; row r owns items[offsets[r]:offsets[r + 1]], ascending.
      items: int32 [P].
      features: float32 [P, F], see FAMILIARITY.
    """

    offsets: np.ndarray
    items: np.ndarray
    features: np.ndarray


class Latest(NamedTuple):
    """The latest events of each of R users, the latest first.

    Attributes:
      items: int32 [R, L], -1 where the user has fewer.
      age: float32 [R, L], hours.
      engagement: float32 [R, L], 0 where the user has fewer.
    """

    items: np.ndarray
    age: np.ndarray
    engagement: np.ndarray


def event_age(timestamp: np.ndarray, now: int) -> np.ndarray:
    """Hours between events and a moment, at least MIN_AGE; float64 [E]."""
    return np.maximum((now - timestamp.astype(np.int64)) / HOUR, MIN_AGE)


def engagement(events: Events) -> np.ndarray:
    """How much an event speaks for its song, float64 [E]; 0 for dislikes."""
    value = np.clip(events.played_pct / 100.0, _LEAST_ENGAGEMENT, 1.0)
    value[events.kind == LIKE] = 1.0
    value[events.kind == DISLIKE] = 0.0
    return value


def before(events: Events, now: int) -> Events:
    """The events at or before a moment."""
    known = events.timestamp <= now
    return events if known.all() else Events(*(column[known] for column in events))


def of_users(events: Events, users: np.ndarray) -> Events:
    """The events of some users, `user` replaced by the position among them.

    Args:
      events: sorted by user, then timestamp.
      users: int32 [R], ascending and distinct.
    """
    first, last = (np.searchsorted(events.user, users, side) for side in ("left", "right"))
    sizes = last - first
    rows = np.arange(sizes.sum()) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
    chosen = Events(*(column[rows] for column in events))
    return chosen._replace(user=np.repeat(np.arange(len(users), dtype=np.int32), sizes))


def familiar_songs(events: Events, *, num_rows: int, num_items: int, now: int) -> Familiar:
    """The songs met by each user, with features of how, when and how often.

    The base-level activation of a song is log sum_events engagement * age^-power: of all that is known of re-listening,
    frequency and recency in one number (Anderson and Schooler 1991; for music, Kowald et al., UMAP 2020).
    "repeater" is log(events / distinct songs) of the user, the same for all of the user's songs.

    Args:
      events: of R users, `user` the row, sorted by user; none after `now`.
      num_rows: R.
      num_items: number of songs.
      now: seconds.
    """
    key = events.user.astype(np.int64) * num_items + events.item
    # Stable: within a pair the events stay in order of time.
    order = np.argsort(key, kind="stable")
    key, events = key[order], Events(*(column[order] for column in events))
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else np.zeros(0, np.int64)
    rows, items = np.divmod(key[first], num_items)

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, first) if len(first) else np.zeros(0)

    age, strength = event_age(events.timestamp, now), engagement(events)
    counted = (events.kind != DISLIKE).astype(np.float64)
    count = total(counted)
    last = np.append(first[1:], len(key)) - 1
    mean = total(strength) / np.maximum(count, 1.0)
    sizes = np.bincount(rows, minlength=num_rows)
    plays = np.bincount(events.user, counted, minlength=num_rows)
    # Of songs that were only disliked the sum is 0; the floor is an event of the least engagement a year ago.
    floor = [_LEAST_ENGAGEMENT * (365 * 24.0) ** -power for power in ACTIVATION_POWERS]
    features = np.stack(
        [
            np.ones(len(first)),
            *(
                np.log(total(strength * age**-power) + least)
                for power, least in zip(ACTIVATION_POWERS, floor, strict=True)
            ),
            np.log1p(count),
            np.log(age[last]) if len(first) else np.zeros(0),
            mean,
            strength[last] if len(first) else np.zeros(0),
            total(events.kind == LIKE) > 0,
            total(events.kind == DISLIKE) > 0,
            np.log(np.maximum(plays, 1.0) / np.maximum(sizes, 1))[rows],
        ],
        axis=1,
    )
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    return Familiar(offsets, items.astype(np.int32), features.astype(np.float32))


def latest_songs(events: Events, *, num_rows: int, length: int, now: int) -> Latest:
    """The last `length` events of each user that are no dislikes.

    Args:
      events: of R users, `user` the row, sorted by user, then timestamp; none after `now`.
      num_rows: R.
      length: L.
      now: seconds.
    """
    kept = events.kind != DISLIKE
    events = Events(*(column[kept] for column in events))
    end = np.searchsorted(events.user, np.arange(num_rows), "right")
    back = end[events.user] - 1 - np.arange(len(events.user))
    recent = back < length
    at = events.user[recent], back[recent]
    latest = Latest(
        np.full((num_rows, length), -1, np.int32),
        np.zeros((num_rows, length), np.float32),
        np.zeros((num_rows, length), np.float32),
    )
    latest.items[at] = events.item[recent]
    latest.age[at] = event_age(events.timestamp[recent], now)
    latest.engagement[at] = engagement(events)[recent]
    return latest


def song_trend(events: Events, *, num_items: int, now: int) -> np.ndarray:
    """What the moment knows of each song, float32 [I, T]; see TREND.

    log_plays_h is log(1 + sum of listens and likes * 2^(-age / h)), engagement-weighted; log_song_age the logarithm of
    the hours since the song's first event, and 0 for a song without events.

    Args:
      events: of all users, none after `now`.
      num_items: I.
      now: seconds.
    """
    age, strength = event_age(events.timestamp, now), engagement(events)

    def plays(weight: np.ndarray) -> np.ndarray:
        return np.log1p(np.bincount(events.item, weight, minlength=num_items))

    oldest = np.zeros(num_items)
    np.maximum.at(oldest, events.item, age)
    listened = events.kind != DISLIKE
    pairs = np.unique(events.user[listened].astype(np.int64) * num_items + events.item[listened]) % num_items
    columns = [plays(strength * np.exp2(-age / half_life)) for half_life in TREND_HALF_LIVES]
    columns += [plays(strength), np.log1p(np.bincount(pairs, minlength=num_items))]
    columns.append(np.log(np.maximum(oldest, 1.0)))
    return np.stack(columns, axis=1).astype(np.float32)
