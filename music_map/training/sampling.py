"""Drawing training pairs and negatives on the device: pure functions of a random key.

A batch depends on (seed, step) alone, so a resumed run draws the same batches as an uninterrupted one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from music_map.axis import WHOLE, NodeLayout
from music_map.graph.bipartite import BipartiteGraph
from music_map.losses.settings import LOSSES, LossSettings
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import Csr

# Uniform candidates per user for a song that the user has not heard. All 16 have been heard with probability
# (share of songs heard)^16.
_TRIES = 16


class Positives(NamedTuple):
    """How training pairs are drawn.

    Attributes:
      users: int32 [A], the users with at least one edge, drawn uniformly. None: users are drawn in proportion to their
        number of edges.
      cumulative: float32 [E], the running share of edge weight within each user's row. None: edges are drawn uniformly.
    """

    users: jax.Array | None
    cumulative: jax.Array | None


class Dislikes(NamedTuple):
    """Pairs of users and songs they dislike, and how much: int32 [M], int32 [M], float32 [M]; M may be 0."""

    user: jax.Array
    item: jax.Array
    weight: jax.Array


class Batch(NamedTuple):
    """What a step draws: integers, the same on all devices. Each device scores its own share of the rows.

    Attributes:
      users, items: int32 [B], the observed pairs.
      negatives: int32, as the loss declares: [B], for each user a song not played; [N], songs that all rows share; or
        [I], all songs in order.
      log_correction: float32 [N], see `draw_negatives`; None unless negatives are shared.
      dislikes: B negative edges; None if they are not trained on.
    """

    users: jax.Array
    items: jax.Array
    negatives: jax.Array
    log_correction: jax.Array | None
    dislikes: Dislikes | None


class SampleData(NamedTuple):
    """The sampling tables, which the draws read besides the adjacency.

    Attributes:
      positives: how pairs are drawn.
      item_probability: float32 [I], probability that a drawn pair contains the song.
      dislikes: negative edges.
    """

    positives: Positives
    item_probability: jax.Array
    dislikes: Dislikes


def user_probability(degree: np.ndarray, users: str) -> np.ndarray:
    """Probability that a drawn pair contains the user: float64 [U].

    Args:
      degree: int [U], edges of each user.
      users: "uniform" or "degree", see `sample_data`.
    """
    return degree / degree.sum() if users == "degree" else (degree > 0) / np.count_nonzero(degree)


def sample_data(graph: BipartiteGraph, *, users: str, items: str) -> SampleData:
    """Prepares the sampling tables.

    Args:
      graph: the bipartite graph.
      users: "uniform": every user with edges is equally likely; "degree": in proportion to the number of edges.
      items: "uniform": every edge of the user is equally likely; "weight": in proportion to the edge weight.
    """
    degree = np.diff(graph.user_offsets)
    weight = graph.weight.astype(np.float64) if items == "weight" else np.ones(len(graph.weight))
    share = weight / np.bincount(graph.user, weight, len(degree))[graph.user]
    active = np.flatnonzero(degree)
    num_items = len(graph.item_offsets) - 1
    item_probability = np.bincount(graph.item, share * user_probability(degree, users)[graph.user], num_items)
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
    size, at = values.shape[0], low
    # The loop carries a single number, so XLA fuses the unrolled search into a few kernels.
    for step in (1 << k for k in reversed(range(size.bit_length()))):
        ahead = at + step  # negative where it exceeds int32
        below = (ahead > at) & (ahead <= high) & (values[jnp.clip(ahead - 1, 0, size - 1)] < wanted)
        at = jnp.where(below, ahead, at)
    return at


def observed(edges: Csr, users: jax.Array, items: jax.Array, layout: NodeLayout = WHOLE) -> jax.Array:
    """Whether (user, item) is an edge, by binary search in the user's row. bool, shape of `users`."""
    rows, here = layout.user_rows(users, edges.offsets.shape[0] - 1)
    low, high = edges.offsets[rows], edges.offsets[rows + 1]
    # Songs ascend within a row. This also holds where columns are slots, although slots do not ascend.
    columns = layout.items_at(edges.columns)
    at = _lower_bound(columns, low, high, items)
    found = here & (at < high) & (columns[jnp.minimum(at, columns.shape[0] - 1)] == items)
    return layout.axis.sum(found.astype(jnp.int32)) > 0 if layout.partitioned else found


def observed_block(
    edges: Csr, users: jax.Array, items: jax.Array, num_items: int, layout: NodeLayout = WHOLE
) -> jax.Array:
    """Whether each user in this device's part of a batch has an edge to each song: bool [ceil(B / n), N].

    This takes one pass over all edges and costs about 1/d of a propagation of d dimensions. Binary searches for all
    B x N pairs would cost more than the step itself.

    Args:
      edges: users' edges.
      users: int32 [B]; repeats are allowed.
      items: int32 [N]; repeats are allowed.
      num_items: I.
      layout: where rows lie; the device that has a partitioned row fills it in.
    """
    num_users, axis = edges.offsets.shape[0] - 1, layout.axis
    at, here = layout.user_rows(axis.filled(users) if layout.partitioned else axis.share(users), num_users)
    columns = layout.items_at(edges.columns)
    rows, width = at.shape[0], items.shape[0]
    # The first occurrence of a repeated node stands for all. Nodes outside the batch get an index beyond the block and
    # are dropped.
    first = jnp.arange(rows, dtype=jnp.int32)
    # Padding entries have the row num_users: no row of the batch.
    row_of = jnp.full((num_users + 1,), rows, jnp.int32)
    row_of = row_of.at[at].min(jnp.where(here, first, rows))
    column_of = jnp.full((num_items,), width, jnp.int32).at[items].min(jnp.arange(width, dtype=jnp.int32))
    block = jnp.zeros((width, rows), bool).at[column_of[columns], row_of[edges.rows]].set(True, mode="drop")
    # Both gathers take whole rows: gathering single elements is ten times slower on a CPU.
    block = block[column_of[items]].T[jnp.minimum(row_of[at], rows - 1)]
    return axis.scatter((block & here[:, None]).astype(jnp.int8)) > 0 if layout.partitioned else block


def draw_positives(
    key: jax.Array, edges: Csr, positives: Positives, batch_size: int, layout: NodeLayout = WHOLE
) -> tuple[jax.Array, jax.Array]:
    """Draws observed pairs with replacement: users int32 [B], songs int32 [B]. The layout does not change the pairs."""
    user_key, item_key = jax.random.split(key)
    if layout.partitioned:
        return _draw_partitioned(user_key, item_key, edges, positives, batch_size, layout)
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


def _draw_partitioned(
    user_key: jax.Array,
    item_key: jax.Array,
    edges: Csr,
    positives: Positives,
    batch_size: int,
    layout: NodeLayout,
) -> tuple[jax.Array, jax.Array]:
    """All devices draw the same users and positions; the device that has a user's row looks up the song there."""
    if positives.users is None:
        at = jax.random.randint(user_key, (batch_size,), 0, layout.user_offsets[-1])
        users = jnp.searchsorted(layout.user_offsets, at, side="right").astype(jnp.int32) - 1
        place = at - layout.user_offsets[users]
    else:
        users = positives.users[jax.random.randint(user_key, (batch_size,), 0, positives.users.shape[0])]
        place = None
    if positives.cumulative is None and place is None:
        place = jax.random.randint(item_key, (batch_size,), 0, layout.user_edges[users])
    rows, here = layout.user_rows(users, edges.offsets.shape[0] - 1)
    low, high = edges.offsets[rows], edges.offsets[rows + 1]
    if positives.cumulative is None:
        at = low + place
    else:
        at = _lower_bound(positives.cumulative, low, high, jax.random.uniform(item_key, (batch_size,)))
    at = jnp.clip(at, low, jnp.maximum(high - 1, low))
    songs = layout.items_at(edges.columns[jnp.minimum(at, edges.columns.shape[0] - 1)])
    return users, layout.axis.sum(jnp.where(here, songs, 0))


def draw_unobserved(
    key: jax.Array, edges: Csr, users: jax.Array, num_items: int, layout: NodeLayout = WHOLE
) -> jax.Array:
    """Draws, for each user, one song uniformly from those without an edge to the user. int32 [B].

    Candidates are drawn in rounds until all users have a song. On sparse graphs one round is nearly always enough.
    """
    candidates = jax.random.randint(key, (_TRIES, users.shape[0]), 0, num_items)

    def again(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        tries, _, taken = carry
        return (tries < _TRIES) & taken.any()

    def look_up(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        tries, songs, taken = carry
        heard = observed(edges, users, candidates[tries], layout)
        return tries + 1, jnp.where(taken & ~heard, candidates[tries], songs), taken & heard

    return jax.lax.while_loop(again, look_up, (jnp.int32(0), candidates[0], jnp.ones(users.shape, bool)))[1]


def draw_negatives(
    key: jax.Array, positives: jax.Array, item_probability: jax.Array, settings: LossSettings
) -> tuple[jax.Array, jax.Array]:
    """Draws the negatives that a batch shares.

    With N_u uniform and N_b in-batch samples, song j is drawn with the mixture's probability
    q_j = (N_u / I + N_b p_j) / (N_u + N_b), where p_j is the song's probability in a training pair. "mixed" takes half
    of its samples from the batch, or the whole batch if it is smaller.

    Args:
      key: random key.
      positives: int32 [B], the batch's songs.
      item_probability: float32 [I].
      settings: the kind and number of samples.

    Returns:
      songs int32 [N] and log(I q_j) float32 [N], which is 0 if all draws are uniform.
    """
    num_items = item_probability.shape[0]
    batch = positives.shape[0]
    num_in_batch = {"uniform": 0, "in_batch": batch, "mixed": min(batch, settings.num_negatives // 2)}[
        settings.negatives
    ]
    num_uniform = 0 if settings.negatives == "in_batch" else settings.num_negatives - num_in_batch
    drawn = jax.random.randint(key, (num_uniform,), 0, num_items)
    # The rows of a batch are drawn independently, so its first rows are a random sample.
    songs = jnp.concatenate([drawn, positives[:num_in_batch]])
    in_batch_share = num_in_batch / songs.shape[0]
    q = (1.0 - in_batch_share) + in_batch_share * num_items * item_probability[songs]
    return songs, jnp.log(q)


def draw(keys: jax.Array, inputs: EncoderInputs, data: SampleData, loss: LossSettings, batch_size: int) -> Batch:
    """Draws a batch from three keys: pairs, the negatives that the loss declares, and dislikes if they are used."""
    positive_key, negative_key, dislike_key = keys
    edges, layout, num_items = inputs.adjacency.users_from_items.forward, inputs.layout, data.item_probability.shape[0]
    users, items = draw_positives(positive_key, edges, data.positives, batch_size, layout)
    log_correction = dislikes = None
    against = LOSSES.find(loss.name).negatives
    if against == "one":
        negatives = draw_unobserved(negative_key, edges, users, num_items, layout)
    elif against == "shared":
        negatives, log_correction = draw_negatives(negative_key, items, data.item_probability, loss)
    else:
        negatives = jnp.arange(num_items, dtype=items.dtype)
    if loss.explicit_negative_weight and data.dislikes.user.shape[0]:
        at = jax.random.randint(dislike_key, (batch_size,), 0, data.dislikes.user.shape[0])
        dislikes = Dislikes(*(values[at] for values in data.dislikes))
    return Batch(users, items, negatives, log_correction, dislikes)
