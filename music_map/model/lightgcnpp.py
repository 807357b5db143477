"""LightGCN++ (Lee, Kim, Shin: "Revisiting LightGCN", RecSys 2024, doi 10.1145/3640457.3688176).

With N(u) the neighbours of u, w the edge weights, d the degrees and ||.|| the L2 norm:

    e_u^(k+1) = sum_{i in N(u)} w_ui / (d_u^alpha * d_i^beta) * e_i^(k) / ||e_i^(k)||     (and with u, i swapped)
    e_u       = gamma * e_u^(0) + (1 - gamma) * mean_{k=1..K} e_u^(k)

The receiver's degree has the exponent alpha and the neighbour's degree beta, so the weights are not symmetric.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from music_map.model.encoder import (
    LEAST_NORM,
    Embeddings,
    Encoder,
    EncoderInputs,
    Messages,
    Params,
    Wanted,
    degree_power,
    receive,
    register,
)
from music_map.model.settings import ModelSettings


@jax.custom_vjp
def _scaled_unit(x: jax.Array, factor: jax.Array, scale: jax.Array) -> jax.Array:
    """scale * l2_normalize(factor * x). The columns factor and scale [N, 1] have no gradient.

    factor * x is never stored, and each pass reads only x and the gradient: half the memory traffic of the automatic
    gradient.
    """
    return _scaled_unit_forward(x, factor, scale)[0]


def _scaled_unit_forward(
    x: jax.Array, factor: jax.Array, scale: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    squares = factor * factor * jnp.sum(x * x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.maximum(squares, LEAST_NORM**2))
    total = scale * factor * inverse
    # d(x total) = total (dx - x (x . dx) factor^2 / ||factor x||^2); below the least norm the second term is 0.
    along = jnp.where(squares > LEAST_NORM**2, jnp.square(factor * inverse), 0.0)
    return total * x, (x, total, along)


def _scaled_unit_backward(saved: tuple[jax.Array, jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, None, None]:
    x, total, along = saved
    return total * (g - x * (along * jnp.sum(x * g, axis=-1, keepdims=True))), None, None


_scaled_unit.defvjp(_scaled_unit_forward, _scaled_unit_backward)


def _shares(params: Params, settings: ModelSettings) -> list[jax.Array]:
    """The weights of e^(0) and of the layers in the final embedding: gamma, (1 - gamma) w_1, ... with sum w = 1."""
    layers = settings.num_layers
    if layers == 0:
        return [jnp.float32(1.0)]
    if settings.adaptive:
        gamma = jax.nn.sigmoid(params["combine"]["gamma_logit"])
        weights = jax.nn.softmax(params["combine"]["layer_logits"])
    else:
        gamma, weights = jnp.float32(settings.gamma), jnp.full((layers,), 1.0 / layers, jnp.float32)
    return [gamma, *((1.0 - gamma) * weights[k] for k in range(layers))]


@register("lightgcnpp")
class LightGCNpp(Encoder):
    """The encoder of the formula above. With `adaptive`, gamma and a weight per layer are learned."""

    def init(self, key: jax.Array, settings: ModelSettings) -> Params:
        """{"combine": {"gamma_logit": [], "layer_logits": [K]}} if gamma is learned, else {}."""
        del key
        if not settings.adaptive:
            return {}
        # A sigmoid cannot start at 0 or 1: the initial gamma is clipped to [0.01, 0.99].
        start = jnp.clip(jnp.float32(settings.gamma), 0.01, 0.99)
        layer_logits = jnp.zeros((max(settings.num_layers, 1),), jnp.float32)
        return {"combine": {"gamma_logit": jnp.log(start) - jnp.log1p(-start), "layer_logits": layer_logits}}

    def apply(
        self, params: Params, inputs: EncoderInputs, settings: ModelSettings, base: Embeddings, wanted: Wanted
    ) -> Embeddings:
        # w_ui / (d_u^alpha d_i^beta) is a scaling before and one after the product with w: one stored value per edge
        # serves both directions.
        before = degree_power(inputs.adjacency, -settings.beta)
        after = degree_power(inputs.adjacency, -settings.alpha)
        first, *shares = _shares(params, settings)
        total = jax.tree.map(lambda x: first * x, wanted.base)
        # A layer is kept as two factors: the product's result [N, d] and a column that scales its rows.
        layer, factor = base, jax.tree.map(jnp.ones_like, after)
        for k, share in enumerate(shares, 1):
            sent = jax.tree.map(_scaled_unit, layer, factor, before)
            last = k == settings.num_layers
            layer, factor = receive(inputs, settings, sent, wanted.rows if last else None), after
            received = layer if last else wanted.of(layer)
            total = jax.tree.map(lambda t, f, y, w=share: t + w * f * y, total, wanted.of(after), received)
        return total

    def messages(self, params: Params, inputs: EncoderInputs, settings: ModelSettings, base: Embeddings) -> Messages:
        """items_i = sum_k (share of layer k + 1) d_i^-beta e_i^(k) / ||e_i^(k)||; power = -alpha, base = gamma."""
        before = degree_power(inputs.adjacency, -settings.beta)
        after = degree_power(inputs.adjacency, -settings.alpha)
        first, *shares = _shares(params, settings)
        layer, factor, total = base, jax.tree.map(jnp.ones_like, after), jnp.zeros_like(base.item)
        for k, share in enumerate(shares, 1):
            sent = jax.tree.map(_scaled_unit, layer, factor, before)
            total += share * sent.item
            if k < settings.num_layers:
                layer, factor = receive(inputs, settings, sent), after
        return Messages(total, jnp.float32(-settings.alpha), first)
