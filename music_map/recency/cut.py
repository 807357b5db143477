"""The recency score with songs cut over devices: embeddings, listeners, trends, walks and scores of 1/n of the songs.

What remains whole on every device are the walks' distributions over users, float32 [U, W B] of a block of B users.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from music_map import mesh as meshes
from music_map import processes
from music_map.axis import NAME
from music_map.evaluation.cut import BY_ROW, LISTS, WHOLE, SongCut, gathered, on_devices
from music_map.model import propagation
from music_map.model.propagation import Csr, choose_backend
from music_map.recency.history import WALK_HALF_LIVES, Latest, UserLists
from music_map.recency.moment import TREND, Moment
from music_map.recency.scores import (
    QUERIES,
    USER_WALKS,
    Block,
    BlockFeatures,
    Embeddings,
    Reading,
    RecencyScorer,
    SongArrays,
    Start,
    features_of_all,
    of_songs,
    queries,
    values_of_met,
    walks_over_users,
    weighted_sum,
)
from music_map.rows import select


class CutUsers(NamedTuple):
    """What a block's programs read of B users; this process has the rows of its own.

    Attributes:
      embedding: float32 [B, d].
      songs: float32 [B, L, d], embeddings of the latest songs.
      latest: of the users.
      nodes, scale: float32 [B, W, U] and [B, W], see scores.Start; None if walks over users have no weight.
    """

    embedding: np.ndarray
    songs: np.ndarray
    latest: Latest
    nodes: np.ndarray | None
    scale: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class CutScorer(RecencyScorer):
    """The scorer for the devices of all processes; each process prepares and gets its own users.

    Attributes:
      mesh: the devices.
      embeddings: in the host's memory.
    """

    mesh: Mesh = None

    together = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "embeddings", Embeddings(*map(np.asarray, self.embeddings)))
        object.__setattr__(self, "backend", choose_backend(self.backend))
        object.__setattr__(self, "now", self.moment.now if self.now is None else int(self.now))
        self.moment.check(self.now)

    @functools.cached_property
    def cut(self) -> SongCut:
        return SongCut(self.mesh, self.num_items)

    @property
    def num_devices(self) -> int:
        return len(self.cut.own)

    @property
    def block_size(self) -> int:
        return self.cut.block_size(super().block_size)

    @functools.cached_property
    def _listeners(self) -> Csr:
        return put_listeners(self.moment, self.cut, self.backend)

    @functools.cached_property
    def _songs(self) -> SongArrays:
        whole = functools.partial(meshes.put, meshes.replicated(self.mesh))
        return SongArrays(
            self._items,
            self.cut.put_songs(self._trend @ self._of(TREND)),
            self._listeners if self._walks else None,
            whole(self._of(QUERIES)),
            whole(self._of(USER_WALKS)),
            tuple(map(whole, self._of_met)),
        )

    @functools.cached_property
    def _items(self) -> jax.Array:
        return self.cut.put_songs(self.embeddings.item)

    def allowed(self, candidates: np.ndarray | None) -> jax.Array:
        """Puts the mask of songs that may be recommended, bool [I], on the devices."""
        return self.cut.put_allowed(candidates)

    def hosting(self, guests: object, *, now: int | None = None) -> RecencyScorer:
        raise NotImplementedError("guests are scored on one device; use RecencyScorer")

    def _start(self, reading: Reading) -> Start:
        return Start(*self._nodes_by_user(reading.starts))

    def _nodes_by_user(self, starts) -> tuple[np.ndarray, None, np.ndarray]:
        nodes = (starts @ self.moment.listeners).toarray()
        scale = self.num_items / np.maximum(nodes @ self.moment.user_totals, 1e-12)
        by_user = [x.reshape(len(WALK_HALF_LIVES), -1, *x.shape[1:]).swapaxes(0, 1) for x in (nodes, scale)]
        return by_user[0], None, by_user[1].astype(np.float32)

    def _cut_users(self, users: np.ndarray, lists: UserLists | Block, start: Start | None) -> CutUsers:
        users_of, items_of = self.embeddings
        songs = items_of[np.maximum(lists.latest.items, 0)]
        nodes, scale = (None, None) if start is None else (start.nodes, start.scale)
        return CutUsers(users_of[users], songs, lists.latest, nodes, scale)

    def ranked(
        self, block: Block, allowed: jax.Array, rows: np.ndarray, items: np.ndarray, *, k: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The best songs of this process's users, see SongCut.best; all processes call it together."""
        block = block.without(rows, items)
        users = meshes.put_own(self.mesh, self._cut_users(block.users, block, block.start))
        values = self.cut.put_pairs(len(block.users), block.rows, block.items, block.values)
        met = self.cut.put_pairs(len(block.users), *block.met)
        return rank(self._songs, allowed, users, values, met, cut=self.cut, k=k, backend=self.backend)

    def features(self, users: np.ndarray) -> BlockFeatures:
        reading = self.reading(users)
        lists = reading.lists
        given = meshes.put_own(self.mesh, self._cut_users(reading.users, lists, self._start(reading)))
        songs = self._songs._replace(listeners=self._listeners)
        found = features(songs, given, cut=self.cut, backend=self.backend)
        return BlockFeatures(lists, self._name_walks(reading), found, self._trend, self._take)

    def _take(self, features: jax.Array, songs: np.ndarray) -> np.ndarray:
        width = processes.largest(songs.shape[1])
        wide = np.pad(songs, ((0, 0), (0, width - songs.shape[1])))
        found = meshes.own_rows(_take(features, meshes.put_own(self.mesh, wide), cut=self.cut))
        return np.moveaxis(found, 0, 1)[:, :, : songs.shape[1]]

    def first_songs(
        self, features: BlockFeatures, allowed: jax.Array, rows: np.ndarray, items: np.ndarray, *, k: int
    ) -> np.ndarray:
        masked = self.cut.put_pairs(len(features.lists.offsets) - 1, rows, items)
        found = _first_songs(features.on_device, allowed, *masked, cut=self.cut, k=k)
        return np.moveaxis(meshes.own_rows(found), 0, 1)

    def __call__(self, users: np.ndarray) -> np.ndarray:
        raise NotImplementedError("scores of all songs are on no single device; use ranking.rank")

    def rank(self, *given: object, **options: object) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError("use ranking.rank")


def put_listeners(moment: Moment, cut: SongCut, backend: str) -> Csr:
    """`Moment.listeners_on_device` with each device's songs as its rows, prepared for a backend."""
    sizes = np.diff(moment.user_offsets)
    capacity = max(int(sizes[d :: cut.mesh.size].sum()) for d in range(cut.mesh.size)) + 1

    def part(device: int) -> Csr:
        offsets, at = select(moment.user_offsets, np.arange(device, cut.num_items, cut.mesh.size))
        # The last row, of a song or empty, takes the padding: users 0 with weight 0.
        offsets = np.append(offsets, np.full(cut.num_rows + 1 - len(offsets), offsets[-1]))
        offsets[-1] = capacity
        rows = np.repeat(np.arange(cut.num_rows, dtype=np.int32), np.diff(offsets))
        fill = capacity - len(at)
        columns, values = (np.append(x[at], np.zeros(fill, x.dtype)) for x in (moment.users, moment.user_weights))
        return Csr(offsets.astype(np.int32), rows, columns, values)

    parts = meshes.put_parts(cut.mesh, part)
    return jax.jit(on_devices(functools.partial(propagation.prepare, backend=backend), cut))(parts)


def _query(users: CutUsers) -> jax.Array:
    return queries(users.embedding, users.songs, *users.latest)


def _start(users: CutUsers) -> Start | None:
    """The start of the walks of all users of the block, on every device."""
    if users.nodes is None:
        return None
    nodes, scale = gathered(users.nodes), gathered(users.scale)  # [B, W, U], [B, W]
    return Start(jnp.moveaxis(nodes, 2, 0).swapaxes(1, 2).reshape(nodes.shape[2], -1), None, scale.T.reshape(-1))


def _of_songs(songs: SongArrays) -> SongArrays:
    """What to give `shard_map` as in_specs for the songs' arrays."""
    listeners = None if songs.listeners is None else BY_ROW
    return SongArrays(BY_ROW, BY_ROW, listeners, WHOLE, WHOLE, (WHOLE, WHOLE))


# Features [F, B, I] of all songs, cut by song.
_OF_ALL = P(None, None, NAME)


@functools.partial(jax.jit, static_argnames=("cut", "k", "backend"))
def rank(
    songs: SongArrays,
    allowed: jax.Array,
    users: CutUsers,
    values: tuple[jax.Array, jax.Array, jax.Array],
    met: tuple[jax.Array, jax.Array],
    *,
    cut: SongCut,
    k: int,
    backend: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores and the best songs in one program; `values` are added at (row, song), `met` are songs that users met."""

    def ranked(songs: SongArrays, allowed: jax.Array, users: CutUsers, values: tuple, met: tuple):
        own = _query(users)
        query, start = gathered(of_songs(songs.of_query, own)), _start(users)
        of_all = jnp.where(allowed, songs.trend, -jnp.inf)
        walks = None if start is None else walks_over_users(songs.listeners, start, backend)
        scores = weighted_sum(songs, query, of_all, walks)
        rows, items, added = map(gathered, values)
        scores = scores.at[rows, cut.at(items)].add(added, mode="drop")
        rows, items = map(gathered, met)
        items, query = cut.at(items), gathered(of_songs(songs.of_met[0], own))
        scores = scores.at[rows, items].add(values_of_met(songs, query, walks, rows, items), mode="drop")
        return cut.best(scores, allowed, None, None, k=k)

    inputs = _of_songs(songs), BY_ROW, BY_ROW, BY_ROW, BY_ROW
    return on_devices(ranked, cut, inputs=inputs, outputs=LISTS)(songs, allowed, users, values, met)


@functools.partial(jax.jit, static_argnames=("cut", "backend"))
def features(songs: SongArrays, users: CutUsers, *, cut: SongCut, backend: str) -> jax.Array:
    """ON_DEVICE of all songs, [len(ON_DEVICE), B, n R], with each device's songs on it."""

    def of_own(songs: SongArrays, users: CutUsers) -> jax.Array:
        return features_of_all(songs, gathered(_query(users)), _start(users), backend)

    return on_devices(of_own, cut, inputs=(_of_songs(songs), BY_ROW), outputs=_OF_ALL)(songs, users)


@functools.partial(jax.jit, static_argnames=("cut", "k"))
def _first_songs(
    features: jax.Array, allowed: jax.Array, rows: jax.Array, items: jax.Array, *, cut: SongCut, k: int
) -> jax.Array:
    """The best songs of each feature for each user: int32 [B, F, k], each device's own users on it."""

    def first(features: jax.Array, allowed: jax.Array, rows: jax.Array, items: jax.Array) -> jax.Array:
        rows, items = gathered(rows), gathered(items)
        return jnp.moveaxis(jax.lax.map(lambda x: cut.best(x, allowed, rows, items, k=k)[0], features), 0, 1)

    inputs = _OF_ALL, BY_ROW, BY_ROW, BY_ROW
    return on_devices(first, cut, inputs=inputs)(features, allowed, rows, items)


@functools.partial(jax.jit, static_argnames="cut")
def _take(features: jax.Array, songs: jax.Array, *, cut: SongCut) -> jax.Array:
    """Features of some songs [B, C] of each user: float32 [B, F, C], each device's own users on it."""

    def take(features: jax.Array, songs: jax.Array) -> jax.Array:
        at = cut.at(gathered(songs))
        here = jnp.take_along_axis(features, jnp.minimum(at, cut.num_rows - 1)[None], axis=2)
        found = jnp.moveaxis(jnp.where((at < cut.num_rows)[None], here, 0.0), 0, 1)
        return jax.lax.psum_scatter(found, NAME, tiled=True)

    return on_devices(take, cut, inputs=(_OF_ALL, BY_ROW))(features, songs)
