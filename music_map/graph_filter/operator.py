"""Filters of the graph between songs.

With R [U, I] the edge weights, d their sums by user and by song and R~ = D_u^-1/2 R D_i^-1/2, a user whose songs have
the weights r scores

    s = r D_i^-b F D_i^q,    F = c R~'R~ + V diag(h(w) - c w + a) V'

with w, V the k largest eigenvalues of R~'R~ and their eigenvectors. h is the filter's response, a what is added on V,
and c = h(w_k) / w_k continues the response beyond w_k as a line. The linear filter is F = R~'R~ and needs no spectrum.

R~'R~ is never made. It is two products with the graph's own matrix; the degrees scale what goes in, between and out.

Reference:
  Shen et al., How Powerful is Graph Convolution for Recommendation?, CIKM 2021 (GF-CF).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from music_map.graph_filter.settings import KINDS
from music_map.model.propagation import Csr, Matrix, prepare, spmm
from music_map.reporter import Progress, silent
from music_map.rows import row_of_each
from music_map.walks import second_step

# Columns beyond k and products with R~'R~ of the randomised eigendecomposition. Eigenvalues fall slowly at
# the end of the spectrum, which the extra columns and a few products keep accurate.
_EXTRA, _STEPS = 32, 4
# Numbers in the table of eigenvectors, of 4 bytes each.
_MOST_NUMBERS = 2**26
# Below it an eigenvalue is rounding.
_LEAST_EIGENVALUE = 1e-6


class UserRows(NamedTuple):
    """The songs of each user with their edge weights: what a filter starts from.

    Attributes:
      offsets: int64 [U + 1]; user u has the edges offsets[u]:offsets[u + 1].
      items: int32 [E].
      weights: float32 [E].
    """

    offsets: np.ndarray
    items: np.ndarray
    weights: np.ndarray

    def matrix(self, num_items: int) -> sparse.csr_array:
        """R, float32 [U, I]."""
        return sparse.csr_array((self.weights, self.items, self.offsets), (len(self.offsets) - 1, num_items))


class Spectrum(NamedTuple):
    """The k largest eigenvalues of R~'R~, float32 [k], descending, and their eigenvectors, float32 [I, k]."""

    eigenvalues: np.ndarray
    vectors: np.ndarray


class Normalised(NamedTuple):
    """R~ on the device, as R between two diagonal matrices.

    Attributes:
      matrix: R [U, I] and its transpose; parallel edges add up.
      of_user, of_item: float32 [U, 1], [I, 1], the diagonals of D_u^-1/2 and D_i^-1/2; 0 for nodes without edges.
    """

    matrix: Matrix
    of_user: jax.Array
    of_item: jax.Array


class Kernel(NamedTuple):
    """What a filter does on the device.

    Attributes:
      back: the transpose of R [U, I].
      after: float32 [I], D_i^(q - 1/2); 0 for songs without edges.
      slope: float32 [], c.
      vectors: float32 [I, k], D_i^1/2 V; None for the linear filter.
      gains: float32 [k], h(w) - c w + a; None likewise.
    """

    back: Csr
    after: jax.Array
    slope: jax.Array
    vectors: jax.Array | None
    gains: jax.Array | None


class Operator(NamedTuple):
    """A filter.

    Attributes:
      before: float32 [I], D_i^(-b - 1/2), in the host's memory; 0 for songs without edges.
      between: float32 [U], D_u^-1, likewise.
      kernel: the rest, on the device.
    """

    before: np.ndarray
    between: np.ndarray
    kernel: Kernel


def matrix_of(rows: UserRows, num_items: int, *, backend: str) -> Matrix:
    """R and its transpose, put on the device."""
    forward = rows.matrix(num_items)
    return prepare(Matrix(_on_device(forward), _on_device(sparse.csr_array(forward.T))), backend)


def _on_device(matrix: sparse.csr_array) -> Csr:
    columns = matrix.indptr, row_of_each(matrix.indptr), matrix.indices
    return Csr(*(jnp.asarray(x, jnp.int32) for x in columns), jnp.asarray(matrix.data, jnp.float32))


def degrees(rows: UserRows, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the edge weights by user and by song, float64 [U] and [I]."""
    num_users = len(rows.offsets) - 1
    return (
        np.bincount(row_of_each(rows.offsets), rows.weights, num_users),
        np.bincount(rows.items, rows.weights, num_items),
    )


def power(degree: np.ndarray, exponent: float) -> np.ndarray:
    """degree^exponent, float32; 0 where the degree is 0."""
    there = degree > 0
    return np.where(there, np.where(there, degree, 1.0) ** exponent, 0.0).astype(np.float32)


def normalised(matrix: Matrix, user_degree: np.ndarray, item_degree: np.ndarray) -> Normalised:
    """R~ of R [U, I] and its degrees."""
    return Normalised(matrix, *(jnp.asarray(power(x, -0.5)[:, None]) for x in (user_degree, item_degree)))


def spectrum(graph: Normalised, *, rank: int, seed: int, backend: str, progress: Progress = silent) -> Spectrum:
    """The largest eigenvalues of R~'R~ by randomised subspace iteration.

    Args:
      graph: R~ [U, I].
      rank: k; fewer where R~ has fewer rows or columns, or a lower rank, or very many columns.
      seed: of the first subspace.
      backend: of the sparse products.
      progress: reports products.

    Reference:
      Halko, Martinsson and Tropp, Finding structure with randomness, SIAM Review 2011.
    """
    num_items = graph.of_item.shape[0]
    most = min(graph.of_user.shape[0], num_items)
    width = min(rank + _EXTRA, most, max(_MOST_NUMBERS // num_items, _EXTRA + 1))
    basis = jax.random.normal(jax.random.key(seed), (num_items, width), jnp.float32)
    with progress("spectrum", _STEPS + 1, "product") as advance:
        for _ in range(_STEPS):
            basis = jax.block_until_ready(_orthonormal_image(graph, basis, backend=backend))
            advance(1)
        values, vectors = map(np.asarray, _rayleigh_ritz(graph, basis, backend=backend))
        advance(1)
    best = np.argsort(-values, kind="stable")[: rank if width == most else min(rank, width - _EXTRA)]
    best = best[values[best] > _LEAST_EIGENVALUE]
    return Spectrum(values[best], np.ascontiguousarray(vectors[:, best]))


def _image(graph: Normalised, x: jax.Array, backend: str) -> jax.Array:
    """R~ x, float32 [U, w]."""
    return graph.of_user * spmm(graph.matrix, graph.of_item * x, backend)


@functools.partial(jax.jit, static_argnames="backend")
def _orthonormal_image(graph: Normalised, basis: jax.Array, *, backend: str) -> jax.Array:
    back = spmm(graph.matrix.T, graph.of_user * _image(graph, basis, backend), backend)
    return jnp.linalg.qr(graph.of_item * back)[0]


@functools.partial(jax.jit, static_argnames="backend")
def _rayleigh_ritz(graph: Normalised, basis: jax.Array, *, backend: str) -> tuple[jax.Array, jax.Array]:
    image = _image(graph, basis, backend)
    highest = jax.lax.Precision.HIGHEST
    values, turn = jnp.linalg.eigh(jnp.matmul(image.T, image, precision=highest))
    return values, jnp.matmul(basis, turn, precision=highest)


def make_operator(
    kind: str,
    exponent: float,
    matrix: Matrix,
    user_degree: np.ndarray,
    item_degree: np.ndarray,
    found: Spectrum | None = None,
) -> Operator:
    """A filter by name.

    Args:
      kind: of KINDS.
      exponent: b = q.
      matrix: R.
      user_degree, item_degree: float [U] and [I], sums of the edge weights.
      found: the spectrum; not needed by a kind without a response.
    """
    chosen = KINDS.find(kind)
    slope, vectors, gains = 1.0, None, None
    if chosen.response is not None:
        w = np.clip(found.eigenvalues.astype(np.float64), _LEAST_EIGENVALUE, 1.0)
        gain = chosen.response(w)
        slope = gain[-1] / w[-1]
        gains = jnp.asarray(gain - slope * w + chosen.ideal, jnp.float32)
        vectors = jnp.asarray(power(item_degree, 0.5)[:, None] * found.vectors)
    scales = power(item_degree, exponent - 0.5), np.float32(slope)
    kernel = Kernel(matrix.backward, *map(jnp.asarray, scales), vectors, gains)
    return Operator(power(item_degree, -exponent - 0.5), power(user_degree, -1.0), kernel)


@dataclasses.dataclass(frozen=True, eq=False)
class FilteredGraph:
    """A graph with what its filters share, each computed once.

    Attributes:
      rows: the edges, by user.
      matrix: R and its transpose on the device.
      num_items: I.
      rank: k, most eigenvectors.
      seed: of the spectrum.
      backend: of the sparse products.
      progress: reports the spectrum.
      known: the spectrum, if it is known already.
    """

    rows: UserRows
    matrix: Matrix
    num_items: int
    rank: int
    seed: int
    backend: str
    progress: Progress = silent
    known: Spectrum | None = None

    @functools.cached_property
    def degrees(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums of the edge weights by user and by song."""
        return degrees(self.rows, self.num_items)

    @functools.cached_property
    def spectrum(self) -> Spectrum:
        """The k largest eigenvalues of R~'R~."""
        graph, options = normalised(self.matrix, *self.degrees), {"seed": self.seed, "backend": self.backend}
        return self.known or spectrum(graph, rank=self.rank, **options, progress=self.progress)

    def operator(self, kind: str, exponent: float) -> Operator:
        """See `make_operator`."""
        found = None if KINDS.find(kind).response is None else self.spectrum
        return make_operator(kind, exponent, self.matrix, *self.degrees, found)


def filtered(
    kernel: Kernel, nodes: jax.Array, rows: jax.Array, items: jax.Array, starts: jax.Array, *, backend: str
) -> jax.Array:
    """s of B users, float32 [B, I].

    Args:
      kernel: of the filter.
      nodes: float32 [U, B], the first step from the starts, times `between`.
      rows, items, starts: int32, int32, float32 [N]: the users' edge weights times `before`; rows of B and more are
        ignored.
      backend: of the sparse product.
    """
    scores = kernel.slope * second_step(kernel.back, nodes, backend).T
    if kernel.vectors is not None:
        inner = jnp.zeros((nodes.shape[1], kernel.gains.shape[0]), jnp.float32)
        inner = inner.at[rows].add(starts[:, None] * kernel.vectors[items], mode="drop")
        weighted = inner * kernel.gains[None]
        scores += jnp.matmul(weighted, kernel.vectors.T, precision=jax.lax.Precision.HIGHEST)
    return scores * kernel.after[None]
