"""Baselines that a learned model must beat, each fitted on the train events and nothing else.

Every function returns a score block: int32 [B] user indices -> float32 [B, I] scores. Users are those of the fit; a
user without history scores 0 everywhere with item-kNN, so the lowest indices come first.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import sparse

from music_map.errors import UserError
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import MIN_PLAYED_PCT, Protocol, relevant
from music_map.evaluation.ranking import ScoreBlock
from music_map.preprocess.dataset import Events
from music_map.progress import Progress, silent

BASELINES = ("random", "most_pop", "decay_pop", "item_knn", "item_knn_decay")

_DAY = 86_400.0
# Multiply-adds per block of the item-item product: an upper bound on its entries, of 8 bytes each.
_BLOCK_PRODUCTS = 2**24


def random_scores(num_items: int, *, seed: int) -> ScoreBlock:
    """Uniform scores in [0, 1), independent between users; a user's depend on (seed, user) only, not on the block."""

    def score_block(users: np.ndarray) -> np.ndarray:
        return np.stack([np.random.default_rng((seed, int(u))).random(num_items, np.float32) for u in users])

    return score_block


def most_popular(train: Pairs, num_items: int) -> ScoreBlock:
    """score(u, i) = number of distinct users of song i in train."""
    return _same_for_all(np.bincount(train.items, minlength=num_items))


def decayed_popularity(
    items: np.ndarray, timestamps: np.ndarray, num_items: int, *, half_life_days: float, now: int
) -> ScoreBlock:
    """score(u, i) = sum over the events of song i of 2^(-(now - t) / half-life).

    Args:
      items: int32 [E], the song of each train event.
      timestamps: uint32 [E], seconds.
      num_items: number of songs.
      half_life_days: age in days at which an event counts half.
      now: seconds, the end of train.
    """
    return _same_for_all(np.bincount(items, _decay(now, timestamps, half_life_days), minlength=num_items))


def item_similarity(
    train: Pairs, num_items: int, *, num_neighbours: int = 100, shrinkage: float = 10.0, progress: Progress = silent
) -> sparse.csr_array:
    """Cosine similarity of songs by their users, the best neighbours of each song.

        sim(i, j) = |U_i and U_j| / (sqrt(|U_i| |U_j|) + shrinkage),    sim(i, i) left out

    with U_i the users of song i. Work is sum_u |songs of u|^2; the item-item product is made by blocks of songs, so
    memory stays bounded. Limit long histories with `recent_pairs` where that sum is out of reach.

    Args:
      train: songs of each user.
      num_items: I, number of songs.
      num_neighbours: songs kept per row, the most similar; among equals the lower index.
      shrinkage: lowers similarities that rest on few users. Of 0, 3, 10 and 50, 10 came first on the validation
        splits of LastFM (NDCG@20 .1799, against .1557 with 0) and of Gowalla (4,000 users; .1027 against .0918).
      progress: reports songs.

    Returns:
      float32 [I, I]; row i holds the neighbours of song i.
    """
    user_items = _matrix(train, num_items)
    item_users = sparse.csr_array(user_items.T)
    norms = np.sqrt(np.diff(item_users.indptr)).astype(np.float32)

    def neighbours(block: slice) -> sparse.csr_array:
        common = item_users[block] @ user_items
        rows = np.repeat(np.arange(block.start, block.stop), np.diff(common.indptr))
        common.data /= norms[rows] * norms[common.indices] + np.float32(shrinkage)
        common.data[rows == common.indices] = 0.0
        return _largest(common, num_neighbours)

    parts = []
    # scipy's products leave the interpreter free, so threads do work side by side.
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress("item-kNN", num_items, "song") as advance:
        for part in pool.map(neighbours, _blocks(item_users, user_items)):
            parts.append(part)
            advance(part.shape[0])
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def item_knn(
    train: Pairs,
    num_items: int,
    *,
    num_neighbours: int = 100,
    shrinkage: float = 10.0,
    neighbours_from: Pairs | None = None,
    progress: Progress = silent,
) -> ScoreBlock:
    """Item-kNN: score(u, j) = sum over the songs i of u's history of sim(i, j); see item_similarity.

    A song is no neighbour of itself: where repeats are targets, item_knn_decay is the one to compare with.

    Args:
      train: songs of each user, the history.
      num_items: number of songs.
      num_neighbours, shrinkage, progress: see item_similarity.
      neighbours_from: the pairs that the similarity is computed from; None: `train`.

    Reference:
      Deshpande and Karypis, Item-based top-N recommendation algorithms, TOIS 2004.
    """
    similarity = item_similarity(
        train if neighbours_from is None else neighbours_from,
        num_items,
        num_neighbours=num_neighbours,
        shrinkage=shrinkage,
        progress=progress,
    )
    history = _matrix(train, num_items)

    def score_block(users: np.ndarray) -> np.ndarray:
        return (history[users] @ similarity).toarray()

    return score_block


def item_knn_decay(
    users: np.ndarray,
    items: np.ndarray,
    timestamps: np.ndarray,
    *,
    num_users: int,
    num_items: int,
    half_life_days: float,
) -> ScoreBlock:
    """Time-decayed item-kNN of the Yambda paper, the strongest of its baselines on Listen+.

        score(u, j) = sum_{events (u, i, t)} 2^(-(t_u - t) / half-life) * <c_i, c_j> / ||c_j||

    with c_i [U] the number of events of each user on song i and t_u the last event of u. All songs are neighbours, a
    song is one of itself, so that repeats rank high. The paper's decay of 0.9 per h hours is a half-life of
    h * ln 2 / ln(1 / 0.9) = 6.58 h hours. Nothing is fitted: a block costs 2 x (distinct pairs) x B multiply-adds.

    Args:
      users, items: int32 [E], the train events that count.
      timestamps: uint32 [E], seconds.
      num_users: U.
      num_items: I.
      half_life_days: age in days at which an event of the user's history counts half.
    """
    shape = (num_users, num_items)
    last = np.zeros(num_users, np.int64)
    np.maximum.at(last, users, timestamps.astype(np.int64))
    # coo -> csr adds up the events of a pair.
    weights = _decay(last[users], timestamps, half_life_days).astype(np.float32)
    recency = sparse.csr_array(sparse.coo_array((weights, (users, items)), shape))
    counts = sparse.csr_array(sparse.coo_array((np.ones(len(users), np.float32), (users, items)), shape))
    norms = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=0)).ravel())
    unit = sparse.csr_array(counts.T)
    unit.data /= np.repeat(np.maximum(norms, 1e-12), np.diff(unit.indptr)).astype(np.float32)

    def score_block(block: np.ndarray) -> np.ndarray:
        similar_users = counts @ np.ascontiguousarray(recency[block].toarray().T)
        return (unit @ similar_users).T

    return score_block


def recent_pairs(
    users: np.ndarray, items: np.ndarray, timestamps: np.ndarray, *, num_users: int, num_items: int, max_items: int
) -> Pairs:
    """The last `max_items` distinct songs of each user, by the time of their last event; equal times by lower index.

    Args:
      users, items: int32 [E].
      timestamps: uint32 [E], seconds.
      num_users: number of users.
      num_items: number of songs.
      max_items: songs kept per user.
    """
    latest = np.lexsort((items, -timestamps.astype(np.int64), users))
    # The first occurrence of a pair in that order is its last event.
    _, first = np.unique(users[latest].astype(np.int64) * num_items + items[latest], return_index=True)
    keep = latest[np.sort(first)]
    start = np.searchsorted(users[keep], np.arange(num_users))
    keep = keep[np.arange(len(keep)) - start[users[keep]] < max_items]
    return Pairs.of(users[keep], items[keep], num_rows=num_users, num_items=num_items)


@dataclasses.dataclass(frozen=True)
class BaselineSettings:
    """What the baselines can be tuned by; choose on val.

    Attributes:
      popularity_half_life_days: of "decay_pop".
      history_half_life_days: of "item_knn_decay".
      num_neighbours, shrinkage: of "item_knn".
      max_history: the similarities of "item_knn" use each user's last so many songs; its scores use the whole history.
    """

    popularity_half_life_days: float = 1.0
    history_half_life_days: float = 1.0
    num_neighbours: int = 100
    shrinkage: float = 10.0
    max_history: int = 500


def fit_baselines(
    names: Sequence[str],
    train: Events,
    protocol: Protocol,
    *,
    num_users: int,
    num_items: int,
    train_end: int,
    seed: int,
    min_played_pct: int = MIN_PLAYED_PCT,
    settings: BaselineSettings = BaselineSettings(),
    progress: Progress = silent,
) -> Iterator[tuple[str, ScoreBlock]]:
    """Fits baselines by name, each when the iterator reaches it, on the train events that the protocol counts.

    Args:
      names: of BASELINES.
      train: train events.
      protocol: its `history` says which of them count.
      num_users, num_items: of the data set.
      train_end: first second after train.
      seed: of "random".
      min_played_pct: share of the track, in percent, from which a listen is relevant.
      settings: see BaselineSettings.
      progress: reports the fit.

    Returns:
      Iterator of (name, score block).

    Raises:
      UserError: a name is unknown; at once, before anything is fitted.
    """
    for name in names:
        if name not in BASELINES:
            near = difflib.get_close_matches(name, BASELINES, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"baseline {name!r} is unknown; {hint}choose from {', '.join(BASELINES)}")
    counts = relevant(train, protocol.history, min_played_pct=min_played_pct)
    users, items, timestamps = train.user[counts], train.item[counts], train.timestamp[counts]
    size = {"num_users": num_users, "num_items": num_items}
    pairs = Pairs.of(users, items, num_rows=num_users, num_items=num_items)

    def fit(name: str) -> ScoreBlock:
        if name == "random":
            return random_scores(num_items, seed=seed)
        if name == "most_pop":
            return most_popular(pairs, num_items)
        if name == "decay_pop":
            half_life = settings.popularity_half_life_days
            return decayed_popularity(items, timestamps, num_items, half_life_days=half_life, now=train_end)
        if name == "item_knn":
            return item_knn(
                pairs,
                num_items,
                num_neighbours=settings.num_neighbours,
                shrinkage=settings.shrinkage,
                neighbours_from=recent_pairs(users, items, timestamps, **size, max_items=settings.max_history),
                progress=progress,
            )
        return item_knn_decay(users, items, timestamps, **size, half_life_days=settings.history_half_life_days)

    return ((name, fit(name)) for name in names)


def _same_for_all(scores: np.ndarray) -> ScoreBlock:
    row = scores.astype(np.float32)[None]
    return lambda users: np.broadcast_to(row, (len(users), row.shape[1]))


def _decay(now: np.ndarray | int, timestamps: np.ndarray, half_life_days: float) -> np.ndarray:
    """2^(-(now - t) / half-life), float64; `timestamps` are unsigned, so the difference is taken in float64."""
    return np.exp2((timestamps.astype(np.float64) - now) / (half_life_days * _DAY))


def _matrix(pairs: Pairs, num_items: int) -> sparse.csr_array:
    """The pairs as a binary matrix, float32 [R, I]."""
    return sparse.csr_array(
        (np.ones(len(pairs.items), np.float32), pairs.items, pairs.offsets), (pairs.num_rows, num_items)
    )


def _blocks(item_users: sparse.csr_array, user_items: sparse.csr_array) -> list[slice]:
    """Consecutive songs whose rows of the item-item product take about _BLOCK_PRODUCTS multiply-adds together."""
    per_pair = np.diff(user_items.indptr)[item_users.indices]
    done = np.concatenate([[0], np.cumsum(per_pair)])[item_users.indptr]
    bounds, num_items = [0], item_users.shape[0]
    while bounds[-1] < num_items:
        end = int(np.searchsorted(done, done[bounds[-1]] + _BLOCK_PRODUCTS, side="right")) - 1
        bounds.append(min(max(end, bounds[-1] + 1), num_items))
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def _largest(matrix: sparse.csr_array, n: int) -> sparse.csr_array:
    """The n largest positive entries of each row; among equals those of lower column."""
    columns, values, sizes = [], [], []
    for start, end in itertools.pairwise(matrix.indptr):
        column, value = matrix.indices[start:end], matrix.data[start:end]
        column, value = column[value > 0], value[value > 0]
        if len(value) > n:
            bound = np.partition(value, len(value) - n)[len(value) - n]
            above, equal = value > bound, value == bound
            ties = np.sort(column[equal])[: n - int(above.sum())]
            column = np.concatenate([column[above], ties])
            value = np.concatenate([value[above], np.repeat(bound, len(ties))])
        columns.append(column)
        values.append(value)
        sizes.append(len(column))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return sparse.csr_array((np.concatenate(values), np.concatenate(columns), offsets), matrix.shape)
