"""The k largest scores of each row."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

# The bytes of a block's scores: a CPU is not faster with more. An H200 ranks 404,000 users a second in blocks of 264
# (253,939 songs, three rounds) and 509,000 in blocks of 1,056; the host's work for a block takes milliseconds.
_BLOCK_BYTES, _BLOCK_BYTES_ACCELERATOR = 128 * 2**20, 2 * 2**30
_MOST_ROWS = 2048
# Rounds of `top_k` on accelerators. On an H200, one round ranks 57,000 users a second, two 391,000, three 530,000 and
# four 514,000 (including the product).
ROUNDS = 3


def rows_at_once(num_items: int) -> int:
    """Rows whose float32 scores of `num_items` take at most 128 MiB (CPU) or 2 GiB, in [1, 2048]."""
    size = _BLOCK_BYTES if jax.default_backend() == "cpu" else _BLOCK_BYTES_ACCELERATOR
    return min(max(size // (4 * max(num_items, 1)), 1), _MOST_ROWS)


def rows_with_copies(num_items: int, *, most: int) -> int:
    """A power of two of rows, at most `most`, whose scores can be copied thrice: a quarter of `rows_at_once`."""
    return min(1 << (max(rows_at_once(num_items) // 4, 1).bit_length() - 1), most)


def top_k(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """jax.lax.top_k along the last axis, by the fastest way on the platform. Among equals the lower index is first.

    On CPU this is jax.lax.top_k itself. For 256 rows of 253,939 random scores and k = 100 on 2 cores it takes 0.10 s;
    np.argpartition takes 0.80 s (unsorted, no tie order), two rounds take 0.19 s. Its worst case are rows that ascend
    throughout: 1.9 s. On a GPU jax.lax.top_k sorts whole rows, while rounds sort only a few per cent of them.

    Args:
      scores: float32 [B, I], not NaN.
      k: at most I.

    Returns:
      scores float32 [B, k], descending, and indices int32 [B, k].
    """
    in_rounds = functools.partial(top_k_in_rounds, k=k, rounds=ROUNDS)
    return jax.lax.platform_dependent(scores, cpu=functools.partial(_top_k_of_rows, k=k), default=in_rounds)


def _top_k_of_rows(scores: jax.Array, *, k: int) -> tuple[jax.Array, jax.Array]:
    found, index = jax.lax.top_k(scores, k)
    return found, index


def top_k_in_rounds(scores: jax.Array, *, k: int, rounds: int) -> tuple[jax.Array, jax.Array]:
    """Top-k among the k groups of adjacent scores with the highest maxima; these groups contain the whole top k.

    This also holds among equals: the top k takes the lowest indices at the k-th score, and among groups with equal
    maxima those of the lowest indices are taken.

    Args:
      scores, k: as for `top_k`.
      rounds: 1: jax.lax.top_k; otherwise the groups, and then the songs in them, are found with one round less.
    """
    rows, num_items = scores.shape
    # I / g maxima and k g candidates are sorted: fewest at g = sqrt(I / k).
    group = 1 << round(math.log2(math.sqrt(num_items / k)))
    if rounds == 1 or group < 4:
        return _top_k_of_rows(scores, k=k)
    padded = jnp.pad(scores, ((0, 0), (0, -num_items % group)), constant_values=-jnp.inf)
    grouped = padded.reshape(rows, -1, group)
    _, best = top_k_in_rounds(grouped.max(axis=2), k=k, rounds=rounds - 1)
    best = jnp.sort(best, axis=1)  # candidates in the order of their indices
    candidates = jnp.take_along_axis(grouped, best[:, :, None], axis=1).reshape(rows, -1)
    found, at = top_k_in_rounds(candidates, k=k, rounds=rounds - 1)
    return found, jnp.take_along_axis(best, at // group, axis=1) * group + at % group
