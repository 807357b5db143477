"""Baselines that a model has to beat, fitted on train events; scores as in `music_map.evaluation.ranking`."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from music_map.evaluation.ranking import ScoreBlock
from music_map.preprocess.dataset import DISLIKE, Events

SECONDS_PER_DAY = 86_400.0


def _matrix(train: Events, num_users: int, num_items: int) -> sp.csr_matrix:
    """Binary user-song matrix of the train events that are no dislikes, float32 [U, I]."""
    keep = train.kind != DISLIKE
    x = sp.csr_matrix(
        (np.ones(int(keep.sum()), np.float32), (train.user[keep], train.item[keep])), shape=(num_users, num_items)
    )
    x.sum_duplicates()
    x.data[:] = 1.0
    return x


def most_pop(train: Events, *, num_users: int, num_items: int) -> ScoreBlock:
    """Songs by the number of their distinct train users."""
    popularity = np.asarray(_matrix(train, num_users, num_items).sum(axis=0), np.float32).ravel()
    return lambda users: np.broadcast_to(popularity, (len(users), num_items))


def decay_pop(train: Events, *, num_users: int, num_items: int, half_life_days: float = 7.0) -> ScoreBlock:
    """Songs by sum over train events of 2^(-age / half-life), age from the last train event."""
    keep = train.kind != DISLIKE
    age = (float(train.timestamp.max()) - train.timestamp[keep].astype(np.float64)) / SECONDS_PER_DAY
    popularity = np.bincount(train.item[keep], np.exp2(-age / half_life_days), num_items).astype(np.float32)
    return lambda users: np.broadcast_to(popularity, (len(users), num_items))


def _top_rows(block: sp.csr_matrix, n: int) -> sp.csr_matrix:
    """Keeps the n largest entries of each row; ties go to the lower column."""
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    order = np.lexsort((block.indices, -block.data, rows))
    rank = np.arange(len(rows)) - block.indptr[rows]
    keep = order[rank < n]
    return sp.csr_matrix((block.data[keep], (rows[keep], block.indices[keep])), shape=block.shape)


def item_knn(train: Events, *, num_users: int, num_items: int, neighbours: int = 100, block: int = 2048) -> ScoreBlock:
    """Item-based nearest neighbours: score(u, i) = sum over u's songs j of cos(i, j), j's `neighbours` nearest i only.

    cos(i, j) = |U_i and U_j| / sqrt(|U_i| |U_j|) over the binary train matrix, a song is no neighbour of itself.

    Args:
      train: events; dislikes do not count.
      num_users, num_items: sizes.
      neighbours: songs kept per song.
      block: songs whose similarities are held at a time.

    Reference: Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW 2001.
    """
    x = _matrix(train, num_users, num_items)
    norm = np.sqrt(np.asarray(x.sum(axis=0)).ravel())
    unit = sp.csc_matrix(x @ sp.diags(1.0 / np.where(norm > 0, norm, 1.0)).astype(np.float32))
    by_item = unit.T.tocsr()
    kept = []
    for start in range(0, num_items, block):
        similar = (by_item[start : start + block] @ unit).tolil()
        similar.setdiag(0.0, k=start)
        similar = similar.tocsr()
        similar.eliminate_zeros()
        kept.append(_top_rows(similar, neighbours))
    similarity = sp.vstack(kept).tocsr()
    return lambda users: (x[users] @ similarity).toarray()
