"""Filtered top-k: fetches more than k songs from the index; where filters leave few of them, scores all songs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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


def search_filtered(
    index: Index,
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    allowed: np.ndarray,
    out: Sequence[np.ndarray],
    *,
    filters: Filters,
    export: Export,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The k best songs of each query under its filters; fewer if the catalogue has no more.

    Without caps and orders these are the k best allowed songs. With them, songs are chosen one by one from a pool of
    the best allowed songs (2 k, with an order 5 k), which doubles until k are chosen.

    Args:
      index: over `vectors`.
      vectors: float32 [I, d].
      queries: float32 [B, d].
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
    first: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(queries)
    useful, fetch, options = [], 0, {}
    if not isinstance(index, ExactIndex):
        # The index is of use where a fetch is expected to leave enough songs; other queries score all songs.
        fetch = min(index.num_items, 2 * pool + 32)
        useful = [row for row, n in enumerate(counts) if n * fetch >= pool * index.num_items]
    elif len(queries) > 1:
        # A batch is one matrix product; it fetches more songs to make up for those left out of a single query.
        fetch, options = pool + max(map(len, own_out)), {"allowed": allowed}
        useful = list(range(len(queries)))
    if useful and fetch * _SCAN_SHARE <= index.num_items:
        items, scores = index.search(queries[useful], fetch, **options)
        for row, found, score in zip(useful, items, scores, strict=True):
            mask[own_out[row]] = False
            keep = (found >= 0) & mask[found]
            mask[own_out[row]] = True
            first[row] = found[keep], score[keep]
    results = []
    for row, query in enumerate(queries):
        mask[own_out[row]] = False
        results.append(_best(vectors, query, k, mask, first[row], min(pool, counts[row]), counts[row], filters, export))
        mask[own_out[row]] = True
    return results


def _best(
    vectors: np.ndarray,
    query: np.ndarray,
    k: int,
    allowed: np.ndarray,
    found: tuple[np.ndarray, np.ndarray] | None,
    size: int,
    count: int,
    filters: Filters,
    export: Export,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best songs of one query from a pool of `size`, which doubles up to all `count` allowed songs.

    Args:
      found: what an index found, or None.
    """
    while True:
        if found is None or len(found[0]) < size:
            found = rank_all(vectors, query, size, allowed)
        songs, scores = found[0][:size], found[1][:size]
        if filters.by_score_alone:
            return songs[:k], scores[:k]
        picked = choose(filters, export, vectors, songs, scores, k)
        if len(picked) == k or size == count:
            return songs[picked], scores[picked]
        size = min(2 * size, count)
