"""The mix of encoder and graph filter, as a scorer of all songs.

    score(u, i) = (1 - a) z(e_u . e_i) + a z(s_ui),    z(x) = (x - mean(x)) / deviation(x) over all songs of the user

with s of `music_map.graph_filter.operator` and a the filter's share.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from music_map import rows as compressed
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.ranking import best_songs, mask_indices
from music_map.graph_filter.operator import Kernel, Operator, UserRows, filtered
from music_map.mesh import on_one_device
from music_map.model.propagation import choose_backend
from music_map.topk import rows_with_copies
from music_map.walks import first_step

# Users of a block. On Gowalla (41,000 songs, two cores) a user of 64 takes 0.7 ms and one of 128 takes 1.5 ms, as their
# scores leave the caches; a single user takes 14 ms and 8 users 6 ms, as a product with one column is slow.
_MOST_USERS, _LEAST_USERS = 64, 8
# Least length of a block's list of edges; longer ones are padded to 4, 16, ... times this length.
_LEAST_LIST = 2**12


class Block(NamedTuple):
    """The device's input for B users; see operator.filtered.

    Attributes:
      users: int32 [B], rows of the user embeddings.
      nodes: float32 [U, B].
      rows, items, starts: int32, int32, float32 [N]: the users' edges; row B is ignored.
    """

    users: np.ndarray
    nodes: np.ndarray
    rows: np.ndarray
    items: np.ndarray
    starts: np.ndarray


def standardised(scores: jax.Array) -> jax.Array:
    """z of each row of float32 [B, I]; 0 where all scores are equal."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(jnp.square(centred), axis=1, keepdims=True))
    return centred / jnp.maximum(deviation, 1e-12)


@dataclasses.dataclass(frozen=True)
class MixedScorer:
    """Scores of all songs for users; it is a ranking.ScoreBlock.

    Attributes:
      users, items: embeddings of the encoder, float32 [U, d] and [I, d].
      rows: of all users.
      operator: the filter.
      share: a.
      backend: of the sparse products, see propagation.choose_backend.
      edges: of the filter's graph, float32 [I, U]; None: those of `rows`. They stay where other users take `rows`.
    """

    users: jax.Array
    items: jax.Array
    rows: UserRows
    operator: Operator
    share: float
    backend: str = "auto"
    edges: sparse.csr_array | None = None

    def __post_init__(self) -> None:
        for name in ("users", "items"):
            object.__setattr__(self, name, on_one_device(getattr(self, name)))
        object.__setattr__(self, "backend", choose_backend(self.backend))
        if self.edges is None:
            object.__setattr__(self, "edges", sparse.csr_array(self.rows.matrix(self.num_items).T))

    @property
    def num_items(self) -> int:
        return self.items.shape[0]

    @property
    def block_size(self) -> int:
        """Users scored at once."""
        return rows_with_copies(self.num_items, most=_MOST_USERS)

    def prepare(self, users: np.ndarray) -> Block:
        """The device's input for users int32 [B]; several threads may prepare at a time."""
        users = np.asarray(users, np.int32)
        offsets, at = compressed.select(self.rows.offsets, users)
        items = self.rows.items[at]
        given = self.rows.weights[at] * self.operator.before[items]
        starts = sparse.csr_array((given, items, offsets), (len(users), self.num_items))
        nodes = first_step(starts, self.edges, scale=self.operator.between)
        length = _LEAST_LIST
        while length < len(at):
            length *= 4
        fill = length - len(at)
        columns = compressed.row_of_each(offsets), items, given
        padding = np.full(fill, len(users)), np.zeros(fill, np.int32), np.zeros(fill, np.float32)
        kinds = np.int32, np.int32, np.float32
        joined = (np.concatenate(pair).astype(kind) for *pair, kind in zip(columns, padding, kinds, strict=True))
        return Block(users, nodes, *joined)

    def __call__(self, users: np.ndarray | Block) -> jax.Array:
        """Scores of all songs, float32 [B, I], of users int32 [B]."""
        block = users if isinstance(users, Block) else self.prepare(users)
        return _score(self.users, self.items, self.operator.kernel, block, np.float32(self.share), backend=self.backend)

    def ranked(
        self, block: Block, allowed: jax.Array | None, rows: np.ndarray, items: np.ndarray, *, k: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`ranking.best_songs` of a prepared block; scores and ranking are one program."""
        given = self.users, self.items, self.operator.kernel, block, np.float32(self.share)
        return _rank(*given, allowed, rows, items, k=k, backend=self.backend)

    def rank(
        self, users: np.ndarray, k: int, *, allowed: np.ndarray | None = None, out: Pairs | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best songs of a block of users; see `music_map.recency.scores.RecencyScorer.rank`."""
        users = np.asarray(users, np.int32)
        filled = np.append(users, np.repeat(users[:1], max(_LEAST_USERS - len(users), 0)))
        rows, items = mask_indices(out, 0, len(users), out_of_range=len(filled))
        found, scores, _ = self.ranked(self.prepare(filled), allowed, rows, items, k=k)
        return np.asarray(found)[: len(users)], np.asarray(scores)[: len(users)]

    def ranked_by_share(
        self, block: Block, shares: np.ndarray, allowed: jax.Array, rows: np.ndarray, items: np.ndarray, *, k: int
    ) -> jax.Array:
        """The k best songs for each of some shares, int32 [S, B, k]; both scores are computed once."""
        given = self.users, self.items, self.operator.kernel, block, np.asarray(shares, np.float32)
        return _rank_by_share(*given, allowed, rows, items, k=k, backend=self.backend)


def _both(
    users: jax.Array, items: jax.Array, kernel: Kernel, block: Block, backend: str
) -> tuple[jax.Array, jax.Array]:
    """z of the encoder's scores and z of the filter's, float32 [B, I]."""
    of_encoder = jnp.matmul(users[block.users], items.T, precision=jax.lax.Precision.HIGHEST)
    of_filter = filtered(kernel, *block[1:], backend=backend)
    return standardised(of_encoder), standardised(of_filter)


@functools.partial(jax.jit, static_argnames="backend")
def nearness(kernel: Kernel, block: Block, *, backend: str) -> jax.Array:
    """The filter's scores as they are, float32 [B, I]."""
    return filtered(kernel, *block[1:], backend=backend)


@functools.partial(jax.jit, static_argnames="backend")
def _score(
    users: jax.Array, items: jax.Array, kernel: Kernel, block: Block, share: jax.Array, *, backend: str
) -> jax.Array:
    of_encoder, of_filter = _both(users, items, kernel, block, backend)
    return (1.0 - share) * of_encoder + share * of_filter


@functools.partial(jax.jit, static_argnames=("k", "backend"))
def _rank(
    users: jax.Array,
    items: jax.Array,
    kernel: Kernel,
    block: Block,
    share: jax.Array,
    allowed: jax.Array | None,
    rows: jax.Array,
    songs: jax.Array,
    *,
    k: int,
    backend: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    scores = _score(users, items, kernel, block, share, backend=backend)
    return best_songs(scores, allowed, rows, songs, k=k)


@functools.partial(jax.jit, static_argnames=("k", "backend"))
def _rank_by_share(
    users: jax.Array,
    items: jax.Array,
    kernel: Kernel,
    block: Block,
    shares: jax.Array,
    allowed: jax.Array,
    rows: jax.Array,
    songs: jax.Array,
    *,
    k: int,
    backend: str,
) -> jax.Array:
    of_encoder, of_filter = _both(users, items, kernel, block, backend)

    def of_share(share: jax.Array) -> jax.Array:
        return best_songs((1.0 - share) * of_encoder + share * of_filter, allowed, rows, songs, k=k)[0]

    return jax.lax.map(of_share, shares)
