"""Baselines that only count: chance, popularity, recent popularity, the plays of the user."""

from __future__ import annotations

import numpy as np
from scipy import sparse

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


def own_plays(history: History, *, half_life_days: float) -> ScoreBlock:
    """score(u, i) = sum over u's events of song i of 2^(-(train_end - t) / half-life): what u plays, u plays again.

    Songs that u never played follow by popularity, at -1 / (1 + number of distinct users).
    """
    weights = decay_since(history.train_end, history.timestamps, half_life_days)
    # Below 1e-30 a decayed play could no longer be told from none.
    entries = np.maximum(weights, 1e-30).astype(np.float32), (history.users, history.items)
    plays = sparse.csr_array(sparse.coo_array(entries, (history.num_users, history.num_items)))
    users = np.bincount(history.pairs.items, minlength=history.num_items)
    others = (-1.0 / (1.0 + users)).astype(np.float32)

    def score_block(block: np.ndarray) -> np.ndarray:
        own = plays[block].toarray()
        return np.where(own > 0, own, others[None])

    return score_block


def _same_for_all(scores: np.ndarray) -> ScoreBlock:
    row = scores.astype(np.float32)[None]
    return lambda users: np.broadcast_to(row, (len(users), row.shape[1]))
