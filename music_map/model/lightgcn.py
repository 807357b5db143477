"""LightGCN++ (Lee, Kim, Shin: "Revisiting LightGCN", RecSys 2024, doi 10.1145/3640457.3688176) as pure functions.

With N(u) the neighbours of u, w the edge weights, d the degrees and ||.|| the L2 norm:

    e_u^(k+1) = sum_{i in N(u)} w_ui / (d_u^alpha * d_i^beta) * e_i^(k) / ||e_i^(k)||     (and with u, i swapped)
    e_u       = gamma * e_u^(0) + (1 - gamma) * mean_{k=1..K} e_u^(k)

The receiver's degree takes the power alpha and the neighbour's beta, so the weights are not symmetric.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from music_map.axis import NAME, ONE, Axis
from music_map.model import fusion
from music_map.model.propagation import Adjacency, spmm, spmm_rows
from music_map.model.settings import ModelSettings

Params = dict[str, Any]


class Layout(NamedTuple):
    """Where nodes lie when their rows are partitioned over devices: a slot for each node, and empty slots.

    Attributes:
      user_slot: int32 [U].
      item_slot: int32 [I].
      slot_item: int32 [slots], the song of each slot; I for an empty one.
      user_edges: int32 [U], number of edges of each user.
      user_offsets: int32 [U + 1], their running sum; None where it does not fit int32.
    """

    user_slot: jax.Array
    item_slot: jax.Array
    slot_item: jax.Array
    user_edges: jax.Array
    user_offsets: jax.Array | None


class Inputs(NamedTuple):
    """What the encoder reads besides its parameters: the graph and the songs' features, on the device.

    Attributes:
      adjacency: the bipartite graph.
      features: the songs' features, or None where id embeddings are all there is.
      layout: None where one device has all rows. Otherwise rows are slots, and these are this device's.
    """

    adjacency: Adjacency
    features: fusion.Features | None
    layout: Layout | None = None

    def items_here(self) -> jax.Array:
        """The songs of this device's slots, I for an empty one: int32 [R]."""
        rows = self.adjacency.item_degree.shape[0]
        if self.layout is None:
            return jnp.arange(rows, dtype=jnp.int32)
        return jax.lax.dynamic_slice_in_dim(self.layout.slot_item, jax.lax.axis_index(NAME) * rows, rows)


# Where only directions matter (gamma = 0), l2 shrinks an embedding without end, until its squares underflow.
_LEAST_NORM = 1e-4


def l2_normalize(x: jax.Array) -> jax.Array:
    """x / max(||x||, 1e-4) along the last axis; a zero row stays zero.

    The gradient of a plain norm is NaN at zero, where nodes without edges are from the first layer on.
    """
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, _LEAST_NORM**2))


def _power(degree: jax.Array, exponent: float) -> jax.Array:
    """degree^exponent as a column; 0 for nodes without edges. float32 [N, 1]."""
    positive = degree > 0
    return jnp.where(positive, jnp.where(positive, degree, 1.0) ** exponent, 0.0)[:, None]


def init(key: jax.Array, settings: ModelSettings, *, num_users: int, num_items: int, inputs: Inputs) -> Params:
    """Draws the parameters.

    Args:
      key: JAX random key.
      settings: the encoder.
      num_users, num_items: U and I.
      inputs: its features set the shapes of the fusion.

    Returns:
      {"user": [U, d], "item": [I, d]} ~ N(0, init_std^2), float32; "fusion" where there are features;
      "combine" {"gamma_logit": [], "layer_logits": [K]} where gamma is learned.
    """
    user_key, item_key, fusion_key = jax.random.split(key, 3)
    d = settings.embedding_dim
    params: Params = {
        "user": settings.init_std * jax.random.normal(user_key, (num_users, d), jnp.float32),
        "item": settings.init_std * jax.random.normal(item_key, (num_items, d), jnp.float32),
    }
    if inputs.features is not None:
        params["fusion"] = fusion.init(fusion_key, inputs.features, embedding_dim=d, init_std=settings.init_std)
    if settings.adaptive:
        # A sigmoid cannot start at 0 or 1: gamma is kept within [0.01, 0.99].
        start = jnp.clip(jnp.float32(settings.gamma), 0.01, 0.99)
        params["combine"] = {
            "gamma_logit": jnp.log(start) - jnp.log1p(-start),
            "layer_logits": jnp.zeros((max(settings.num_layers, 1),), jnp.float32),
        }
    return params


def known_songs(inputs: Inputs, settings: ModelSettings, dropout_key: jax.Array | None) -> jax.Array:
    """Songs with a train edge, less those that `dropout_key` leaves out in a training step: bool [I]."""
    known = inputs.adjacency.item_degree > 0
    if inputs.features is None or dropout_key is None or settings.id_dropout == 0:
        return known
    num_items = known.shape[0] if inputs.layout is None else inputs.layout.item_slot.shape[0]
    kept = jax.random.bernoulli(dropout_key, 1.0 - settings.id_dropout, (num_items,))
    return known & (kept if inputs.layout is None else kept.at[inputs.items_here()].get(mode="fill", fill_value=False))


def base_embeddings(
    params: Params, inputs: Inputs, settings: ModelSettings, known: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """e^(0) of users [U, d] and songs [I, d]; see `known_songs`."""
    if inputs.features is None:
        return params["user"], params["item"]
    # A song without a train edge never trained its id embedding: only its features speak for it.
    content = fusion.apply(params["fusion"], inputs.features, known, backend=settings.backend)
    return params["user"], params["item"] * known[:, None] + content


def combine_weights(params: Params, settings: ModelSettings) -> tuple[jax.Array, jax.Array]:
    """gamma [] and the weights of the layers [K], which sum to 1."""
    layers = max(settings.num_layers, 1)
    if not settings.adaptive:
        return jnp.float32(settings.gamma), jnp.full((layers,), 1.0 / layers, jnp.float32)
    return jax.nn.sigmoid(params["combine"]["gamma_logit"]), jax.nn.softmax(params["combine"]["layer_logits"])


class _Scales(NamedTuple):
    """What rows are multiplied by before a product ("in") and after it ("out"): columns [U, 1] or [I, 1]."""

    user_in: jax.Array
    user_out: jax.Array
    item_in: jax.Array
    item_out: jax.Array


def _scales(adjacency: Adjacency, settings: ModelSettings, known: jax.Array) -> _Scales:
    # w_ui / (d_u^alpha d_i^beta) as two scalings about the raw product: one stored value serves both directions.
    item_degree = jnp.where(known, adjacency.item_degree, 0.0)
    item_out = _power(item_degree, -settings.alpha)
    return _Scales(
        _power(adjacency.user_degree, -settings.beta),
        _power(adjacency.user_degree, -settings.alpha),
        _power(item_degree, -settings.beta),
        item_out if adjacency.item_scale is None else adjacency.item_scale * item_out,
    )


@jax.custom_vjp
def _scaled_unit(x: jax.Array, factor: jax.Array, scale: jax.Array) -> jax.Array:
    """scale * l2_normalize(factor * x); of factor and scale, columns [N, 1], there is no gradient.

    factor * x is never written down, and neither pass over the rows waits for anything but x and the gradient: half the
    memory traffic of the automatic gradient.
    """
    return _scaled_unit_forward(x, factor, scale)[0]


def _scaled_unit_forward(
    x: jax.Array, factor: jax.Array, scale: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    squares = factor * factor * jnp.sum(x * x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.maximum(squares, _LEAST_NORM**2))
    total = scale * factor * inverse
    # d(x total) = total (dx - x (x . dx) factor^2 / ||factor x||^2), without the second part below the least norm.
    along = jnp.where(squares > _LEAST_NORM**2, jnp.square(factor * inverse), 0.0)
    return total * x, (x, total, along)


def _scaled_unit_backward(saved: tuple[jax.Array, jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, None, None]:
    x, total, along = saved
    return total * (g - x * (along * jnp.sum(x * g, axis=-1, keepdims=True))), None, None


_scaled_unit.defvjp(_scaled_unit_forward, _scaled_unit_backward)


class _Layer(NamedTuple):
    """Layer k of users and songs as what the product gave [N, d] and what it is to be multiplied by [N, 1]."""

    user: jax.Array
    user_factor: jax.Array
    item: jax.Array
    item_factor: jax.Array


def _layers(
    inputs: Inputs,
    settings: ModelSettings,
    user0: jax.Array,
    item0: jax.Array,
    scales: _Scales,
    num_layers: int,
    axis: Axis,
) -> list[_Layer]:
    """e^(0) and the first `num_layers` layers."""
    matrix = inputs.adjacency.users_from_items
    layers = [_Layer(user0, jnp.ones_like(scales.user_in), item0, jnp.ones_like(scales.item_in))]
    for _ in range(num_layers):
        from_users, from_items = _sent(layers[-1], scales, settings)
        user = spmm(matrix, from_items, settings.backend, axis)
        item = spmm(matrix.T, from_users, settings.backend, axis)
        layers.append(_Layer(user, scales.user_out, item, scales.item_out))
    return layers


def _sent(layer: _Layer, scales: _Scales, settings: ModelSettings) -> tuple[jax.Array, jax.Array]:
    """What users and songs send to their neighbours."""
    from_users = _scaled_unit(layer.user, layer.user_factor, scales.user_in)
    from_items = _scaled_unit(layer.item, layer.item_factor, scales.item_in)
    return from_users.astype(settings.storage), from_items.astype(settings.storage)


def _shares(params: Params, settings: ModelSettings) -> list[jax.Array]:
    """The weights of e^(0) and of the layers in the final embedding: gamma, (1 - gamma) w_1, ..."""
    if settings.num_layers == 0:
        return [jnp.float32(1.0)]
    gamma, layer_weights = combine_weights(params, settings)
    return [gamma, *((1.0 - gamma) * layer_weights[k] for k in range(settings.num_layers))]


def apply(
    params: Params,
    inputs: Inputs,
    settings: ModelSettings,
    dropout_key: jax.Array | None = None,
    axis: Axis = ONE,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """Encodes all users and songs.

    Args:
      params: from `init`.
      inputs: graph and features.
      settings: the encoder; static under jit, with a resolved backend (not "auto").
      dropout_key: random key of a training step, None otherwise.
      axis: the devices that share the rows; U and I below are then this device's slots.

    Returns:
      (user embeddings [U, d], song embeddings [I, d], (e^(0) of users [U, d], of songs [I, d])), float32.
    """
    known = known_songs(inputs, settings, dropout_key)
    user0, item0 = base_embeddings(params, inputs, settings, known)
    scales = _scales(inputs.adjacency, settings, known)
    layers = _layers(inputs, settings, user0, item0, scales, settings.num_layers, axis)
    shares = _shares(params, settings)
    user = sum(share * layer.user_factor * layer.user for share, layer in zip(shares, layers, strict=True))
    item = sum(share * layer.item_factor * layer.item for share, layer in zip(shares, layers, strict=True))
    if settings.score == "cosine":
        user, item = l2_normalize(user), l2_normalize(item)
    return user, item, (user0, item0)


def apply_rows(
    params: Params,
    inputs: Inputs,
    settings: ModelSettings,
    users: jax.Array,
    items: jax.Array,
    dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """The rows of `apply` that a batch needs: the last layer is propagated to these alone.

    Args:
      params, inputs, settings, dropout_key: as for `apply`; all rows are on this device.
      users: int32 [B], repeats allowed.
      items: int32 [N], likewise.

    Returns:
      (user embeddings [B, d], song embeddings [N, d], (e^(0) of the users [B, d], of the songs [N, d])), float32.
    """
    known = known_songs(inputs, settings, dropout_key)
    user0, item0 = base_embeddings(params, inputs, settings, known)
    scales = _scales(inputs.adjacency, settings, known)
    layers = _layers(inputs, settings, user0, item0, scales, max(settings.num_layers - 1, 0), ONE)
    shares = _shares(params, settings)
    # Rows are taken of each layer, not of their sum: then no gradient of the whole sum is written down.
    user_rows, item_rows = user0[users], item0[items]
    user, item = shares[0] * user_rows, shares[0] * item_rows
    for share, layer in zip(shares[1:-1], layers[1:], strict=True):
        user += share * layer.user_factor[users] * layer.user[users]
        item += share * layer.item_factor[items] * layer.item[items]
    if settings.num_layers:
        from_users, from_items = _sent(layers[-1], scales, settings)
        matrix, backend = inputs.adjacency.users_from_items, settings.backend
        user += shares[-1] * scales.user_out[users] * spmm_rows(matrix, from_items, users, backend)
        item += shares[-1] * scales.item_out[items] * spmm_rows(matrix.T, from_users, items, backend)
    if settings.score == "cosine":
        user, item = l2_normalize(user), l2_normalize(item)
    return user, item, (user_rows, item_rows)
