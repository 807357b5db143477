"""The cost of quantisation: recommendations from quantised vectors compared with those from exact ones."""

from __future__ import annotations

import dataclasses

import numpy as np

from music_map.map.quantise import dequantise, worst_error
from music_map.playlist.heads import Heads
from music_map.playlist.space import PLAIN
from music_map.retrieval.export import Export
from music_map.retrieval.filters import Filters
from music_map.retrieval.recommender import Query, Recommender


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Comparison on sample queries: half are single songs, half playlists of five songs of one cluster.

    Attributes:
      num_queries: of the sample.
      same_top_10: share of the ten best by the vectors that are among the ten best by the quantised ones.
      worst_score_error: greatest difference between the two scores of a song that is in both lists.
      worst_vector_error: greatest distance between the two vectors of a song.
    """

    num_queries: int
    same_top_10: float
    worst_score_error: float
    worst_vector_error: float


def recommender_of(
    export: Export, vectors: np.ndarray, heads: Heads, filters: Filters, *, dislike_push: float
) -> Recommender:
    """A recommender as the page is: over vectors of the playlist space, float32 [I, d]; no users, no companions."""
    bare = export._replace(
        item_embeddings=np.asarray(vectors, np.float32),
        user_ids=export.user_ids[:0],
        user_embeddings=np.zeros((0, vectors.shape[1]), np.float32),
    )
    heads = heads._replace(space=PLAIN)
    return Recommender(bare, index="exact", heads=heads, filters=filters, dislike_push=dislike_push)


def agreement(
    export: Export,
    vectors: np.ndarray,
    codes: np.ndarray,
    clusters: np.ndarray,
    heads: Heads,
    filters: Filters,
    *,
    num_queries: int = 200,
    seed: int = 0,
) -> Agreement:
    """Measures the agreement, see Agreement and `music_map.map.quantise`.

    Args:
      export: of the songs.
      vectors: float32 [I, d], unit rows of the playlist space.
      codes: int8 or int16 [I, d], of those.
      clusters: int32 [I].
      heads: of the playlist attention.
      filters: of the recommendations.
      num_queries: at most.
      seed: of the sample.
    """
    rng = np.random.default_rng(seed)
    queries = []
    for song in rng.permutation(len(vectors))[:num_queries]:
        alike = np.flatnonzero(clusters == clusters[song])
        songs = [song] if len(queries) % 2 else rng.choice(alike, min(5, len(alike)), replace=False)
        queries.append(Query(tuple(int(export.item_ids[s]) for s in songs)))
    answers = [
        recommender_of(export, rows, heads, filters, dislike_push=0.0).recommend_batch(queries, k=10, explain=False)
        for rows in (vectors, dequantise(codes))
    ]
    same, total, error = 0, 0, 0.0
    for exact, coarse in zip(*answers, strict=True):
        found = {r.item_id: r.score for r in coarse.recommendations}
        shared = [(r.score, found[r.item_id]) for r in exact.recommendations if r.item_id in found]
        same, total = same + len(shared), total + len(exact.recommendations)
        error = max([error, *(abs(a - b) for a, b in shared)])
    return Agreement(len(queries), same / max(total, 1), float(error), worst_error(vectors, codes))
