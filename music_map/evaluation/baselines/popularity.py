"""Baselines that are the same for all users: chance, popularity, recent popularity."""

from __future__ import annotations

import numpy as np

from music_map.evaluation.baselines.history import History, decay_since
from music_map.evaluation.ranking import ScoreBlock


def random_scores(num_items: int, *, seed: int) -> ScoreBlock:
    """Uniform scores in [0, 1), independent between users; a user's depend on (seed, user) only, not on the block."""

    def score_block(users: np.ndarray) -> np.ndarray:
        return np.stack([np.random.default_rng((seed, int(u))).random(num_items, np.float32) for u in users])

    return score_block


def most_popular(history: History) -> ScoreBlock:
    """score(u, i) = number of distinct users of song i in train."""
    return _same_for_all(np.bincount(history.pairs.items, minlength=history.num_items))


def decayed_popularity(history: History, *, half_life_days: float) -> ScoreBlock:
    """score(u, i) = sum over the events of song i of 2^(-(train_end - t) / half-life).

    The Yambda paper's decay of 0.9 per h hours is a half-life of h * ln 2 / ln(1 / 0.9) = 6.58 h hours.
    """
    weights = decay_since(history.train_end, history.timestamps, half_life_days)
    return _same_for_all(np.bincount(history.items, weights, minlength=history.num_items))


def _same_for_all(scores: np.ndarray) -> ScoreBlock:
    row = scores.astype(np.float32)[None]
    return lambda users: np.broadcast_to(row, (len(users), row.shape[1]))
