"""Filtered top-k: fetches more than k songs from the index; where filters leave few of them, scores all songs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from music_map.playlist.tastes import DEPTH, fuse
from music_map.retrieval.export import Export
from music_map.retrieval.filters import Filters, choose
from music_map.retrieval.index import ExactIndex, Index

# Candidates that an order, such as diversity, chooses from, in multiples of k.
_POOL = 5
# Fetching more than 1 / _SCAN_SHARE of the catalogue from the index costs about as much as scoring every song.
_SCAN_SHARE = 8


def rank_all(vectors: np.ndarray, query: np.ndarray, n: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The n best of the allowed songs by scoring each: songs int32 and scores float32, best first.

    Args:
      vectors: float32 [I, d].
      query: float32 [d].
      n: at least 1.
      allowed: bool [I].
    """
    songs = np.flatnonzero(allowed).astype(np.int32)
    scores = (vectors if len(songs) == len(vectors) else vectors[songs]) @ query
    if n < len(songs):
        # All songs as good as the n-th, so that ties go to the earlier song.
        bound = np.partition(scores, len(scores) - n)[len(scores) - n]
        best = np.flatnonzero(scores >= bound)
        songs, scores = songs[best], scores[best]
    order = np.argsort(-scores, kind="stable")[:n]
    return songs[order], scores[order].astype(np.float32)


class Wanted(NamedTuple):
    """What a query looks for: the score of song j for taste h is <vectors[h], z_j>, plus what `plus[h]` has for j.

    Attributes:
      vectors: float32 [H, d], a row for each taste.
      weights: float32 [H], see `music_map.playlist.tastes.fuse`.
      plus: for each taste songs int32 [m], ascending, and values float32 [m], not negative.
    """

    vectors: np.ndarray
    weights: np.ndarray
    plus: Sequence[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, vector: np.ndarray) -> Wanted:
        """One taste, by the embedding float32 [d] alone."""
        return cls(vector[None, :], np.ones(1, np.float32), [NOTHING])


# Of `Wanted.plus`.
NOTHING = np.zeros(0, np.int32), np.zeros(0, np.float32)


def search_filtered(
    index: Index,
    vectors: np.ndarray,
    queries: Sequence[Wanted],
    k: int,
    allowed: np.ndarray,
    out: Sequence[np.ndarray],
    *,
    filters: Filters,
    export: Export,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The k best songs of each query under its filters; fewer if the catalogue has no more.

    Without caps and orders these are the k best allowed songs. With them, songs are chosen one by one from a pool of
    the best allowed songs (2 k, with an order 5 k), which doubles until k are chosen. Songs with something in
    `Wanted.plus` are all scored beside those of the index: the best of both are the best of all, since nothing is
    added to the others.

    Args:
      index: over `vectors`.
      vectors: float32 [I, d].
      queries: what is looked for.
      k: songs wanted, at least 1.
      allowed: bool [I], what the filters leave to all queries.
      out: for each query the songs left out for it alone, int [n], in any order, duplicates allowed.
      filters: caps and orders; other filters are in `allowed` and `out` already.
      export: artists and albums.

    Returns:
      for each query songs int32 [n] and scores float32 [n], in the order of the recommendations.
    """
    # One mask for all queries: each query removes its own songs from it and puts them back.
    mask = allowed.copy()
    own_out = [np.unique(songs) for songs in out]
    own_out = [songs[allowed[songs]] for songs in own_out]
    total = int(np.count_nonzero(allowed))
    counts = [total - len(songs) for songs in own_out]
    pool = k if filters.by_score_alone else _POOL * k if filters.reorders else 2 * k
    found: list[list[tuple[np.ndarray, np.ndarray] | None]] = [[None] * len(query.weights) for query in queries]
    for several in (False, True):
        size = max(pool, DEPTH) if several else pool
        rows = [row for row, query in enumerate(queries) if (len(query.weights) > 1) == several]
        useful, fetch, options = [], 0, {}
        if not isinstance(index, ExactIndex):
            # The index is of use where a fetch is expected to leave enough songs; other queries score all songs.
            fetch = min(index.num_items, size + pool + 32)
            useful = [row for row in rows if counts[row] * fetch >= size * index.num_items]
        elif len(rows) > 1:
            # A batch is one matrix product; it fetches more songs to make up for those left out of a single query.
            fetch, options = size + max(len(own_out[row]) for row in rows), {"allowed": allowed}
            useful = rows
        if not useful or fetch * _SCAN_SHARE > index.num_items:
            continue
        of = [(row, taste) for row in useful for taste in range(len(queries[row].weights))]
        items, scores = index.search(np.concatenate([queries[row].vectors for row in useful]), fetch, **options)
        for (row, taste), songs, score in zip(of, items, scores, strict=True):
            mask[own_out[row]] = False
            keep = (songs >= 0) & mask[songs]
            mask[own_out[row]] = True
            found[row][taste] = songs[keep], score[keep]
    results = []
    for row, query in enumerate(queries):
        mask[own_out[row]] = False
        ranked = _Ranked(vectors, query, mask, counts[row], found[row])
        results.append(_best(ranked, k, pool, vectors, filters, export))
        mask[own_out[row]] = True
    return results


class _Ranked:
    """The best allowed songs of one query.

    Args:
      vectors, query, allowed: see `search_filtered`.
      count: number of allowed songs.
      found: for each taste what an index found, or None.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        query: Wanted,
        allowed: np.ndarray,
        count: int,
        found: Sequence[tuple[np.ndarray, np.ndarray] | None],
    ):
        self._vectors, self._query, self._allowed, self.count = vectors, query, allowed, count
        self._found = list(found)
        self._plus = []
        for vector, (songs, values) in zip(query.vectors, query.plus, strict=True):
            keep = allowed[songs]
            songs = songs[keep]
            self._plus.append((songs, vectors[songs] @ vector + values[keep]))

    def best(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The n best songs int32 and their scores float32, best first; all of them where there are fewer."""
        tastes = range(len(self._query.weights))
        if len(tastes) == 1:
            return self._of_taste(0, n)
        songs, scores = fuse([self._of_taste(taste, max(n, DEPTH)) for taste in tastes], self._query.weights)
        return songs[:n], scores[:n]

    def _of_taste(self, taste: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        n = min(n, self.count)
        if self._found[taste] is None or len(self._found[taste][0]) < n:
            self._found[taste] = rank_all(self._vectors, self._query.vectors[taste], n, self._allowed)
        (songs, scores), (more, values) = self._found[taste], self._plus[taste]
        if len(more):
            at = np.minimum(np.searchsorted(more, songs), len(more) - 1)
            rest = more[at] != songs
            songs, scores = np.append(songs[rest], more), np.append(scores[rest], values)
            order = np.lexsort((songs, -scores))
            songs, scores = songs[order], scores[order]
        return songs[:n], scores[:n]


def rank_songs(
    vectors: np.ndarray, query: Wanted, *, allowed: np.ndarray | None = None, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The songs by their scores for one query, best first, without an index.

    Args:
      vectors: float32 [I, d].
      query: what is looked for.
      allowed: bool [I]; None: all songs.
      most: songs wanted; None: all.

    Returns:
      songs int32 [n] and scores float32 [n].
    """
    allowed = np.ones(len(vectors), bool) if allowed is None else allowed
    count = int(np.count_nonzero(allowed))
    return _Ranked(vectors, query, allowed, count, [None] * len(query.weights)).best(count if most is None else most)


def _best(
    ranked: _Ranked, k: int, size: int, vectors: np.ndarray, filters: Filters, export: Export
) -> tuple[np.ndarray, np.ndarray]:
    """The k best songs of one query from a pool of `size`, which doubles up to all allowed songs."""
    while True:
        size = min(size, ranked.count)
        songs, scores = ranked.best(size)
        if filters.by_score_alone:
            return songs[:k], scores[:k]
        picked = choose(filters, export, vectors, songs, scores, k)
        if len(picked) == k or size == ranked.count:
            return songs[picked], scores[picked]
        size *= 2
