"""Products with the sparse bipartite adjacency, forward and backward, behind one function: `spmm`.

The two directions of a bipartite graph are propagated separately: users gather from songs with W, songs from users with
its transpose. Both matrices are stored, sorted by receiver. The gradient of a product with W is a product with the
transpose, so it costs as much as the forward product. The automatic gradient of a gather would be a scatter, which is
several times slower on every platform.
"""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from music_map.axis import ONE, Axis
from music_map.errors import UserError
from music_map.graph.bipartite import BipartiteGraph
from music_map.model.gather_kernel import Pieces, cut, gather_sum
from music_map.rows import offsets_of

BACKENDS = ("segment", "csr", "pallas")


class Csr(NamedTuple):
    """A sparse matrix [R, C] with its entries sorted by row.

    Attributes:
      offsets: int32 [R + 1]; the entries of row r are offsets[r]:offsets[r + 1].
      rows: int32 [E], ascending.
      columns: int32 [E].
      values: float32 [E].
      pieces: the rows cut into programs of the backend "pallas", see `prepare`; None: they are cut at every product.
    """

    offsets: jax.Array
    rows: jax.Array
    columns: jax.Array
    values: jax.Array
    pieces: Pieces | None = None


class Matrix(NamedTuple):
    """A sparse matrix and its transpose; a product needs the first, its gradient the second.

    Example: W = [[0, 2], [3, 0]] has forward.columns = [1, 0], forward.values = [2, 3] and backward.columns = [1, 0],
    backward.values = [3, 2].
    """

    forward: Csr
    backward: Csr

    @property
    def T(self) -> Matrix:
        """The transposed matrix; a view."""
        return Matrix(self.backward, self.forward)


class Adjacency(NamedTuple):
    """The bipartite graph as the encoder reads it, on the device.

    Attributes:
      users_from_items: W, float32 [U, I]; None if only the degrees are needed.
      user_degree: float32 [U], sum of the edge weights of each user (or the number of edges).
      item_degree: float32 [I], likewise.
      item_scale: None, or float32 [], a factor for all that songs receive. If the edges are those of one part of the
        users, it is the number of parts: then the expectation equals that of the whole graph. The degrees are always
        those of the whole graph.
    """

    users_from_items: Matrix | None
    user_degree: jax.Array
    item_degree: jax.Array
    item_scale: jax.Array | None = None


def coo_matrix(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, *, num_rows: int, num_columns: int) -> Matrix:
    """Builds a Matrix from entries (row, column, value) in any order; entries at the same place add up.

    Args:
      rows, columns: integers [E].
      values: float [E].
      num_rows, num_columns: the matrix's shape.
    """

    def oriented(r: np.ndarray, c: np.ndarray, size: int) -> Csr:
        order = np.lexsort((c, r))
        offsets = offsets_of(np.bincount(r, minlength=size))
        return Csr(
            jnp.asarray(offsets, jnp.int32),
            jnp.asarray(r[order], jnp.int32),
            jnp.asarray(c[order], jnp.int32),
            jnp.asarray(values[order], jnp.float32),
        )

    return Matrix(oriented(rows, columns, num_rows), oriented(columns, rows, num_columns))


def adjacency(graph: BipartiteGraph, *, degree: str) -> Adjacency:
    """Puts a graph on the device.

    Args:
      graph: the bipartite graph, NumPy.
      degree: "weighted": a node's degree is the sum of its edge weights; "count": the number of its edges.

    Raises:
      UserError: the graph has more edges than int32 indices can count.
    """
    user, item, weight, order = graph.user, graph.item, graph.weight, graph.item_order
    if len(user) >= 2**31:
        raise UserError(f"the graph has {len(user)} edges; one device holds at most 2^31 - 1 (config.parallel)")
    num_users, num_items = len(graph.user_offsets) - 1, len(graph.item_offsets) - 1
    counted = weight.astype(np.float64) if degree == "weighted" else np.ones(len(weight))
    forward = Csr(*map(jnp.asarray, (graph.user_offsets.astype(np.int32), user, item, weight)))
    backward = Csr(*map(jnp.asarray, (graph.item_offsets.astype(np.int32), item[order], user[order], weight[order])))
    return Adjacency(
        Matrix(forward, backward),
        jnp.asarray(np.bincount(user, counted, num_users), jnp.float32),
        jnp.asarray(np.bincount(item, counted, num_items), jnp.float32),
    )


def _triton_compiles() -> bool:
    """Whether the GPU is an Ampere or newer. XLA refuses Triton kernels on older ones, such as the T4."""
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))
    return bool(re.fullmatch(r"\d+\.\d+", capability)) and float(capability) >= 8.0


# The least number of edges for which "auto" takes the kernel. On an H200, forward and backward of a layer take .50 ms
# with the kernel and .38 ms with segment sums for Gowalla's 719,081 edges, and 5.05 and 10.76 ms for 33.9 million.
_KERNEL_FROM = 1_000_000


def choose_backend(name: str, *, num_edges: int | None = None) -> str:
    """Resolves "auto": the CSR product on CPU, where XLA has a native kernel; the kernel of
    `music_map.model.gather_kernel` on a GPU that Triton supports; segment sums elsewhere and for small graphs.

    Args:
      name: from the configuration.
      num_edges: of the graph; None: a large graph.

    Raises:
      UserError: the name is unknown, or the backend does not run on this platform.
    """
    platform = jax.default_backend()
    if name == "auto":
        if platform == "cpu":
            return "csr"
        small = num_edges is not None and num_edges < _KERNEL_FROM
        return "pallas" if platform == "gpu" and not small and _triton_compiles() else "segment"
    if name not in BACKENDS:
        raise UserError(f"config.model.backend={name!r} is unknown; choose one of auto, {', '.join(BACKENDS)}")
    if name == "pallas" and platform != "gpu":
        raise UserError(f"config.model.backend='pallas' is for GPUs, not for {platform}; choose 'auto'")
    # Without cuSPARSE, JAX would silently take a path that is slower than segment sums.
    if name == "csr" and platform == "gpu" and not jax.config.jax_bcoo_cusparse_lowering:
        raise UserError(
            "config.model.backend='csr' needs cuSPARSE on a GPU, and JAX only uses it if the environment variable "
            "JAX_BCOO_CUSPARSE_LOWERING is 1: set it, or choose 'auto'"
        )
    return name


T = TypeVar("T")


def prepare(tree: T, backend: str) -> T:
    """Cuts every matrix in a pytree into pieces for the backend "pallas", which would otherwise do so at every product.

    For other backends the tree is returned as it is.
    """
    if backend != "pallas":
        return tree

    def prepared(x: Any) -> Any:
        if not isinstance(x, Csr):
            return x
        return x._replace(pieces=cut(x.offsets[:-1], jnp.diff(x.offsets), x.columns.shape[0]))

    return jax.tree.map(prepared, tree, is_leaf=lambda x: isinstance(x, Csr))


def _gather_sum(matrix: Csr, pieces: Pieces, num_rows: int, x: jax.Array) -> jax.Array:
    interpret = jax.default_backend() != "gpu"
    return gather_sum(pieces, matrix.columns, matrix.values, x, num_rows=num_rows, interpret=interpret)


def _product(matrix: Csr, x: jax.Array, backend: str) -> jax.Array:
    """Gathers in the dtype of x, sums in float32."""
    num_rows = matrix.offsets.shape[0] - 1
    if backend == "csr":
        shape = (num_rows, x.shape[0])
        # XLA's kernel is for float32: values stored in fewer bits are widened first.
        from jax.experimental import sparse  # only here: commands without a product start faster

        return sparse.BCSR((matrix.values, matrix.columns, matrix.offsets), shape=shape) @ x.astype(jnp.float32)
    if backend == "pallas":
        return _gather_sum(matrix, matrix.pieces or prepare(matrix, backend).pieces, num_rows, x)
    messages = x[matrix.columns].astype(jnp.float32) * matrix.values[:, None]
    return jraph.segment_sum(messages, matrix.rows, num_segments=num_rows, indices_are_sorted=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def spmm(matrix: Matrix, x: jax.Array, backend: str, axis: Axis = ONE) -> jax.Array:
    """Sparse times dense, y[r] = sum over entries (r, c, v) of v * x[c]; rows without entries are 0.

    Only `x` has a gradient: the graph is data.

    If rows are partitioned over devices, each device has its rows of W, of the transpose and of x. The forward product
    gathers x. The backward product gathers the gradient [R, d] and multiplies it by the device's rows of the transpose.
    The alternative is W^T g from the rows of W, then a reduce-scatter of [C, d]. It needs each part of W sorted by
    column as well, which doubles the memory of edges. Both move the same number of bytes, because users gather from
    songs and songs from users.

    Args:
      matrix: [R, C].
      x: float32 or bfloat16 [C, d], like its gradient. bfloat16 halves the bytes that are gathered, except for "csr".
      backend: "segment" (jraph's segment sum; every platform), "csr" (a CSR product: XLA's own on CPU, cuSPARSE on
        GPU) or "pallas" (a kernel that gathers and sums without messages; GPU).
      axis: the devices that share the rows.

    Returns:
      float32 [R, d]; all sums are in float32.
    """
    return _product(matrix.forward, axis.gather(x), backend)


def _spmm_forward(matrix: Matrix, x: jax.Array, backend: str, axis: Axis) -> tuple[jax.Array, tuple[Matrix, jax.Array]]:
    # An empty slice keeps the dtype of x.
    return _product(matrix.forward, axis.gather(x), backend), (matrix, x[:0])


def _spmm_backward(backend: str, axis: Axis, saved: tuple[Matrix, jax.Array], g: jax.Array) -> tuple[None, jax.Array]:
    matrix, like = saved
    return None, _product(matrix.backward, axis.gather(g.astype(like.dtype)), backend).astype(like.dtype)


spmm.defvjp(_spmm_forward, _spmm_backward)


# Rows are copied out of a matrix if they have at most this share of its entries; above it, a whole product is as cheap.
_MOST_ENTRIES = 1 / 3


def _copy_rows(matrix: Csr, rows: jax.Array, offsets: jax.Array, room: int) -> Csr:
    """Rows of a matrix as a matrix of `room` entries; the b-th row has the entries offsets[b]:offsets[b + 1]."""
    num_rows = rows.shape[0]
    # Entry j of row b lies at start[b] + j - offsets[b]: it grows by 1 per entry and jumps where a row
    # begins. A cumulative sum is several times faster than a search for each entry's row.
    jump = jnp.diff(matrix.offsets[rows] - offsets[:-1], prepend=0)
    steps = jnp.ones(room, jnp.int32).at[0].set(0).at[offsets[:-1]].add(jump, mode="drop")
    at = jnp.clip(jnp.cumsum(steps), 0, matrix.columns.shape[0] - 1)
    row = jnp.cumsum(jnp.zeros(room, jnp.int32).at[offsets[1:-1]].add(1, mode="drop"))
    # The rest of the room belongs to no row.
    row = jnp.where(jnp.arange(room) < offsets[-1], row, num_rows)
    return Csr(offsets, row, matrix.columns[at], matrix.values[at])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def spmm_rows(matrix: Matrix, x: jax.Array, rows: jax.Array, backend: str) -> jax.Array:
    """Some rows of sparse times dense, spmm(matrix, x)[rows], at about the cost of these rows.

    Forward, "pallas" sums the entries of the rows in place, repeated rows once. The other backends copy these entries
    out if they are at most a third of all; otherwise they compute the whole product. Backward, the product with the
    transpose reads the gradient from a table of B + 1 rows. The last row is 0 and stands for all nodes outside `rows`.
    The product goes through all entries, but its table fits a core's cache.

    Args:
      matrix: [R, C].
      x: float32 or bfloat16 [C, d], like its gradient.
      rows: int32 [B], in any order, repeats allowed.
      backend: as for `spmm`.

    Returns:
      float32 [B, d].
    """
    return _spmm_rows_forward(matrix, x, rows, backend)[0]


def _spmm_rows_forward(
    matrix: Matrix, x: jax.Array, rows: jax.Array, backend: str
) -> tuple[jax.Array, tuple[Matrix, jax.Array, jax.Array, jax.Array]]:
    edges, size = matrix.forward, rows.shape[0]
    order = jnp.arange(size, dtype=jnp.int32)
    # A node's first position in the batch; B for nodes outside it.
    first = jnp.full((edges.offsets.shape[0] - 1,), size, jnp.int32).at[rows].min(order)
    place = first[rows]
    count = jnp.where(place == order, edges.offsets[rows + 1] - edges.offsets[rows], 0)
    saved = matrix, first, place, x[:0]
    if backend == "pallas":
        pieces = cut(edges.offsets[rows], count, edges.columns.shape[0])
        return _gather_sum(edges, pieces, size, x)[place], saved
    # Repeats are counted once, so int32 cannot overflow here.
    offsets = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(count, dtype=jnp.int32)])
    room = int(_MOST_ENTRIES * edges.columns.shape[0])
    out = jax.lax.cond(
        offsets[-1] <= room,
        lambda: _product(_copy_rows(edges, rows, offsets, room), x, backend),
        lambda: _product(edges, x, backend)[rows],
    )
    return out[place], saved


def _spmm_rows_backward(
    backend: str, saved: tuple[Matrix, jax.Array, jax.Array, jax.Array], g: jax.Array
) -> tuple[None, jax.Array, None]:
    matrix, first, place, like = saved
    table = jnp.zeros((g.shape[0] + 1, g.shape[1]), like.dtype).at[place].add(g.astype(like.dtype))
    transposed = matrix.backward._replace(columns=first[matrix.backward.columns])
    return None, _product(transposed, table, backend).astype(like.dtype), None


spmm_rows.defvjp(_spmm_rows_forward, _spmm_rows_backward)
