"""Filtered top-k: over-fetches from the index until k songs survive, and scores all where a filter is selective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from music_map.retrieval.export import Export
from music_map.retrieval.filters import Filters, choose
from music_map.retrieval.index import ExactIndex, Index

# Candidates that diversity chooses from, in multiples of k.
_POOL = 5
# A search for more than this share of the catalogue costs the index about as much as scoring everything.
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
        # Everything at least as good as the n-th, so that ties go to the earlier song.
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
    allowed: Sequence[np.ndarray],
    *,
    filters: Filters,
    export: Export,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The k best songs of each query under its filters; fewer only where the catalogue has no more.

    Without caps and diversity these are the k best allowed songs; with them, songs are chosen one by one from a pool of
    the best allowed ones (k, with diversity 5 k), which doubles until k are chosen.

    Args:
      index: over `vectors`.
      vectors: float32 [I, d].
      queries: float32 [B, d].
      k: songs wanted, at least 1.
      allowed: bool [I] for each query.
      filters: caps and diversity; what is out altogether is in `allowed`.
      export: artists and albums.

    Returns:
      for each query songs int32 [n] and scores float32 [n], in the order of the recommendations.
    """
    counts = [int(np.count_nonzero(mask)) for mask in allowed]
    pool = k if filters.by_score_alone else _POOL * k if filters.diversity else 2 * k
    fetch = min(index.num_items, 2 * pool + 32)
    first: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(queries)
    if not isinstance(index, ExactIndex) and fetch * _SCAN_SHARE <= index.num_items and len(queries):
        # Queries whose filter leaves less than what survives of a fetch go straight to scoring all.
        useful = [row for row, n in enumerate(counts) if n * fetch >= pool * index.num_items]
        if useful:
            items, scores = index.search(queries[useful], fetch)
            for row, found, score in zip(useful, items, scores, strict=True):
                keep = found >= 0
                keep[keep] = allowed[row][found[keep]]
                first[row] = found[keep], score[keep]
    elif isinstance(index, ExactIndex) and len(queries) > 1 and all(mask is allowed[0] for mask in allowed):
        items, scores = index.search(queries, pool, allowed=allowed[0])
        first = [(found[found >= 0], score[found >= 0]) for found, score in zip(items, scores, strict=True)]
    results = []
    for row, query in enumerate(queries):
        size = min(pool, counts[row])
        found = first[row]
        while True:
            if found is None or len(found[0]) < size:
                found = rank_all(vectors, query, size, allowed[row])
            songs, scores = found[0][:size], found[1][:size]
            if filters.by_score_alone:
                results.append((songs[:k], scores[:k]))
                break
            picked = choose(filters, export, vectors, songs, scores, k)
            if len(picked) == k or size == counts[row]:
                results.append((songs[picked], scores[picked]))
                break
            size = min(2 * size, counts[row])
    return results
