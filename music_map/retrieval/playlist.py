"""From one song or a playlist to one query vector, by attention over the songs' embeddings."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from music_map.model.attention import pool


@jax.jit
def attend(songs: jax.Array, where: jax.Array, temperature: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Attention-weighted query of a playlist.

        m = sum_i e_i / ||sum_i e_i||,  a = softmax(e . m / t),  q = sum_i a_i e_i / ||sum_i a_i e_i||

    Songs near the playlist's centre weigh most, outliers least. The order of the songs does not matter (the query is
    invariant, the weights permute with the songs), and a single song is its own query.

    Args:
      songs: float32 [n, d], unit rows; padded rows are ignored.
      where: bool [n], False for padding.
      temperature: t > 0, float []; large: the plain mean.

    Returns:
      (query float32 [d] of unit length, weights float32 [n] that sum to 1, 0 on padding).
    """
    masked = songs * where[:, None]
    centre = _unit(jnp.sum(masked, axis=0))
    query, weights = pool(masked, songs @ centre / temperature, where)
    return _unit(query), weights


def _unit(x: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(x)
    return x / jnp.where(norm > 0, norm, 1.0)
