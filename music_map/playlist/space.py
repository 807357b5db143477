"""The space of playlist queries: song embeddings without the component that all songs share.

    z_i = unit((u_i - c mu) U diag(l^-p) U^T),   u_i = e_i / ||e_i||

with mu the mean of the known songs' u, U and l the eigenvectors and eigenvalues of their covariance, l relative to its
mean. The common component, mostly popularity, distinguishes playlists least and dominates a mean of many songs. With
c = p = 0 the embeddings stay as they are. Rotating the embeddings rotates z.

Reference: Mu and Viswanath, "All-but-the-Top: Simple and Effective Postprocessing for Word Representations", ICLR 2018.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from music_map.unit import unit, unit_rows


class Space(NamedTuple):
    """Attributes: centring c and whitening p, float32 []."""

    centring: jax.Array
    whitening: jax.Array


class Moments(NamedTuple):
    """Of the known songs' unit embeddings: mu float32 [d], U float32 [d, d] and l float32 [d], see above."""

    mean: jax.Array
    directions: jax.Array
    spread: jax.Array


# Untrained: the embeddings themselves.
PLAIN = Space(np.float32(0.0), np.float32(0.0))


def moments_of(items: np.ndarray, known: np.ndarray) -> Moments:
    """The moments of embeddings float [I, d] over the songs in `known`, bool [I], or over all if it has none."""
    rows = unit_rows(np.asarray(items, np.float64)[known if known.any() else slice(None)])
    mean = rows.mean(axis=0)
    spread, directions = np.linalg.eigh(np.cov(rows.T, bias=True).reshape(len(mean), -1))
    # The least spread is a thousandth of the mean, since it is divided by.
    spread = np.maximum(spread / max(spread.mean(), 1e-12), 1e-3)
    return Moments(*(x.astype(np.float32) for x in (mean, directions, spread)))


def embed(items: jax.Array, moments: Moments, space: Space) -> jax.Array:
    """z of embeddings float32 [N, d] of any length: unit rows float32 [N, d]; 0 stays 0."""
    there = jnp.sum(jnp.square(items), axis=-1, keepdims=True) > 0
    centred = unit(items) - (space.centring * moments.mean)[None, :]
    scale = jnp.exp(-space.whitening * jnp.log(moments.spread))
    turned = jnp.matmul(centred, moments.directions, precision=jax.lax.Precision.HIGHEST) * scale[None, :]
    back = jnp.matmul(turned, moments.directions.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(there, unit(back), 0.0)
