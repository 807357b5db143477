"""Filtered top-k: fetches more than k songs from the index; where filters leave few of them, scores all songs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from music_map.playlist.tastes import DEPTH, fuse, places_of
from music_map.retrieval.export import Export
from music_map.retrieval.filters import Filters, choose
from music_map.retrieval.index import ExactIndex, Index

# Candidates that an order, such as diversity, chooses from, in multiples of k.
_POOL = 5
# Fetching more than 1 / _SCAN_SHARE of the catalogue from the index costs about as much as scoring every song.
_SCAN_SHARE = 8
# Up to this many songs an exact index is not asked: NumPy's products, which no program is compiled for, are as quick.
_SCANNED = 20_000
# Where fewer than 1 / _COPIED of the songs are allowed, their rows alone are scored.
_COPIED = 4


def rank_all(vectors: np.ndarray, query: np.ndarray, n: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The n best of the allowed songs by scoring each: songs int32 and scores float32, best first.

    Args:
      vectors: float32 [I, d].
      query: float32 [d].
      n: at least 1.
      allowed: bool [I].
    """
    songs, scores = scores_of(vectors, query[None], allowed)
    return _first(songs, scores[0], n)


def scores_of(vectors: np.ndarray, queries: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The allowed songs, int32 [n], and their scores for queries float32 [H, d]: float32 [H, n]."""
    songs = np.flatnonzero(allowed).astype(np.int32)
    few = len(songs) * _COPIED < len(vectors)
    rows = vectors[songs] if few else vectors
    # Query by query: NumPy gives a product of matrices to several threads, which wait for each other where cores are
    # busy: 20 ms in place of .1 for 8 queries and 2,540 songs.
    scores = np.stack([rows @ query for query in queries])
    return songs, scores if few or len(songs) == len(vectors) else scores[:, songs]


def _first(songs: np.ndarray, scores: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n songs of the highest scores, best first; of equal scores the earlier song."""
    if n < len(songs):
        # All songs as good as the n-th, so that ties go to the earlier song.
        bound = np.partition(scores, len(scores) - n)[len(scores) - n]
        best = np.flatnonzero(scores >= bound)
        songs, scores = songs[best], scores[best]
    order = np.argsort(-scores, kind="stable")[:n]
    return songs[order], scores[order]


class Wanted(NamedTuple):
    """What a query looks for: the score of song j for taste h is <vectors[h], z_j>, plus what `plus[h]` has for j.

    Attributes:
      vectors: float32 [H, d], a row for each taste.
      weights: float32 [H], see `music_map.playlist.tastes.fuse`.
      plus: for each taste songs int32 [m], ascending, and values float32 [m], not negative.
      tastes: int [n], of each song of the playlist.
    """

    vectors: np.ndarray
    weights: np.ndarray
    plus: Sequence[tuple[np.ndarray, np.ndarray]]
    tastes: np.ndarray = np.zeros(0, np.int64)

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
        left = [
            (row, taste)
            for row, query in enumerate(queries)
            if (len(query.weights) > 1) == several
            for taste in range(len(query.weights))
        ]
        fetch, options = 0, {}
        if not isinstance(index, ExactIndex):
            # The index is of use where a fetch is expected to leave enough songs; other queries score all songs.
            fetch = size + pool + 32
            left = [(row, taste) for row, taste in left if counts[row] * fetch >= size * index.num_items]
        elif len(left) > 1 and index.num_items > _SCANNED:
            # A batch is one matrix product; it fetches more songs to make up for those left out of a single query.
            fetch, options = size + max(len(own_out[row]) for row, _ in left), {"allowed": allowed}
        # Where a fetch leaves too few, a longer one is the rule: filters and tastes go together.
        while left and fetch and fetch * _SCAN_SHARE <= index.num_items:
            items, scores = index.search(
                np.stack([queries[row].vectors[taste] for row, taste in left]), fetch, **options
            )
            for (row, taste), songs, score in zip(left, items, scores, strict=True):
                mask[own_out[row]] = False
                keep = (songs >= 0) & mask[songs]
                mask[own_out[row]] = True
                found[row][taste] = songs[keep], score[keep]
            left = [(row, taste) for row, taste in left if len(found[row][taste][0]) < min(size, counts[row])]
            fetch *= 4
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
        # Of all tastes, one after the other.
        songs, values = (np.concatenate(column) for column in zip(*query.plus, strict=True))
        tastes = np.repeat(np.arange(len(query.plus)), [len(own) for own, _ in query.plus])
        keep = allowed[songs]
        songs, tastes = songs[keep], tastes[keep]
        scores = np.einsum("nd,nd->n", vectors[songs], query.vectors[tastes]) + values[keep]
        self._plus = songs, scores.astype(np.float32), tastes

    def best(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The n best songs int32 and their scores float32, best first; all of them where there are fewer."""
        number = len(self._query.weights)
        depth = n if number == 1 else max(n, DEPTH)
        songs, scores, tastes = self._lists(min(depth, self.count))
        if number > 1:
            songs, scores = fuse(songs, scores, tastes, self._query.weights)
        return songs[:n], scores[:n]

    def _lists(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The n best songs of each taste, best first, their scores and their tastes, taste by taste."""
        lists = [
            found if found is not None and len(found[0]) >= n else self._scanned(taste, n)
            for taste, found in enumerate(self._found)
        ]
        songs, scores = (np.concatenate(column) for column in zip(*lists, strict=True))
        tastes = np.repeat(np.arange(len(lists)), [len(own) for own, _ in lists])
        more, values, of = self._plus
        if len(more):
            # What is behind the n-th of its taste without `plus` is no more than that with it.
            last = np.array([-np.inf if len(own) < n else values[n - 1] for own, values in lists], np.float32)
            ahead = values >= last[of]
            more, values, of = more[ahead], values[ahead], of[ahead]
        if len(more):
            keys, plus = tastes * len(self._vectors) + songs, of * len(self._vectors) + more
            rest = plus[np.minimum(np.searchsorted(plus, keys), len(plus) - 1)] != keys
            songs, scores, tastes = (
                np.append(own[rest], other) for own, other in ((songs, more), (scores, values), (tastes, of))
            )
            order = np.lexsort((songs, -scores, tastes))
            songs, scores, tastes = songs[order], scores[order], tastes[order]
        keep = places_of(tastes, len(lists)) < n
        return songs[keep], scores[keep], tastes[keep]

    def _scanned(self, taste: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The n best songs of one taste without those in `plus`, by scoring each."""
        songs, scores = self._all
        return _first(songs, scores[taste], n)

    @functools.cached_property
    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        """The allowed songs, and their scores for each taste."""
        return scores_of(self._vectors, self._query.vectors, self._allowed)


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
