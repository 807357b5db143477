"""Sparse times dense as Pallas (Triton) kernels for GPUs; elsewhere Pallas interprets them, for tests.

A program sums at most 512 entries of one row, so thousands of programs share a hub of a million entries. If one program
can sum a whole row, it writes the row. A second kernel adds up the partial sums of a hub, in order. No message is
written to memory and nothing is added atomically: the same input gives the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton


class Tiling(NamedTuple):
    """How the work is cut. The defaults were the fastest of 16 settings on an H200 (docs/lab-notes.md).

    Attributes:
      piece: the most entries that one program sums.
      chunk: entries that a program loads at once, a power of two.
      warps: of one program, 32 threads each.
    """

    piece: int = 512
    chunk: int = 16
    warps: int = 1


TILING = Tiling()


class Pieces(NamedTuple):
    """The programs of both kernels. The arrays have spare programs, which sum nothing and whose output is not read.

    Attributes:
      begin, count, row, single: int32 [P] each: the entries of a piece, its row, and whether it is the whole row.
      hub, hub_first, hub_count: int32 [H] each: a row of several pieces, its first piece and the number of its pieces.
    """

    begin: jax.Array
    count: jax.Array
    row: jax.Array
    single: jax.Array
    hub: jax.Array
    hub_first: jax.Array
    hub_count: jax.Array


@functools.partial(jax.jit, static_argnames=("num_entries", "piece"))
def cut(begin: jax.Array, count: jax.Array, num_entries: int, piece: int = TILING.piece) -> Pieces:
    """Cuts rows into pieces. The result depends on the matrix alone, so a graph is cut once.

    Args:
      begin, count: int32 [R], the entries of row r are begin[r]:begin[r] + count[r].
      num_entries: E; the sum of all counts is at most this.
      piece: the most entries of a piece.
    """
    num_rows = begin.shape[0]
    # A row of n entries has max(1, ceil(n / piece)) pieces; the piece of an empty row sums nothing. All rows together
    # have at most R + E / piece pieces. Fewer than E / piece rows have more than one.
    most, most_hubs = num_rows + num_entries // piece, min(num_rows, num_entries // piece)
    pieces = jnp.maximum(-(-count // piece), 1)
    first = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(pieces, dtype=jnp.int32)])
    row = jnp.cumsum(jnp.zeros(most, jnp.int32).at[first[1:-1]].add(1, mode="drop"), dtype=jnp.int32)
    at = jnp.arange(most, dtype=jnp.int32)
    used, before = at < first[-1], (at - first[row]) * piece
    size = jnp.where(used, jnp.minimum(count[row] - before, piece), 0)
    single = (used & (pieces[row] == 1)).astype(jnp.int32)
    hub = jnp.nonzero(pieces > 1, size=most_hubs, fill_value=num_rows)[0].astype(jnp.int32)
    hub_count = pieces.at[hub].get(mode="fill", fill_value=0)
    return Pieces(begin[row] + before, size, row, single, hub, first[hub], hub_count)


# From positions int32 [chunk] and a mask of the wanted ones bool [chunk] to their rows float32 [chunk, width].
_Load = Callable[[jax.Array, jax.Array], jax.Array]


def _sum_chunks(count: jax.Array, load: _Load, *, width: int, chunk: int) -> jax.Array:
    """The sum of the rows at 0..count - 1: float32 [width]."""

    def add(number: jax.Array, total: jax.Array) -> jax.Array:
        at = number * chunk + jnp.arange(chunk)
        return total + load(at, at < count)

    # The sum over the rows of a chunk moves data between threads, so it is done once, at the end.
    total = jax.lax.fori_loop(0, (count + chunk - 1) // chunk, add, jnp.zeros((chunk, width), jnp.float32))
    return jnp.sum(total, axis=0)


def _gather_kernel(
    begin_ref, count_ref, row_ref, single_ref, columns_ref, values_ref, x_ref, out_ref, partial_ref, *, width, chunk
) -> None:
    begin, lanes = begin_ref[0], jnp.arange(width)

    def load(at: jax.Array, inside: jax.Array) -> jax.Array:
        columns = triton.load(columns_ref.at[begin + at], mask=inside, other=0)
        values = triton.load(values_ref.at[begin + at], mask=inside, other=0.0)
        rows = triton.load(x_ref.at[columns[:, None], lanes[None, :]], mask=inside[:, None], other=0.0)
        return values[:, None] * rows.astype(jnp.float32)

    total = _sum_chunks(count_ref[0], load, width=width, chunk=chunk)
    row, whole = row_ref[0], jnp.broadcast_to(single_ref[0] > 0, (width,))
    triton.store(out_ref.at[row, lanes], total, mask=whole)
    triton.store(partial_ref.at[pl.program_id(0), lanes], total, mask=~whole)


def _hub_kernel(first_ref, count_ref, row_ref, partial_ref, _, out_ref, *, width, chunk) -> None:
    first, lanes = first_ref[0], jnp.arange(width)

    def load(at: jax.Array, inside: jax.Array) -> jax.Array:
        return triton.load(partial_ref.at[(first + at)[:, None], lanes[None, :]], mask=inside[:, None], other=0.0)

    total = _sum_chunks(count_ref[0], load, width=width, chunk=chunk)
    triton.store(out_ref.at[row_ref[0], lanes], total, mask=jnp.broadcast_to(count_ref[0] > 0, (width,)))


def gather_sum(
    pieces: Pieces,
    columns: jax.Array,
    values: jax.Array,
    x: jax.Array,
    *,
    num_rows: int,
    interpret: bool,
    tiling: Tiling = TILING,
) -> jax.Array:
    """y[r] = sum over the entries e of row r of values[e] * x[columns[e]].

    Args:
      pieces: the rows' entries, from `cut` with the tiling's piece.
      columns: int32 [E].
      values: float32 [E].
      x: float32 or bfloat16 [C, d].
      num_rows: R.
      interpret: run without a GPU, slowly.
      tiling: how the work is cut.

    Returns:
      float32 [R, d].
    """
    dims = x.shape[1]
    if columns.shape[0] == 0 or num_rows == 0:
        return jnp.zeros((num_rows, dims), jnp.float32)
    # Triton needs arrays whose sizes are powers of two.
    width = pl.next_power_of_2(dims)
    padded = x if width == dims else jnp.pad(x, ((0, 0), (0, width - dims)))
    one, whole = pl.BlockSpec((1,), lambda i: (i,)), pl.BlockSpec(memory_space=pl.ANY)
    sizes = {"width": width, "chunk": tiling.chunk}
    common = {"interpret": interpret, "compiler_params": triton.CompilerParams(num_warps=tiling.warps)}
    sums, partial = pl.pallas_call(
        functools.partial(_gather_kernel, **sizes),
        grid=pieces.begin.shape,
        in_specs=[one, one, one, one, whole, whole, whole],
        out_specs=[whole, whole],
        out_shape=[jax.ShapeDtypeStruct((n, width), jnp.float32) for n in (num_rows, len(pieces.begin))],
        **common,
    )(pieces.begin, pieces.count, pieces.row, pieces.single, columns, values, padded)
    if len(pieces.hub):
        sums = pl.pallas_call(
            functools.partial(_hub_kernel, **sizes),
            grid=pieces.hub.shape,
            in_specs=[one, one, one, whole, whole],
            out_specs=whole,
            out_shape=jax.ShapeDtypeStruct(sums.shape, sums.dtype),
            input_output_aliases={4: 0},
            **common,
        )(pieces.hub_first, pieces.hub_count, pieces.hub, partial, sums)
    return sums[:, :dims]
