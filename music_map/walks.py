"""Two steps through a bipartite graph: from songs to their users, and on to these users' songs.

    nodes = A' s,    reached = A nodes

with A [I, U] the weights of the edges and s [I, N] the starts. The graph filter and the walks of the recency head are
this product with other weights: degrees scale the filter's starts, users and songs, and time decays a walk's start.
"""

from __future__ import annotations

import jax
import numpy as np
from scipy import sparse

from music_map.model.propagation import Csr, Matrix, spmm
from music_map.rows import row_of_each


def first_step(starts: sparse.csr_array, edges: sparse.csr_array, *, scale: np.ndarray | None = None) -> np.ndarray:
    """A' s, float32 [U, N], on the host: N rows of some hundred songs reach few of the users.

    Args:
      starts: s', float32 [N, I].
      edges: A, float32 [I, U].
      scale: float32 [U], a factor of each user; None: 1.
    """
    reached = starts @ edges
    users = reached.indices
    nodes = np.zeros((edges.shape[1], starts.shape[0]), np.float32)
    nodes[users, row_of_each(reached.indptr)] = reached.data if scale is None else reached.data * scale[users]
    return nodes


def second_step(edges: Csr, nodes: jax.Array, backend: str) -> jax.Array:
    """A nodes, float32 [I, N], on the device: most songs are reached.

    Args:
      edges: A [I, U].
      nodes: float32 [U, N].
      backend: of the sparse product, see propagation.choose_backend.
    """
    # No gradient is taken, so there is no transpose.
    return spmm(Matrix(edges, None), nodes, backend)
