"""What a baseline is fitted on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from music_map.decay import decay
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import Relevance, relevant
from music_map.preprocess.dataset import Events, ItemFeatures


@dataclass(frozen=True)
class History:
    """The train events that count, sorted by user, then time.

    Attributes:
      users, items: int32 [E].
      timestamps: uint32 [E], seconds.
      num_users, num_items: of the data set, including those without events.
      train_end: seconds, the last train event of any kind.
      features: loads the songs' features; None if no baseline needs them.
    """

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    num_users: int
    num_items: int
    train_end: int
    features: Callable[[], ItemFeatures] | None = None

    @classmethod
    def of(
        cls,
        train: Events,
        relevance: Relevance,
        *,
        num_users: int,
        num_items: int,
        train_end: int,
        min_played_pct: int,
        features: Callable[[], ItemFeatures] | None = None,
    ) -> History:
        """The events of train that `relevance` accepts, see protocols.relevant."""
        counts = relevant(train, relevance, min_played_pct=min_played_pct)
        events = train.user[counts], train.item[counts], train.timestamp[counts]
        return cls(*events, num_users, num_items, train_end, features)

    @functools.cached_property
    def pairs(self) -> Pairs:
        """The distinct songs of each user."""
        return Pairs.of(self.users, self.items, num_rows=self.num_users, num_items=self.num_items)


def recent_songs(history: History, users: np.ndarray, *, most: int) -> np.ndarray:
    """The latest distinct songs of some users by their last event, the latest last: int32 [B, most], first -1s.

    Args:
      history: sorted by user, then time.
      users: integers [B].
      most: length of the rows.
    """
    found = np.full((len(users), most), -1, np.int32)
    starts = np.searchsorted(history.users, [users, np.asarray(users) + 1])
    for row, (start, end) in enumerate(starts.T):
        # Of the events from the last to the first, the first of each song is its last event.
        songs, at = np.unique(history.items[start:end][::-1], return_index=True)
        latest = songs[np.argsort(at)][:most][::-1]
        found[row, most - len(latest) :] = latest
    return found


def binary_matrix(pairs: Pairs, num_items: int) -> sparse.csr_array:
    """The pairs as a matrix of zeros and ones, float32 [R, I]."""
    return sparse.csr_array(
        (np.ones(len(pairs.items), np.float32), pairs.items, pairs.offsets), (pairs.num_rows, num_items)
    )


def decay_since(now: np.ndarray | int, timestamps: np.ndarray, half_life_days: float) -> np.ndarray:
    """2^(-(now - t) / half-life), float64; `timestamps` are unsigned, so the difference is taken in float64."""
    return decay(now - timestamps.astype(np.float64), half_life_days * 86_400.0)
