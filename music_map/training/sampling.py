"""Drawing training pairs and negatives on the device; everything is a function of a key, nothing is state.

A batch depends on (seed, step) alone, so a resumed run draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from music_map.graph.bipartite import BipartiteGraph
from music_map.losses.settings import LossSettings
from music_map.model.propagation import Csr

# Uniform candidates per row for a song the user has not heard; all are heard with probability (share heard)^16.
_TRIES = 16


class Positives(NamedTuple):
    """How training pairs are drawn.

    Attributes:
      users: int32 [A], users with at least one edge, or None: users in proportion to their number of edges.
      cumulative: float32 [E], within each user's row the running share of edge weight, or None: edges uniformly.
    """

    users: jax.Array | None
    cumulative: jax.Array | None


class Dislikes(NamedTuple):
    """Negative edges on the device: int32 [M], int32 [M], float32 [M]; M may be 0."""

    user: jax.Array
    item: jax.Array
    weight: jax.Array


class SampleData(NamedTuple):
    """What sampling reads besides the adjacency.

    Attributes:
      positives: how pairs are drawn.
      item_probability: float32 [I], probability that a drawn pair has the song.
      dislikes: negative edges.
    """

    positives: Positives
    item_probability: jax.Array
    dislikes: Dislikes


def sample_data(graph: BipartiteGraph, *, users: str, items: str) -> SampleData:
    """Prepares the sampling tables.

    Args:
      graph: the bipartite graph.
      users: "uniform": every user with edges alike; "degree": in proportion to the number of edges.
      items: "uniform": every edge of the user alike; "weight": in proportion to the edge weight.
    """
    degree = np.diff(graph.user_offsets)
    weight = graph.weight.astype(np.float64) if items == "weight" else np.ones(len(graph.weight))
    row_total = np.bincount(graph.user, weight, len(degree))
    share = weight / row_total[graph.user]
    active = np.flatnonzero(degree)
    user_probability = degree / degree.sum() if users == "degree" else (degree > 0) / len(active)
    num_items = len(graph.item_offsets) - 1
    item_probability = np.bincount(graph.item, share * user_probability[graph.user], num_items)
    cumulative = None
    if items == "weight":
        total = np.cumsum(share)
        before = np.concatenate([[0.0], total])[graph.user_offsets[:-1]]
        cumulative = jnp.asarray(total - before[graph.user], jnp.float32)
    return SampleData(
        Positives(jnp.asarray(active, jnp.int32) if users == "uniform" else None, cumulative),
        jnp.asarray(item_probability, jnp.float32),
        Dislikes(*map(jnp.asarray, (graph.negative_user, graph.negative_item, graph.negative_weight))),
    )


def _lower_bound(values: jax.Array, low: jax.Array, high: jax.Array, wanted: jax.Array) -> jax.Array:
    """First position p in [low, high) with values[p] >= wanted, else high; values ascend within each range."""
    steps = int(values.shape[0]).bit_length()

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        right = (low < high) & (values[jnp.minimum(middle, values.shape[0] - 1)] < wanted)
        return jnp.where(right, middle + 1, low), jnp.where(right | (low >= high), high, middle)

    return jax.lax.fori_loop(0, steps, halve, (low, high))[0]


def observed(edges: Csr, users: jax.Array, items: jax.Array) -> jax.Array:
    """Whether (user, item) is an edge, by binary search in the user's row. bool, shape of `users`."""
    low, high = edges.offsets[users], edges.offsets[users + 1]
    at = _lower_bound(edges.columns, low, high, items)
    return (at < high) & (edges.columns[jnp.minimum(at, edges.columns.shape[0] - 1)] == items)


def observed_block(edges: Csr, users: jax.Array, items: jax.Array, num_items: int) -> jax.Array:
    """Whether each user has an edge to each song: bool [B, N].

    One pass over all edges, which costs about 1/d of a propagation of d dimensions; binary searches for all B x N pairs
    would cost more than the step itself.

    Args:
      edges: users' edges.
      users: int32 [B]; repeats are allowed.
      items: int32 [N]; repeats are allowed.
      num_items: I.
    """
    num_users = edges.offsets.shape[0] - 1
    rows, columns = users.shape[0], items.shape[0]
    # Of repeats the first stands for all; what is not in the batch lies outside the block and is dropped.
    # Padding entries have the row num_users: no row of the batch.
    row_of = jnp.full((num_users + 1,), rows, jnp.int32).at[users].min(jnp.arange(rows, dtype=jnp.int32))
    column_of = jnp.full((num_items,), columns, jnp.int32).at[items].min(jnp.arange(columns, dtype=jnp.int32))
    block = jnp.zeros((columns, rows), bool).at[column_of[edges.columns], row_of[edges.rows]].set(True, mode="drop")
    # Whole rows are gathered both times: single elements would take a CPU ten times as long.
    return block[column_of[items]].T[row_of[users]]


def draw_positives(key: jax.Array, edges: Csr, positives: Positives, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Draws observed pairs with replacement: users int32 [B], songs int32 [B]."""
    user_key, item_key = jax.random.split(key)
    num_edges = edges.columns.shape[0]
    if positives.users is None:
        at = jax.random.randint(user_key, (batch_size,), 0, num_edges)
        users = edges.rows[at]
        if positives.cumulative is None:
            return users, edges.columns[at]
    else:
        users = positives.users[jax.random.randint(user_key, (batch_size,), 0, positives.users.shape[0])]
    low, high = edges.offsets[users], edges.offsets[users + 1]
    if positives.cumulative is None:
        at = jax.random.randint(item_key, (batch_size,), low, high)
    else:
        at = _lower_bound(positives.cumulative, low, high, jax.random.uniform(item_key, (batch_size,)))
        at = jnp.minimum(at, high - 1)
    return users, edges.columns[at]


def draw_unobserved(key: jax.Array, edges: Csr, users: jax.Array, num_items: int) -> jax.Array:
    """For each user one song drawn uniformly from those that are no edge of the user. int32 [B]."""
    candidates = jax.random.randint(key, (_TRIES, users.shape[0]), 0, num_items)
    taken = observed(edges, jnp.broadcast_to(users, candidates.shape), candidates)
    first = jnp.argmin(taken, axis=0)
    return jnp.take_along_axis(candidates, first[None, :], axis=0)[0]


def draw_negatives(
    key: jax.Array, positives: jax.Array, item_probability: jax.Array, settings: LossSettings
) -> tuple[jax.Array, jax.Array]:
    """Draws the negatives that a batch shares.

    With N_u uniform and N_b in-batch samples, song j is drawn with the mixture's probability
    q_j = (N_u / I + N_b p_j) / (N_u + N_b), p_j the probability of the song in a training pair. "mixed" takes half of
    its samples from the batch, or the whole batch where that is less.

    Args:
      key: random key.
      positives: int32 [B], the batch's songs.
      item_probability: float32 [I].
      settings: says which samples and how many.

    Returns:
      songs int32 [N] and log(I q_j) float32 [N], 0 where all draws are uniform.
    """
    num_items = item_probability.shape[0]
    batch = positives.shape[0]
    num_in_batch = {"uniform": 0, "in_batch": batch, "mixed": min(batch, settings.num_negatives // 2)}[
        settings.negatives
    ]
    num_uniform = 0 if settings.negatives == "in_batch" else settings.num_negatives - num_in_batch
    drawn = jax.random.randint(key, (num_uniform,), 0, num_items)
    # The batch's rows are drawn independently of each other: its first ones are as good a sample as any.
    songs = jnp.concatenate([drawn, positives[:num_in_batch]])
    in_batch_share = num_in_batch / songs.shape[0]
    q = (1.0 - in_batch_share) + in_batch_share * num_items * item_probability[songs]
    return songs, jnp.log(q)
