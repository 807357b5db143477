"""Sparse times dense as a Pallas (Triton) kernel for GPUs; elsewhere Pallas interprets it, for tests.

A program sums at most 256 entries of one row, so that a hub of a million entries is shared by thousands of programs;
a sorted segment sum then adds up the programs of a row. No message is written to memory: beyond the matrix and the rows
it gathers, the kernel moves one row of sums a program.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

# Entries of a program, and how many of them are loaded at once.
_PIECE, _CHUNK = 256, 16


def _kernel(begin_ref, end_ref, columns_ref, values_ref, x_ref, out_ref, *, width: int) -> None:
    begin, end = begin_ref[0], end_ref[0]
    lanes = jnp.arange(width)

    def add_chunk(chunk: jax.Array, total: jax.Array) -> jax.Array:
        at = begin + chunk * _CHUNK + jnp.arange(_CHUNK)
        inside = at < end
        columns = triton.load(columns_ref.at[at], mask=inside, other=0)
        values = triton.load(values_ref.at[at], mask=inside, other=0.0)
        rows = triton.load(x_ref.at[columns[:, None], lanes[None, :]])
        return total + jnp.sum(values[:, None] * rows.astype(jnp.float32), axis=0)

    chunks = (end - begin + _CHUNK - 1) // _CHUNK
    out_ref[0, :] = jax.lax.fori_loop(0, chunks, add_chunk, jnp.zeros(width, jnp.float32))


def gather_sum(
    offsets: jax.Array, columns: jax.Array, values: jax.Array, x: jax.Array, *, interpret: bool
) -> jax.Array:
    """y[r] = sum over e in offsets[r]:offsets[r + 1] of values[e] * x[columns[e]].

    Args:
      offsets: int32 [R + 1], ascending.
      columns: int32 [E].
      values: float32 [E].
      x: float32 or bfloat16 [C, d].
      interpret: run without a GPU, slowly.

    Returns:
      float32 [R, d].
    """
    num_rows, num_entries, dims = offsets.shape[0] - 1, columns.shape[0], x.shape[1]
    if num_entries == 0:
        return jnp.zeros((num_rows, dims), jnp.float32)
    # The sum of ceil(n / piece) over the rows is at most R + E / piece.
    most = num_rows + num_entries // _PIECE
    first = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(-(-jnp.diff(offsets) // _PIECE), dtype=jnp.int32)])
    row = jnp.cumsum(jnp.zeros(most, jnp.int32).at[first[1:-1]].add(1, mode="drop"), dtype=jnp.int32)
    piece = jnp.arange(most, dtype=jnp.int32)
    used = piece < first[-1]
    begin = jnp.where(used, offsets[row] + (piece - first[row]) * _PIECE, 0)
    end = jnp.where(used, jnp.minimum(begin + _PIECE, offsets[row + 1]), 0)
    # Triton's arrays have powers of two as sizes.
    width = pl.next_power_of_2(dims)
    padded = x if width == dims else jnp.pad(x, ((0, 0), (0, width - dims)))
    one, whole = pl.BlockSpec((1,), lambda i: (i,)), pl.BlockSpec(memory_space=pl.ANY)
    sums = pl.pallas_call(
        functools.partial(_kernel, width=width),
        grid=(most,),
        in_specs=[one, one, whole, whole, whole],
        out_specs=pl.BlockSpec((1, width), lambda i: (i, 0)),
        out_shape=jax.ShapeDtypeStruct((most, width), jnp.float32),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=2),
    )(begin, end, columns, values, padded)
    return jax.ops.segment_sum(
        sums[:, :dims], jnp.where(used, row, num_rows), num_segments=num_rows, indices_are_sorted=True
    )
