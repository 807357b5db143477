"""The recency score: features of (user, song) at a moment, and their weighted sum.

    score(u, i) = (w_0 e_u + sum_h w_h q_h(u)) . e_i + sum_r v_r log(1 + I p_r(i | u))
                  + z . trend(i) + f . familiar(u, i)

with q_h the attention over the user's latest songs at the time scale h, p_r the distribution of a two-step walk from
what the user played to songs with the same users, artists or albums, and familiar(u, i) = 0 for a song that the user
never met. The weights are scalars: they say nothing of single users, songs or dimensions, so they hold for embeddings
trained anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from music_map.evaluation.ranking import ScoreBlock
from music_map.model.attention import pool
from music_map.recency.history import FAMILIARITY, TREND
from music_map.recency.moment import RELATIONS, WALK_HALF_LIVES, Moment

ATTENTION_HALF_LIVES = (1.0, 24.0, 168.0, 1440.0)

QUERIES = ("user", *(f"attention_{half_life:g}h" for half_life in ATTENTION_HALF_LIVES))
WALKS = tuple(f"{relation}_{half_life:g}h" for relation in RELATIONS for half_life in WALK_HALF_LIVES)
DENSE = (*QUERIES, *WALKS)
FEATURES = (*DENSE, *TREND, *FAMILIARITY)

Weights = Mapping[str, float]


class Embeddings(NamedTuple):
    """Users float32 [U, d] and songs float32 [I, d], as the encoder gives them."""

    user: jax.Array
    item: jax.Array


@jax.jit
def queries(
    embeddings: Embeddings, users: jax.Array, items: jax.Array, age: jax.Array, engagement: jax.Array
) -> jax.Array:
    """The query vectors of users: their embedding, and the attention over their latest songs at each time scale.

    The logits of the attention at half-life h are log(engagement) - ln 2 * age / h: a_j is in proportion to
    engagement_j 2^(-age_j / h).

    Args:
      embeddings: of users and songs.
      users: int32 [B].
      items, age, engagement: [B, L], see history.Latest.

    Returns:
      float32 [B, Q, d], see QUERIES.
    """
    where = (items >= 0) & (engagement > 0)
    songs = embeddings.item[jnp.maximum(items, 0)]
    strength = jnp.log(jnp.where(where, engagement, 1.0))
    heads = [pool(songs, strength - jnp.log(2.0) * age / h, where)[0] for h in ATTENTION_HALF_LIVES]
    return jnp.stack([embeddings.user[users], *heads], axis=1)


def walk_features(moment: Moment, rows: np.ndarray) -> Iterator[np.ndarray]:
    """log(1 + I p(i | u)) of each of WALKS in turn, float32 [B, I]; 1 / I is the chance of a random song."""
    starts = [np.ascontiguousarray(start[rows].toarray().T) for start in moment.walk.starts]
    for relation in moment.walk.relations:
        for start in starts:
            reached = relation.back @ (relation.into @ start)
            reached *= len(reached) / np.maximum(reached.sum(axis=0), np.float32(1e-12))
            yield np.log1p(reached, out=reached).T


def dense_features(moment: Moment, embeddings: Embeddings, rows: np.ndarray) -> np.ndarray:
    """Features of all songs for some users, float32 [len(DENSE), B, I]."""
    query = queries(embeddings, moment.users[rows], *(column[rows] for column in moment.latest))
    dots = jnp.einsum("bqd,id->qbi", query, embeddings.item, precision=jax.lax.Precision.HIGHEST)
    return np.concatenate([np.asarray(dots), np.stack(list(walk_features(moment, rows)))])


def recency_scores(moment: Moment, embeddings: Embeddings, weights: Weights) -> ScoreBlock:
    """The recency score of users of the moment.

    Args:
      moment: as of the present.
      embeddings: of the encoder, as of the present.
      weights: by feature, from fit.fit_head.
    """
    of_query = jnp.asarray([weights[name] for name in QUERIES], jnp.float32)
    of_walk = np.array([weights[name] for name in WALKS], np.float32)
    trend = jnp.asarray(moment.trend @ np.array([weights[name] for name in TREND], np.float32))
    familiar = moment.familiar
    familiarity = familiar.features @ np.array([weights[name] for name in FAMILIARITY], np.float32)
    sizes = np.diff(familiar.offsets)

    def score_block(users: np.ndarray) -> jax.Array:
        rows = moment.rows(users)
        counts = sizes[rows]
        width = 1 << max(int(counts.max(initial=1)) - 1, 0).bit_length()
        slot = np.arange(width)
        there = slot < counts[:, None]
        at = np.where(there, familiar.offsets[rows][:, None] + slot, 0)
        items = np.where(there, familiar.items[at] if len(familiar.items) else 0, -1)
        values = np.where(there, familiarity[at] if len(familiarity) else 0.0, 0.0).astype(np.float32)
        query = queries(embeddings, users, *(column[rows] for column in moment.latest))
        walk = None
        if of_walk.any():
            # One at a time: together they would take six times the memory of the scores.
            walk = sum(weight * reached for weight, reached in zip(of_walk, walk_features(moment, rows), strict=True))
        return _combine(query, of_query, embeddings.item, trend, items, values, walk)

    return score_block


@jax.jit
def _combine(
    query: jax.Array,
    of_query: jax.Array,
    item_emb: jax.Array,
    trend: jax.Array,
    items: jax.Array,
    values: jax.Array,
    walk: jax.Array | None,
) -> jax.Array:
    """The weighted sum, float32 [B, I]; `items` int32 [B, P] are the familiar songs, -1 beyond them."""
    one_query = jnp.einsum("q,bqd->bd", of_query, query, precision=jax.lax.Precision.HIGHEST)
    scores = jnp.matmul(one_query, item_emb.T, precision=jax.lax.Precision.HIGHEST) + trend[None]
    if walk is not None:
        scores += walk
    # An index of -1 would count from the end; one beyond the end is dropped.
    at = jnp.where(items >= 0, items, scores.shape[1])
    return scores.at[jnp.arange(len(items))[:, None], at].add(values, mode="drop")
