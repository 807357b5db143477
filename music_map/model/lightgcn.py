"""LightGCN (He et al.: "LightGCN", SIGIR 2020, doi 10.1145/3397271.3401063).

e_u^(k+1) = sum_{i in N(u)} w_ui / sqrt(d_u d_i) * e_i^(k)     (and with u, i swapped)
e_u       = mean_{k=0..K} e_u^(k)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from music_map.model.encoder import (
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


@register("lightgcn")
class LightGCN(Encoder):
    """The encoder of the formula above; it has no parameters of its own."""

    def apply(
        self, params: Params, inputs: EncoderInputs, settings: ModelSettings, base: Embeddings, wanted: Wanted
    ) -> Embeddings:
        del params
        scale = degree_power(inputs.adjacency, -0.5)
        layer, total = base, wanted.base
        for k in range(1, settings.num_layers + 1):
            sent = jax.tree.map(lambda s, x: s * x, scale, layer)
            if k < settings.num_layers:
                layer = jax.tree.map(lambda s, y: s * y, scale, receive(inputs, settings, sent))
                received = wanted.of(layer)
            else:
                received = receive(inputs, settings, sent, wanted.rows)
                received = jax.tree.map(lambda s, y: s * y, wanted.of(scale), received)
            total = jax.tree.map(lambda t, y: t + y, total, received)
        return jax.tree.map(lambda t: t / (settings.num_layers + 1), total)

    def messages(self, params: Params, inputs: EncoderInputs, settings: ModelSettings, base: Embeddings) -> Messages:
        """items_i = 1 / (K + 1) sum_{k < K} e_i^(k) / sqrt(d_i); power = -1/2, base = 1 / (K + 1)."""
        del params
        scale = degree_power(inputs.adjacency, -0.5)
        layer, total, share = base, jnp.zeros_like(base.item), 1.0 / (settings.num_layers + 1)
        for k in range(1, settings.num_layers + 1):
            sent = jax.tree.map(lambda s, x: s * x, scale, layer)
            total += share * sent.item
            if k < settings.num_layers:
                layer = jax.tree.map(lambda s, y: s * y, scale, receive(inputs, settings, sent))
        return Messages(total, jnp.float32(-0.5), jnp.float32(share))
