"""Item-kNN: songs like those of the history, with and without time."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import sparse

from music_map.evaluation.baselines.history import History, binary_matrix, decay_since
from music_map.evaluation.baselines.settings import ItemKnnDecaySettings, ItemKnnSettings
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.ranking import ScoreBlock
from music_map.reporter import Progress, silent
from music_map.rows import offsets_of, offsets_of_sorted
from music_map.sparse_rows import largest

# Multiply-adds per block of the item-item product: an upper bound on its entries, of 8 bytes each.
_BLOCK_PRODUCTS = 2**24


def item_similarity(
    train: Pairs,
    num_items: int,
    *,
    num_neighbours: int = 100,
    shrinkage: float = 10.0,
    power: float = 0.5,
    progress: Progress = silent,
) -> sparse.csr_array:
    """Similarity of songs by their users, the best neighbours of each song.

        sim(i, j) = |U_i and U_j| / ((|U_i| |U_j|)^power + shrinkage),    sim(i, i) left out

    with U_i the users of song i; the cosine where power = 0.5. Work is sum_u |songs of u|^2; the item-item product is
    made by blocks of songs, so memory stays bounded. Where that sum is too large, `recent_pairs` limits long histories.

    Args:
      train: songs of each user.
      num_items: I, number of songs.
      num_neighbours: most similar songs kept per row; equal ones by lower index.
      shrinkage: lowers similarities that rest on few users. Of 0, 3, 10 and 50, 10 came first on the validation
        splits of LastFM (NDCG@20 .1799, against .1557 with 0) and of Gowalla (4,000 users; .1027 against .0918).
      power: of the popularities; 0 leaves the number of common users, which favours popular neighbours.
      progress: reports songs.

    Returns:
      float32 [I, I]; row i holds the neighbours of song i.
    """
    user_items = binary_matrix(train, num_items)
    item_users = sparse.csr_array(user_items.T)
    norms = (np.diff(item_users.indptr) ** power).astype(np.float32)

    def neighbours(block: slice) -> sparse.csr_array:
        common = item_users[block] @ user_items
        rows = np.repeat(np.arange(block.start, block.stop), np.diff(common.indptr))
        common.data /= norms[rows] * norms[common.indices] + np.float32(shrinkage)
        common.data[rows == common.indices] = 0.0
        return largest(common, num_neighbours)

    parts = []
    # scipy's products release the interpreter lock, so threads work in parallel.
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress("item-kNN", num_items, "song") as advance:
        for part in pool.map(neighbours, _blocks(item_users, user_items)):
            parts.append(part)
            advance(part.shape[0])
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def neighbours(history: History, settings: ItemKnnSettings, *, progress: Progress = silent) -> sparse.csr_array:
    """W, float32 [I, I]: W[i, j] = sim(j, i) where i is among the neighbours of j, see item_knn."""
    similarity = item_similarity(
        recent_pairs(history, max_items=settings.max_history),
        history.num_items,
        num_neighbours=settings.num_neighbours,
        shrinkage=settings.shrinkage,
        power=settings.power,
        progress=progress,
    )
    return sparse.csr_array(similarity.T)


def item_knn(history: History, settings: ItemKnnSettings, *, progress: Progress = silent) -> ScoreBlock:
    """Item-kNN: score(u, j) = sum over the songs i of u's history that are among the neighbours of j of sim(j, i).

    Neighbours are those of the song to score, not of the songs in the history: this ranked better by 1 to 10 % on the
    validation splits of LastFM, Gowalla and generated logs, and alone reaches Gowalla's published figure. A song is not
    a neighbour of itself; where repeats are targets, compare with item_knn_decay. A user without history scores 0
    everywhere, so the lowest indices come first. See item_similarity.

    Reference:
      Deshpande and Karypis, Item-based top-N recommendation algorithms, TOIS 2004.
    """
    neighbour_of = neighbours(history, settings, progress=progress)
    return neighbours_of(binary_matrix(history.pairs, history.num_items), neighbour_of)


def neighbours_of(songs: sparse.csr_array, neighbour_of: sparse.csr_array) -> ScoreBlock:
    """The scores of `item_knn` for users with given songs, who need not be those of the similarity.

    Args:
      songs: float32 [U, I], 1 where the user has played the song.
      neighbour_of: from `neighbours`.
    """
    return _NeighbourScores(songs, neighbour_of)


class _NeighbourScores:
    """Scores of item-kNN; `prepare` makes them, which `ranking.rank` calls on several threads."""

    def __init__(self, songs: sparse.csr_array, neighbour_of: sparse.csr_array):
        self._songs, self._neighbour_of = songs, neighbour_of

    def prepare(self, users: np.ndarray) -> np.ndarray:
        """float32 [B, I]."""
        return (self._songs[users] @ self._neighbour_of).toarray()

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """The scores of users int32 [B], or what `prepare` has made of them."""
        return block if block.ndim == 2 else self.prepare(block)


def item_knn_decay(history: History, settings: ItemKnnDecaySettings) -> ScoreBlock:
    """Time-decayed item-kNN of the Yambda paper, the strongest of its baselines on Listen+.

        score(u, j) = sum_{events (u, i, t)} 2^(-(t_u - t) / half-life) * <c_i, c_j> / ||c_j||

    with c_i [U] the number of events of each user on song i and t_u the last event of u. All songs are neighbours, and
    each song is its own, so repeats rank high. The paper's decay of 0.9 per h hours is a half-life of
    h * ln 2 / ln(1 / 0.9) = 6.58 h hours; its h = 0, the songs of the last moment alone, is a half-life of a second.
    Nothing is fitted: a block costs 2 x (distinct pairs) x B multiply-adds.

    Reference:
      Yambda-5B, arXiv 2505.22238, and the code published with it.
    """
    users, items, timestamps = history.users, history.items, history.timestamps
    shape = (history.num_users, history.num_items)
    last = np.zeros(history.num_users, np.int64)
    np.maximum.at(last, users, timestamps.astype(np.int64))
    # coo -> csr adds up the events of a pair.
    weights = decay_since(last[users], timestamps, settings.half_life_days).astype(np.float32)
    recency = sparse.csr_array(sparse.coo_array((weights, (users, items)), shape))
    counts = sparse.csr_array(sparse.coo_array((np.ones(len(users), np.float32), (users, items)), shape))
    norms = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=0)).ravel())
    unit = sparse.csr_array(counts.T)
    unit.data /= np.repeat(np.maximum(norms, 1e-12), np.diff(unit.indptr)).astype(np.float32)

    def score_block(block: np.ndarray) -> np.ndarray:
        similar_users = counts @ np.ascontiguousarray(recency[block].toarray().T)
        return (unit @ similar_users).T

    return score_block


def recent_pairs(history: History, *, max_items: int) -> Pairs:
    """Each user's `max_items` most recent distinct songs, by their last event; equal times by lower index."""
    offsets, kept = offsets_of_sorted(history.users, history.num_users), []
    for start, end in itertools.pairwise(offsets):
        # Of the events from the last to the first, the first of each song is its last event.
        songs, at = np.unique(history.items[start:end][::-1], return_index=True)
        times = history.timestamps[start:end][::-1][at].astype(np.int64)
        kept.append(np.sort(songs[np.argsort(-times, kind="stable")[:max_items]]))
    return Pairs(offsets_of(np.array([len(songs) for songs in kept])), np.concatenate([*kept, np.zeros(0, np.int32)]))


def _blocks(item_users: sparse.csr_array, user_items: sparse.csr_array) -> list[slice]:
    """Ranges of songs whose rows of the item-item product take about _BLOCK_PRODUCTS multiply-adds each."""
    per_pair = np.diff(user_items.indptr)[item_users.indices]
    done = offsets_of(per_pair)[item_users.indptr]
    bounds, num_items = [0], item_users.shape[0]
    while bounds[-1] < num_items:
        end = int(np.searchsorted(done, done[bounds[-1]] + _BLOCK_PRODUCTS, side="right")) - 1
        bounds.append(min(max(end, bounds[-1] + 1), num_items))
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]
