"""Even users like even songs, odd users odd songs; of each row the diagonal is withheld."""

import numpy as np

from music_map.evaluation.baselines.history import History
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.ranking import rank


def checkerboard_history(n, *, seed=0):
    """The liked pairs but the diagonal, each user's in an order of their own."""
    liked = (np.arange(n)[:, None] + np.arange(n)[None]) % 2 == 0
    np.fill_diagonal(liked, False)
    users, items = np.nonzero(liked)
    order = np.random.default_rng(seed).permutation(len(users))
    users, items = users[order], items[order]
    sort = np.argsort(users, kind="stable")
    return history(users[sort], items[sort], np.arange(len(users)) * 60, num_users=n, num_items=n)


def history(users, items, times, *, num_users, num_items, train_end=None):
    times = np.asarray(times, np.uint32)
    end = int(times.max(initial=0)) if train_end is None else train_end
    return History(np.asarray(users, np.int32), np.asarray(items, np.int32), times, num_users, num_items, end)


def history_of(dense):
    """A history of the pairs where `dense` is true, all at time 0."""
    users, items = np.nonzero(dense)
    return history(users, items, np.zeros(len(users)), num_users=dense.shape[0], num_items=dense.shape[1])


def brings_the_diagonal_first(scores, played):
    """Whether each user's first unheard song is the withheld one."""
    users = np.arange(played.num_users)
    topk = rank(scores, users, num_items=played.num_items, k=1, masked=played.pairs)
    return topk.ravel().tolist() == users.tolist()


def pairs(dense):
    rows, items = np.nonzero(dense)
    return Pairs.of(rows, items, num_rows=dense.shape[0], num_items=dense.shape[1])
