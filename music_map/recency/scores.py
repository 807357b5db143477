"""The recency score: features of (user, song) at a moment, and their weighted sum.

    score(u, i) = (w_0 e_u + sum_h w_h q_h(u)) . e_i + sum_r v_r log(1 + I p_r(i | u))
                  + z . trend(i) + f . familiar(u, i)

with q_h the attention over the user's latest songs at the time scale h, p_r the distribution of a two-step walk from
the songs that the user played to songs with the same users, artists or albums, and familiar(u, i) = 0 for a song that
the user never met. The weights are scalars. They do not depend on single users, songs or dimensions, so they stay valid
when embeddings are trained again.

Walks over artists and albums, and familiarity, concern few songs per user: the host computes them as (song, value).
Walks over users reach most songs: the host takes the first step, from some hundred songs of a user to the users who
share one, and the device takes the second step, to all songs. No array of users x songs is kept per feature: each
feature is added to the scores at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from music_map.evaluation.pairs import Pairs
from music_map.evaluation.ranking import best_songs, mask_indices
from music_map.mesh import on_one_device
from music_map.model.attention import pool
from music_map.model.propagation import Csr, Matrix, choose_backend, prepare, spmm
from music_map.recency.guests import Guests
from music_map.recency.history import FAMILIARITY, WALK_HALF_LIVES, Histories, Latest, UserLists, read_users
from music_map.recency.moment import TREND, Moment
from music_map.rows import row_of_each
from music_map.topk import rows_with_copies

ATTENTION_HALF_LIVES = (1.0, 24.0, 168.0, 1440.0)

RELATIONS = ("users", "artists", "albums")
QUERIES = ("user", *(f"attention_{half_life:g}h" for half_life in ATTENTION_HALF_LIVES))
WALKS = tuple(f"{relation}_{half_life:g}h" for relation in RELATIONS for half_life in WALK_HALF_LIVES)
DENSE = (*QUERIES, *WALKS)
FEATURES = (*DENSE, *TREND, *FAMILIARITY)
# The parts that a score is explained by.
PARTS: dict[str, tuple[str, ...]] = {
    "embedding": QUERIES[:1],
    "latest songs": QUERIES[1:],
    **{relation: tuple(name for name in WALKS if name.startswith(f"{relation}_")) for relation in RELATIONS},
    "trend": TREND,
    "played before": FAMILIARITY,
}

Weights = Mapping[str, float]

# The features that the device computes for all songs, in this order: queries and walks over users.
ON_DEVICE = (*QUERIES, *PARTS["users"])
# Least length of the list of (user, song, value) given to the device. Longer lists are padded to 4, 16, ... times this
# length, so that few shapes are compiled.
_LEAST_LIST = 2**12
# The most users of a block: the walks' table is then 128 numbers wide, a fast width for the products.
_MOST_USERS = 64
# Up to this number of users, the second step of the walks is faster in SciPy, with a thread for each half-life, than in
# XLA on a CPU.
_FEW_USERS = 2


class Embeddings(NamedTuple):
    """The encoder's embeddings: users float32 [U, d] and songs float32 [I, d]."""

    user: jax.Array
    item: jax.Array


class SongArrays(NamedTuple):
    """The arrays that all users share, on the device.

    Attributes:
      item: float32 [I, d].
      trend: float32 [I], weighted.
      listeners: the second step of the walks over users, or None if these walks have no weight.
      of_query, of_walk: float32, weights of QUERIES and of the walks over users.
    """

    item: jax.Array
    trend: jax.Array
    listeners: Csr | None
    of_query: jax.Array
    of_walk: jax.Array


class Entries(NamedTuple):
    """Values float32 [N] at (rows, columns), int32 [N], of a table; rows out of its range are padding."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray


class Start(NamedTuple):
    """The device's input for the walks of B users over users, with W half-lives; column w B + b is user b's.

    Attributes:
      nodes: float32 [U, W B], the distribution after the first step; None if the second has been taken.
      reached: float32 [I, W B], the distribution after the second step, or None.
      scale: float32 [W B], I / (sum of the distribution over the songs).
      through: of guests: what walks through the guest add to the distribution after the second step, or None.
    """

    nodes: np.ndarray | None
    reached: np.ndarray | None
    scale: np.ndarray
    through: Entries | None = None


class Block(NamedTuple):
    """The device's input for B users.

    Attributes:
      users: int32 [B], rows of the user embeddings.
      latest: of these users.
      rows, items, values: integers [N], [N], float32 [N]: the values to add to the scores at (row, item); row B is
        ignored.
      start: None if walks over users have no weight.
    """

    users: np.ndarray
    latest: Latest
    rows: np.ndarray
    items: np.ndarray
    values: np.ndarray
    start: Start | None

    def without(self, rows: np.ndarray, items: np.ndarray) -> Block:
        """The block as programs read it: -inf is added for songs withheld at (row, item), and lists are padded.

        One list has few lengths; withheld songs in a list of their own would multiply the programs to compile.
        """
        there = rows < len(self.users)
        withheld = rows[there], items[there], np.full(int(there.sum()), -np.inf, np.float32)
        columns = map(np.append, (self.rows, self.items, self.values), withheld)
        return Block(self.users, self.latest, *_padded(*columns, out_of_range=len(self.users)), self.start)


_NONE = np.zeros(0, np.int32)


def queries(users: jax.Array, songs: jax.Array, items: jax.Array, age: jax.Array, engagement: jax.Array) -> jax.Array:
    """The query vectors of users: their embeddings, and the attention over their latest songs at each time scale.

    The logits of the attention at half-life h are log(engagement) - ln 2 * age / h: a_j is in proportion to
    engagement_j 2^(-age_j / h).

    Args:
      users: float32 [B, d], embeddings of the users.
      songs: float32 [B, L, d], of their latest songs; any values in the padding.
      items, age, engagement: [B, L], see history.Latest.

    Returns:
      float32 [B, Q, d], see QUERIES.
    """
    where = (items >= 0) & (engagement > 0)
    strength = jnp.log(jnp.where(where, engagement, 1.0))
    heads = [pool(songs, strength - jnp.log(2.0) * age / h, where)[0] for h in ATTENTION_HALF_LIVES]
    return jnp.stack([users, *heads], axis=1)


def _queries(user_emb: jax.Array, item_emb: jax.Array, users: jax.Array, latest: Latest) -> jax.Array:
    return queries(user_emb[users], item_emb[jnp.maximum(latest.items, 0)], *latest)


def of_songs(weights: jax.Array, query: jax.Array) -> jax.Array:
    """The queries [B, Q, d] as one with these weights [Q]: float32 [B, d]."""
    return jnp.einsum("q,bqd->bd", weights, query, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class RecencyScorer:
    """Scores of all songs for users with histories, as of a moment. It is a ranking.ScoreBlock.

    Attributes:
      embeddings: of the encoder. User u of `histories` has row u of the user embeddings.
      weights: by feature, from fit.fit_head; features without an entry have the weight 0.
      moment: of all songs.
      histories: of the users.
      latest_length: number of songs that the attention sees.
      now: seconds, not before the moment; None: the moment's time.
      backend: of the sparse product, see propagation.choose_backend.
      guests: the users, if they have events that the moment does not hold, see `hosting`; else None.
    """

    embeddings: Embeddings
    weights: Weights
    moment: Moment
    histories: Histories
    latest_length: int
    now: int | None = None
    backend: str = "auto"
    guests: Guests | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "embeddings", Embeddings(*map(on_one_device, self.embeddings)))
        object.__setattr__(self, "backend", choose_backend(self.backend))
        object.__setattr__(self, "now", self.moment.now if self.now is None else int(self.now))
        self.moment.check(self.now)

    def at(self, now: int | None = None, **changes: object) -> RecencyScorer:
        """The same scorer at a later time, with other weights, or for the users of other histories.

        Args:
          now: seconds; None: unchanged.
          changes: `weights`, `histories`, `embeddings`, `moment`; unchanged arrays are shared.

        Raises:
          UserError: `now` is earlier than the moment.
        """
        return dataclasses.replace(self, now=self.now if now is None else now, **changes)

    def hosting(self, guests: Guests, *, now: int | None = None) -> RecencyScorer:
        """The scorer of guests, users 0..B - 1, at a time; what all users share is shared.

        Args:
          guests: listeners with events that the moment does not hold.
          now: seconds, not before the moment; None: unchanged. Later events are not read.
        """
        embeddings = Embeddings(jnp.asarray(guests.embeddings), self.embeddings.item)
        hosted = self.at(now, embeddings=embeddings, histories=guests.histories, guests=guests)
        hosted.__dict__["_listeners"] = self._listeners
        if hosted.now == self.now:
            hosted.__dict__["_songs"] = self._songs
        return hosted

    @property
    def num_items(self) -> int:
        return self.moment.num_items

    @property
    def block_size(self) -> int:
        """Users scored at once. A block needs memory for the walks' table, the scores and one copy of the scores."""
        return rows_with_copies(self.num_items, most=_MOST_USERS)

    @functools.cached_property
    def _trend(self) -> np.ndarray:
        return self.moment.trend(self.now)

    @functools.cached_property
    def _listeners(self) -> Csr:
        return prepare(self.moment.listeners_on_device, self.backend)

    @functools.cached_property
    def _songs(self) -> SongArrays:
        walks = self._of(PARTS["users"])
        return SongArrays(
            self.embeddings.item,
            self.moment.weighted_trend(self.now, self._of(TREND)),
            self._listeners if walks.any() else None,
            jnp.asarray(self._of(QUERIES)),
            jnp.asarray(walks),
        )

    def _of(self, names: tuple[str, ...]) -> np.ndarray:
        return np.array([self.weights.get(name, 0.0) for name in names], np.float32)

    # --- A block of users, on the host ---

    def read(self, users: np.ndarray) -> UserLists:
        """Reads the histories of users, as the score needs them."""
        shape = {"num_items": self.num_items, "latest_length": self.latest_length}
        return read_users(self.histories, users, now=self.now, **shape)

    def prepare(self, users: np.ndarray) -> Block:
        """The device's input for users int32 [B]; several threads may prepare at a time."""
        users = np.asarray(users, np.int32)
        lists = self.read(users)
        found = [
            (
                row_of_each(lists.offsets),
                lists.items,
                lists.features @ self._of(FAMILIARITY),
            )
        ]
        starts = self._starts(lists)
        for names, part in zip(self.moment.names, ("artists", "albums"), strict=True):
            weights = self._of(PARTS[part])
            if weights.any() and names.into.nnz:
                walk = walk_over_names(starts, names.into, names.back)
                row = row_of_each(walk.indptr)
                found.append((row % len(users), walk.indices, weights[row // len(users)] * walk.data))
        start = self._start(starts, users) if self._of(PARTS["users"]).any() else None
        for row, songs, trend in self._guest_trends(users):
            change = (trend - self.moment.trend_of(songs, self.now)) @ self._of(TREND)
            found.append((np.full(len(songs), row), songs, change))
        columns = [np.concatenate(column) for column in zip(*found, strict=True)]
        return Block(users, lists.latest, *columns, start)

    def _starts(self, lists: UserLists) -> sparse.csr_array:
        """The start distributions of the walks, float32 [W B, I]: for each half-life, one row per user."""
        num_walks, num_rows = lists.starts.shape[1], len(lists.offsets) - 1
        offsets = np.append(
            np.add.outer(np.arange(num_walks) * lists.offsets[-1], lists.offsets[:-1]), num_walks * lists.offsets[-1]
        )
        entries = lists.starts.T.ravel(), np.tile(lists.items, num_walks), offsets
        return sparse.csr_array(entries, (num_walks * num_rows, self.num_items))

    def _guest_trends(self, users: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For guests: the row in `users`, the songs whose trend the guest's events change, and their trend."""
        for row, guest in enumerate(users if self.guests is not None else ()):
            yield row, *self.guests.trends(int(guest), self.moment, now=self.now)

    def _nodes(self, starts: sparse.csr_array, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, Entries | None]:
        """`nodes`, `scale` and `through` of Start."""
        nodes = np.ascontiguousarray((starts @ self.moment.listeners).toarray().T)
        if self.guests is None:
            total, through = self.moment.user_totals @ nodes, None
        else:
            known, rows = self.guests.known[users], np.arange(len(users))
            by_walk = nodes.reshape(len(nodes), -1, len(users))
            # The moment's own column of a known user is out of date.
            by_walk[known[known >= 0], :, rows[known >= 0]] = 0.0
            columns = self.guests.columns(users, now=self.now, num_items=self.num_items)
            num_walks = by_walk.shape[1]
            of_walks = sparse.vstack([columns] * num_walks, format="csr")
            mass = starts.multiply(of_walks).sum(axis=1)
            total = self.moment.user_totals @ nodes + mass * of_walks.sum(axis=1)
            column = row_of_each(of_walks.indptr)
            through = Entries(of_walks.indices, column, (of_walks.data * mass[column]).astype(np.float32))
        scale = self.num_items / np.maximum(total, 1e-12)
        return nodes, scale.astype(np.float32), through

    def _start(self, starts: sparse.csr_array, users: np.ndarray) -> Start:
        nodes, scale, through = self._nodes(starts, users)
        if self.backend != "csr" or len(users) > _FEW_USERS:
            if through is not None:
                through = Entries(*_padded(*through, out_of_range=self.num_items))
            return Start(nodes, None, scale, through)
        reached = list(_two_threads().map(self.moment.listeners.__matmul__, np.ascontiguousarray(nodes.T)))
        reached = np.stack(reached, axis=1)
        if through is not None:  # a song is once in a column
            reached[through.rows, through.columns] += through.values
        return Start(None, reached, scale)

    # --- Scores ---

    def __call__(self, users: np.ndarray) -> jax.Array:
        """Scores of all songs, float32 [B, I], of users int32 [B]."""
        block = self.prepare(users).without(_NONE, _NONE)
        return _score(self.embeddings.user, self._songs, block, backend=self.backend)

    def ranked(
        self, block: Block, allowed: jax.Array | None, rows: np.ndarray, items: np.ndarray, *, k: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`ranking.best_songs` of a prepared block; scores and ranking are one program."""
        given = self.embeddings.user, self._songs, block.without(rows, items), allowed
        return _rank(*given, k=k, backend=self.backend)

    def rank(
        self, users: np.ndarray, k: int, *, allowed: np.ndarray | None = None, out: Pairs | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best songs of a block of users; `ranking.rank` goes through many blocks.

        Args:
          users: int32 [B].
          k: at most I.
          allowed: bool [I], songs that may be recommended; None: all.
          out: B rows, songs withheld from each user; None: none.

        Returns:
          songs int32 [B, k], best first, padded with -1, and scores float32 [B, k].
        """
        rows, items = mask_indices(out, 0, len(users), out_of_range=len(users))
        found, scores, _ = self.ranked(self.prepare(users), allowed, rows, items, k=k)
        return np.asarray(found), np.asarray(scores)

    # --- Features, for the fit and for reasons ---

    def features(self, users: np.ndarray) -> BlockFeatures:
        """All features of all songs for users int32 [B], also those without a weight."""
        users = np.asarray(users, np.int32)
        lists = self.read(users)
        starts = self._starts(lists)
        start, songs = self._start(starts, users), self._songs._replace(listeners=self._listeners)
        on_device = _features(self.embeddings.user, songs, users, lists.latest, start, backend=self.backend)
        return BlockFeatures(lists, self._name_walks(starts), on_device, self._trend)

    def first_songs(
        self, features: BlockFeatures, allowed: jax.Array, rows: np.ndarray, items: np.ndarray, *, k: int
    ) -> np.ndarray:
        """For each of ON_DEVICE and each user, the songs of largest value: int32 [F, B, k]; see ranking.best_songs."""
        return np.asarray(_first_songs(features.on_device, allowed, rows, items, k=k))

    def contributions(self, user: int, songs: np.ndarray) -> dict[str, np.ndarray]:
        """The contribution of each of PARTS to the scores of some songs for a user: float32 [n] each.

        Args:
          user: index of the user.
          songs: int32 [n].
        """
        users, songs = np.array([user], np.int32), np.asarray(songs, np.int32)
        lists = self.read(users)
        starts = self._starts(lists)
        nodes, scale, through = self._nodes(starts, users)
        reached = self.moment.listeners[songs] @ nodes
        if through is not None:
            shape = (self.num_items, reached.shape[1])
            reached += sparse.csr_array((through.values, (through.rows, through.columns)), shape)[songs].toarray()
        walks = np.log1p(reached * scale)
        # Padded to a power of two, so that few shapes are compiled.
        filled = np.append(songs, np.zeros((1 << max(len(songs) - 1, 15).bit_length()) - len(songs), np.int32))
        dots = np.asarray(_dots_at(*self.embeddings, users, lists.latest, filled))[:, : len(songs)]
        trend = self.moment.trend_of(songs, self.now)
        for _, changed, values in self._guest_trends(users):
            trend = np.where(np.isin(songs, changed)[:, None], _values_at(changed, values, songs), trend)
        known = BlockFeatures(lists, self._name_walks(starts), None, trend)
        values = known.joined(np.concatenate([dots, walks.T])[:, None], songs[None], trend[None])[0]
        weighted = values * self._of(FEATURES)
        return {
            part: weighted[:, [FEATURES.index(name) for name in names]].sum(axis=1) for part, names in PARTS.items()
        }

    def _name_walks(self, starts: sparse.csr_array) -> list[sparse.csr_array]:
        return [walk_over_names(starts, names.into, names.back) for names in self.moment.names]


class BlockFeatures(NamedTuple):
    """The features of all songs for B users, stored where they are not 0.

    Attributes:
      lists: of the users, with the features FAMILIARITY.
      walks: of artists and of albums, float32 [W B, I]: a row for each half-life and user.
      on_device: float32 [len(ON_DEVICE), B, I]; None if these features are known for some songs only, see `joined`.
      trend: float32 [I, T], or of some songs, likewise.
      take: `on_device` of some songs [B, C] of each user, float32 [len(ON_DEVICE), B, C].
    """

    lists: UserLists
    walks: Sequence[sparse.csr_array]
    on_device: jax.Array | None
    trend: np.ndarray
    take: Callable[[jax.Array, np.ndarray], np.ndarray] = lambda features, songs: np.asarray(_take(features, songs))

    def of_names(self, row: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Songs int32 [n] and values float32 [n] of each walk over names of one user."""
        for walk in self.walks:
            for at in range(row, walk.shape[0], len(self.lists.offsets) - 1):
                mine = slice(walk.indptr[at], walk.indptr[at + 1])
                yield walk.indices[mine], walk.data[mine]

    def at(self, songs: np.ndarray) -> np.ndarray:
        """Features of some songs, float32 [B, C, F], see FEATURES.

        Args:
          songs: int32 [B, C], padded with -1, for which all features are 0.
        """
        songs = np.asarray(songs)
        on_device = self.take(self.on_device, np.maximum(songs, 0))
        return self.joined(on_device, songs, self.trend[np.maximum(songs, 0)])

    def joined(self, on_device: np.ndarray, songs: np.ndarray, trend: np.ndarray) -> np.ndarray:
        """`at` with given features of these songs: on_device float32 [len(ON_DEVICE), B, C], trend [B, C, T]."""
        clipped, on_device = np.maximum(songs, 0), np.moveaxis(on_device, 0, 2)
        found = np.zeros((*songs.shape, len(FEATURES)), np.float32)
        lists = self.lists
        for row, wanted in enumerate(clipped):
            mine = slice(lists.offsets[row], lists.offsets[row + 1])
            of_names = [_values_at(items, values[:, None], wanted) for items, values in self.of_names(row)]
            familiar = _values_at(lists.items[mine], lists.features[mine], wanted)
            found[row] = np.concatenate([on_device[row], *of_names, trend[row], familiar], axis=1)
        return np.where((songs >= 0)[..., None], found, 0.0)


def _values_at(items: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The rows of `values` [P, F] for `wanted` [C] among distinct items [P]: float32 [C, F], 0 for other items."""
    if len(items) == 0:
        return np.zeros((len(wanted), values.shape[1]), np.float32)
    order = np.argsort(items)
    at = order[np.minimum(np.searchsorted(items, wanted, sorter=order), len(items) - 1)]
    return np.where((items[at] == wanted)[:, None], values[at], np.float32(0))


def walk_over_names(starts: sparse.csr_array, into: sparse.csr_array, back: sparse.csr_array) -> sparse.csr_array:
    """log(1 + I p) of two-step walks, sparse [W B, I]; 1 / I is the probability of a random song."""
    walk = starts @ into @ back
    row = row_of_each(walk.indptr)
    total = np.maximum(np.bincount(row, walk.data, walk.shape[0]), 1e-12)
    walk.data = np.log1p(walk.data * (walk.shape[1] / total).astype(np.float32)[row])
    return walk


def _padded(rows: np.ndarray, items: np.ndarray, values: np.ndarray, *, out_of_range: int) -> tuple[np.ndarray, ...]:
    length = _LEAST_LIST
    while length < len(rows):
        length *= 4
    fill = length - len(rows)
    return (
        np.concatenate([rows, np.full(fill, out_of_range)]).astype(np.int32),
        np.concatenate([items, np.zeros(fill, np.int32)]).astype(np.int32),
        np.concatenate([values, np.zeros(fill, np.float32)]).astype(np.float32),
    )


@functools.cache
def _two_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(WALK_HALF_LIVES), thread_name_prefix="walks")


# --- On the device ---


def walks_over_users(listeners: Csr, start: Start, backend: str) -> jax.Array:
    """log(1 + I p) of the walks over users, float32 [I, W B]."""
    reached = start.reached
    if reached is None:
        # No gradient is taken, so there is no transpose.
        reached = spmm(Matrix(listeners, None), start.nodes, backend)
        if start.through is not None:
            rows, columns, values = start.through
            reached = reached.at[rows, columns].add(values, mode="drop")
    return jnp.log1p(reached * start.scale[None])


def _products(queries: jax.Array, table: jax.Array) -> jax.Array:
    """queries [B, d] times the transpose of table [I, d], float32 [B, I]."""
    highest = jax.lax.Precision.HIGHEST
    if len(queries) == 1:
        # For one row, XLA on a CPU would first copy the table into its transpose: 36 ms instead of 3 at 251,558 songs.
        return jnp.matmul(table, queries[0], precision=highest)[None]
    return jnp.matmul(queries, table.T, precision=highest)


@functools.partial(jax.jit, static_argnames="backend")
def _score(
    user_emb: jax.Array, songs: SongArrays, block: Block, allowed: jax.Array | None = None, *, backend: str
) -> jax.Array:
    """Scores float32 [B, I], -inf for songs that are not allowed. Arrays are arguments, as XLA would fold constants."""
    query = _queries(user_emb, songs.item, block.users, block.latest)
    of_all = songs.trend if allowed is None else jnp.where(allowed, songs.trend, -jnp.inf)
    scores = weighted_sum(songs, of_songs(songs.of_query, query), of_all, block.start, backend)
    return scores.at[block.rows, block.items].add(block.values, mode="drop")


def weighted_sum(
    songs: SongArrays, query: jax.Array, of_all: jax.Array, start: Start | None, backend: str
) -> jax.Array:
    """The scores without the listed values, float32 [B, I]: of `query` [B, d], of `of_all` [I] and of the walks."""
    scores = _products(query, songs.item) + of_all[None]
    if start is not None:
        # One product weights, sums over the half-lives and transposes; this is faster than a transposition.
        weights = jnp.concatenate([w * jnp.eye(len(query)) for w in songs.of_walk], axis=1)
        scores += _products(weights, walks_over_users(songs.listeners, start, backend))
    return scores


@functools.partial(jax.jit, static_argnames=("k", "backend"))
def _rank(
    user_emb: jax.Array, songs: SongArrays, block: Block, allowed: jax.Array | None, *, k: int, backend: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return best_songs(_score(user_emb, songs, block, allowed, backend=backend), None, None, None, k=k)


@functools.partial(jax.jit, static_argnames="backend")
def _features(
    user_emb: jax.Array, songs: SongArrays, users: jax.Array, latest: Latest, start: Start, *, backend: str
) -> jax.Array:
    """ON_DEVICE of all songs, float32 [len(ON_DEVICE), B, I]."""
    return features_of_all(songs, _queries(user_emb, songs.item, users, latest), start, backend)


def features_of_all(songs: SongArrays, query: jax.Array, start: Start, backend: str) -> jax.Array:
    """ON_DEVICE of all songs for queries [B, Q, d], float32 [len(ON_DEVICE), B, I]."""
    dots = jnp.einsum("bqd,id->qbi", query, songs.item, precision=jax.lax.Precision.HIGHEST)
    walks = walks_over_users(songs.listeners, start, backend)
    return jnp.concatenate([dots, jnp.moveaxis(walks.reshape(len(walks), len(WALK_HALF_LIVES), -1), 0, 2)])


@jax.jit
def _dots_at(user_emb: jax.Array, item_emb: jax.Array, users: jax.Array, latest: Latest, songs: jax.Array) -> jax.Array:
    """Products of the queries of one user with some songs, float32 [Q, C]."""
    query = _queries(user_emb, item_emb, users, latest)[0]
    return jnp.matmul(query, item_emb[songs].T, precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames="k")
def _first_songs(features: jax.Array, allowed: jax.Array, rows: jax.Array, items: jax.Array, *, k: int) -> jax.Array:
    return jax.lax.map(lambda scores: best_songs(scores, allowed, rows, items, k=k)[0], features)


@jax.jit
def _take(features: jax.Array, songs: jax.Array) -> jax.Array:
    """float32 [F, B, C] of [F, B, I]."""
    return jnp.take_along_axis(features, songs[None], axis=2)
