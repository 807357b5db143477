"""A moment: all that the recency score reads besides embeddings, from the events up to it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from music_map.preprocess.dataset import Events, ItemFeatures
from music_map.recency.history import (
    Familiar,
    Latest,
    before,
    engagement,
    event_age,
    familiar_songs,
    latest_songs,
    of_users,
    song_trend,
)

# Hours at which an event of a user's history counts half as the start of a walk.
WALK_HALF_LIVES = (24.0, 336.0)
RELATIONS = ("users", "artists", "albums")


class Relation(NamedTuple):
    """A way from songs to songs, by what they share: users, artists, albums. With M shared nodes:

    Attributes:
      into: float32 [M, I], from songs to nodes.
      back: float32 [I, M], from nodes to songs.
    """

    into: sparse.csr_array
    back: sparse.csr_array


class Walk(NamedTuple):
    """Walks of two steps as of a moment, from what a user played to songs with the same users, artists or albums.

    Attributes:
      starts: for each of WALK_HALF_LIVES float32 [R, I], rows summing to 1: where the walks of each user start.
      relations: of RELATIONS, in that order. For "users" both ways weigh log(1 + engagement of the pair) over the
        user's norm; for artists and albums a song takes each of its own alike, and each takes its songs alike.
    """

    starts: tuple[sparse.csr_array, ...]
    relations: tuple[Relation, ...]


class Moment(NamedTuple):
    """What is known at a moment of R users and all songs.

    Attributes:
      now: seconds.
      users: int32 [R], ascending: the users that rows stand for.
      familiar, latest: of these users.
      trend: float32 [I, T], see history.TREND.
      walk: of these users.
    """

    now: int
    users: np.ndarray
    familiar: Familiar
    latest: Latest
    trend: np.ndarray
    walk: Walk

    def rows(self, users: np.ndarray) -> np.ndarray:
        """Rows of some of `users`."""
        return np.searchsorted(self.users, users)


def observe(
    events: Events,
    users: np.ndarray,
    features: ItemFeatures,
    *,
    now: int,
    num_users: int,
    num_items: int,
    latest_length: int,
) -> Moment:
    """Gathers a moment; events after `now` are not read.

    Args:
      events: train events, sorted by user, then timestamp.
      users: int32 [R], ascending and distinct.
      features: artists and albums of the songs.
      now: seconds.
      num_users, num_items: U and I.
      latest_length: songs that the attention sees.
    """
    events = before(events, now)
    mine = of_users(events, users)
    shape = {"num_rows": len(users), "now": now}
    return Moment(
        now,
        users,
        familiar_songs(mine, num_items=num_items, **shape),
        latest_songs(mine, length=latest_length, **shape),
        song_trend(events, num_items=num_items, now=now),
        Walk(
            _starts(mine, num_rows=len(users), now=now, num_items=num_items),
            (
                _shared_users(events, num_users, num_items),
                _shared_names(features.artist_offsets, features.artists, len(features.artist_ids)),
                _shared_names(features.album_offsets, features.albums, len(features.album_ids)),
            ),
        ),
    )


def _shared_users(events: Events, num_users: int, num_items: int) -> Relation:
    graph = _matrix(events, engagement(events), (num_users, num_items))
    graph.data = np.log1p(graph.data)
    _scale_rows(graph, np.sqrt(graph.multiply(graph).sum(axis=1)))
    return Relation(graph, sparse.csr_array(graph.T))


def _shared_names(offsets: np.ndarray, names: np.ndarray, num_names: int) -> Relation:
    shape = (len(offsets) - 1, num_names)
    of_song = sparse.csr_array((np.ones(len(names), np.float32), names, offsets), shape)
    of_name = sparse.csr_array(of_song.T)
    _scale_rows(of_song, of_song.sum(axis=1))
    _scale_rows(of_name, of_name.sum(axis=1))
    return Relation(sparse.csr_array(of_song.T), sparse.csr_array(of_name.T))


def _starts(mine: Events, *, num_rows: int, now: int, num_items: int) -> tuple[sparse.csr_array, ...]:
    age, strength = event_age(mine.timestamp, now), engagement(mine)
    # Counted from the user's last event: a user who was away for a month still starts where they left off.
    youngest = np.full(num_rows, np.inf)
    np.minimum.at(youngest, mine.user, age)
    starts = []
    for half_life in WALK_HALF_LIVES:
        start = _matrix(mine, strength * np.exp2((youngest[mine.user] - age) / half_life), (num_rows, num_items))
        _scale_rows(start, start.sum(axis=1))
        starts.append(start)
    return tuple(starts)


def _matrix(events: Events, values: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    """Sums of the positive values by pair, float32."""
    some = values > 0
    pairs = events.user[some], events.item[some]
    return sparse.csr_array(sparse.coo_array((values[some].astype(np.float32), pairs), shape))


def _scale_rows(matrix: sparse.csr_array, total: np.ndarray) -> None:
    matrix.data /= np.repeat(np.maximum(np.asarray(total).ravel(), 1e-12), np.diff(matrix.indptr)).astype(np.float32)
