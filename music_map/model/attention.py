"""Attention over a set of songs: the query of a playlist, and of the songs that a user played last."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def pool(songs: jax.Array, logits: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Attention-weighted mean of songs.

        a = softmax(logits) over the songs without the padding,  q = sum_i a_i e_i

    Args:
      songs: float32 [..., n, d].
      logits: float32 [..., n].
      where: bool [..., n], False for padding.

    Returns:
      (q float32 [..., d], a float32 [..., n] that sums to 1 and is 0 on padding); all zeros if there is no song.
    """
    weights = jax.nn.softmax(logits, axis=-1, where=where)
    weights = jnp.where(where, weights, 0.0)
    return jnp.einsum("...n,...nd->...d", weights, jnp.where(where[..., None], songs, 0.0)), weights
