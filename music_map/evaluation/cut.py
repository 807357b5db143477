"""Songs cut over devices: each device scores all users of a block for its songs, and keeps the best of each user.

Song i is in row i // n of device i % n, so popular songs spread over the devices whatever the order of songs. The n
devices may belong to several processes. A block has B users, B / n for each device: a process prepares the inputs of
its devices' users, all devices receive them, and each ends with the lists of its own users.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from music_map import mesh as meshes
from music_map import processes
from music_map.axis import NAME
from music_map.evaluation.ranking import best_songs
from music_map.topk import rows_at_once


@dataclasses.dataclass(frozen=True)
class SongCut:
    """I songs over the n devices of a mesh. Hashable, so that jit can take it as a static argument."""

    mesh: Mesh
    num_items: int

    @property
    def num_rows(self) -> int:
        """Rows of each device, R."""
        return -(-self.num_items // self.mesh.size)

    @functools.cached_property
    def own(self) -> np.ndarray:
        """Positions of this process's devices, int [m]."""
        return np.array(meshes.own_positions(self.mesh))

    def block_size(self, most: int | None = None) -> int:
        """Users of this process in a block. All devices together have as many bytes of scores as one device alone."""
        size = rows_at_once(self.num_items) if most is None else most
        return -(-size // self.mesh.size) * len(self.own)

    # --- On the host ---

    def put_songs(self, values: np.ndarray, fill: float | bool = 0) -> jax.Array:
        """Values of all songs [I, ...] on the devices, [n R, ...]; rows without a song hold `fill`."""

        def part(device: int) -> np.ndarray:
            own = values[device :: self.mesh.size]
            rest = np.full((self.num_rows - len(own), *values.shape[1:]), fill, values.dtype)
            return np.concatenate([own, rest])

        return meshes.put_parts(self.mesh, part)

    def put_allowed(self, candidates: np.ndarray | None) -> jax.Array:
        """Puts the mask of songs that may be recommended, bool [I]; None: all. Rows without a song are False."""
        return self.put_songs(np.ones(self.num_items, bool) if candidates is None else candidates, False)

    def put_pairs(
        self, num_users: int, rows: np.ndarray, items: np.ndarray, *values: np.ndarray
    ) -> tuple[jax.Array, ...]:
        """Lists of (row, song, value, ...) of this process's users, for `gathered` on the devices.

        Args:
          num_users: this process's users of the block.
          rows: integers [N], from 0 to `num_users` - 1; others are ignored.
          items: integers [N].
          values: [N] each.
        """
        length = processes.largest(len(rows))
        fill = -(-length // len(self.own)) * len(self.own) - len(rows)
        each = num_users // len(self.own)
        there = rows < num_users
        at = np.where(there, rows, 0)
        # The row in the block of all processes; rows beyond it are dropped.
        rows = np.where(there, self.own[at // each] * each + at % each, each * self.mesh.size)
        columns = (rows.astype(np.int32), each * self.mesh.size), (items.astype(np.int32), 0), *((v, 0) for v in values)
        return meshes.put_own(self.mesh, tuple(np.append(c, np.full(fill, empty, c.dtype)) for c, empty in columns))

    # --- On a device, within shard_map ---

    def at(self, items: jax.Array) -> jax.Array:
        """Rows of songs on this device; R for other devices' songs."""
        return jnp.where(items % self.mesh.size == jax.lax.axis_index(NAME), items // self.mesh.size, self.num_rows)

    def best(
        self, scores: jax.Array, allowed: jax.Array, rows: jax.Array | None, items: jax.Array | None, *, k: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`ranking.best_songs` of this device's share of the users, from scores [B, R] on every device.

        Args:
          scores: of this device's songs.
          allowed: bool [R], False in rows without a song.
          rows, items: of the whole block, songs by number; None: no songs are withheld.
          k: at most I.

        Returns:
          songs int32 [B / n, k], their scores, and whether a score is NaN on any device.
        """
        n = self.mesh.size
        at = None if items is None else self.at(items)
        index, best, any_nan = best_songs(scores, allowed, rows, at, k=min(k, self.num_rows))
        songs = jnp.where(index < 0, self.num_items, index * n + jax.lax.axis_index(NAME))

        def of_own_users(x: jax.Array) -> jax.Array:
            """[B, k] on every device -> [B / n, n k]."""
            parts = jax.lax.all_to_all(x.reshape(n, -1, x.shape[1]), NAME, 0, 0)
            return jnp.moveaxis(parts, 0, 1).reshape(-1, n * x.shape[1])

        # Among equal scores the lower song is first, as on one device.
        least, songs = jax.lax.sort((-of_own_users(best), of_own_users(songs)), dimension=1, num_keys=2)
        songs, best = songs[:, :k], -least[:, :k]
        return jnp.where(best == -jnp.inf, -1, songs), best, jax.lax.psum(any_nan.astype(jnp.int32), NAME) > 0


def gathered(x: jax.Array) -> jax.Array:
    """All devices' rows, within shard_map: [R, ...] -> [n R, ...]."""
    return jax.lax.all_gather(x, NAME, tiled=True)


BY_ROW, WHOLE = P(NAME), P()
# Of the results of `SongCut.best`.
LISTS = BY_ROW, BY_ROW, WHOLE


def on_devices(function: Callable, cut: SongCut, *, inputs: object = BY_ROW, outputs: object = BY_ROW) -> Callable:
    """`function` on every device of the mesh, with its rows of the arguments unless `inputs` says otherwise."""
    return jax.shard_map(function, mesh=cut.mesh, in_specs=inputs, out_specs=outputs, check_vma=False)


class CutEmbeddingScores:
    """Scores by dot product, like `ranking.EmbeddingScores`, with songs cut over the devices of all processes.

    Args:
      user_emb, item_emb: float32 [U, d], [I, d], in the host's memory.
      mesh: the devices.
    """

    together = True  # all processes rank the same blocks, each its own users in them

    def __init__(self, user_emb: np.ndarray, item_emb: np.ndarray, mesh: Mesh):
        self.cut = SongCut(mesh, len(item_emb))
        self.num_devices, self.block_size = len(self.cut.own), self.cut.block_size()
        self._users, self._items = np.asarray(user_emb), self.cut.put_songs(np.asarray(item_emb))

    def allowed(self, candidates: np.ndarray | None) -> jax.Array:
        """Puts the mask of songs that may be recommended, bool [I], on the devices."""
        return self.cut.put_allowed(candidates)

    def prepare(self, users: np.ndarray) -> np.ndarray:
        return self._users[users]

    def ranked(
        self, block: np.ndarray, allowed: jax.Array, rows: np.ndarray, items: np.ndarray, *, k: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The best songs of this process's users; see `SongCut.best`."""
        pairs = self.cut.put_pairs(len(block), rows, items)
        return rank_dots(self._items, allowed, meshes.put_own(self.cut.mesh, block), *pairs, cut=self.cut, k=k)

    def __call__(self, users: np.ndarray) -> np.ndarray:
        """Scores float32 [B, I]; one process only."""
        scores = np.asarray(_dots(self._items, self._users[users], cut=self.cut))
        return scores[:, _order(self.cut)]


def _order(cut: SongCut) -> np.ndarray:
    """Of each song, its column in scores [B, n R] whose columns are cut over the devices."""
    songs = np.arange(cut.num_items)
    return songs % cut.mesh.size * cut.num_rows + songs // cut.mesh.size


@functools.partial(jax.jit, static_argnames="cut")
def _dots(items: jax.Array, users: jax.Array, *, cut: SongCut) -> jax.Array:
    return on_devices(_product, cut, inputs=(BY_ROW, WHOLE), outputs=P(None, NAME))(items, users)


def _product(items: jax.Array, users: jax.Array) -> jax.Array:
    return jnp.matmul(users, items.T, precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames=("cut", "k"))
def rank_dots(
    items: jax.Array, allowed: jax.Array, users: jax.Array, rows: jax.Array, songs: jax.Array, *, cut: SongCut, k: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Dot products and the best songs in one program, which `benchmarks/parallel.py` measures."""

    def ranked(items: jax.Array, allowed: jax.Array, users: jax.Array, rows: jax.Array, songs: jax.Array):
        return cut.best(_product(items, gathered(users)), allowed, gathered(rows), gathered(songs), k=k)

    return on_devices(ranked, cut, outputs=LISTS)(items, allowed, users, rows, songs)
