"""Vectors of length 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def unit(x: jax.Array) -> jax.Array:
    """Rows scaled to length 1; zero rows stay 0. Safe to differentiate at 0. For JAX."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows [N, d] scaled to length 1; zero rows stay 0. For NumPy."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)
