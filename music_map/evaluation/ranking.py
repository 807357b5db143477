"""Top-k lists from scores of all songs, user block by user block, in bounded memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from music_map import processes
from music_map.axis import NAME
from music_map.errors import UserError
from music_map.evaluation.pairs import Pairs
from music_map.mesh import by_rows, make_mesh, own_rows, replicated
from music_map.reporter import Progress, silent
from music_map.threads import num_workers, ordered_map
from music_map.topk import rows_at_once, top_k

# users int32 [B] -> scores float [B, I], a NumPy or a JAX array; larger is better, -inf withdraws the song. It may also
# have three attributes: `block_size`, the number of users scored at once; `ranked`, which scores and ranks in one
# program; and `prepare`, the part of the work that needs no device. `rank` calls `prepare` ahead of time, on several
# threads, and then passes its result in place of the users. Scores of songs that are cut over the devices of several
# processes are `together`, see `music_map.evaluation.cut`.
ScoreBlock = Callable[[np.ndarray], np.ndarray | jax.Array]

_MIN_MASK = 1024


class EmbeddingScores:
    """Scores by dot product; see `embedding_scores`.

    Attributes:
      num_devices: devices that share the users of a block.
    """

    def __init__(
        self, user_emb: jax.Array | np.ndarray, item_emb: jax.Array | np.ndarray, devices: Sequence[jax.Device] | None
    ):
        self.num_devices = 1 if devices is None else len(devices)
        if self.num_devices == 1:
            self._users, self._items, self._rows = jnp.asarray(user_emb), jnp.asarray(item_emb), None
            return
        mesh = make_mesh(devices)
        self._users, self._rows = np.asarray(user_emb), by_rows(mesh)
        self._items = jax.device_put(np.asarray(item_emb), replicated(mesh))

    def __call__(self, users: np.ndarray) -> jax.Array:
        if self._rows is None:
            return _dot(self._users, self._items, users)
        # Each device gets its rows of the block; songs it has all.
        return _dot_rows(jax.device_put(self._users[users], self._rows), self._items)

    def ranked(
        self, users: np.ndarray, allowed: jax.Array | None, rows: np.ndarray, items: np.ndarray, *, k: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`best_songs` of the scores of `users` on one device: in one program, which saves a copy of them."""
        return _dot_and_rank(self._users, self._items, users, allowed, rows, items, k=k)


def embedding_scores(
    user_emb: jax.Array | np.ndarray,
    item_emb: jax.Array | np.ndarray,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> ScoreBlock:
    """Scores by dot product: score(u, i) = <user_emb[u], item_emb[i]>.

    Args:
      user_emb: float [U, D].
      item_emb: float [I, D].
      devices: devices of this process that share each block's users; None: one.
    """
    return EmbeddingScores(user_emb, item_emb, devices)


# Full precision: accelerators would otherwise multiply in bfloat16 or TF32 and swap near ties.
@jax.jit
def _dot_rows(users: jax.Array, item_emb: jax.Array) -> jax.Array:
    return jnp.matmul(users, item_emb.T, precision=jax.lax.Precision.HIGHEST)


# The embeddings are arguments: as closed-over constants XLA would fold them into the program at every compilation.
@jax.jit
def _dot(user_emb: jax.Array, item_emb: jax.Array, users: jax.Array) -> jax.Array:
    return _dot_rows(user_emb[users], item_emb)


def rank(
    score_block: ScoreBlock,
    users: np.ndarray,
    *,
    num_items: int,
    k: int,
    candidates: np.ndarray | None = None,
    masked: Pairs | None = None,
    block_size: int | None = None,
    shared: bool = False,
    progress: Progress = silent,
) -> np.ndarray:
    """The k best songs of each user, exactly.

    Args:
      score_block: int32 [B] user indices -> float [B, I] scores. A score of -inf withdraws the song.
      users: int32 [U], user indices.
      num_items: I, number of songs.
      k: length of the lists.
      candidates: bool [I], songs that may be recommended; None: all.
      masked: U rows in the order of `users`, songs withheld from that user; None: none.
      block_size: users scored at once; None: as topk.rows_at_once, for each device that shares them.
      shared: several processes call this with the same arguments; each ranks for its share of the users, and all get
        the lists of all.
      progress: reports users.

    Returns:
      int32 [U, k], item indices by descending score, equal scores by ascending index; -1 once fewer than k songs
      remain.

    Raises:
      UserError: a score of a song that may be recommended is NaN.
    """
    users = np.asarray(users, np.int32)
    if masked is not None and masked.num_rows != len(users):
        raise ValueError(f"masked has {masked.num_rows} rows for {len(users)} users")
    own = processes.share(len(users)) if shared else range(len(users))
    together = getattr(score_block, "together", False)
    # Processes that rank together go through equally many blocks, though the last one's share of users is the smallest.
    count = len(processes.share(len(users), 0)) if shared and together else len(own)
    devices = getattr(score_block, "num_devices", 1)
    block_size = block_size or getattr(score_block, "block_size", devices * rows_at_once(num_items))
    block_size = -(-min(block_size, max(count, 1)) // devices) * devices
    if together:
        allowed = score_block.allowed(candidates)
    else:
        allowed = None if candidates is None else jnp.asarray(candidates, bool)
    length = min(k, num_items)
    topk = np.full((len(own), k), -1, np.int32)
    prepare = getattr(score_block, "prepare", lambda block: block)

    def prepared(start: int) -> tuple[int, Any, np.ndarray, np.ndarray]:
        start = min(start, own.stop)
        block = users[start : min(start + block_size, own.stop)]
        # A short last block is filled up with a user: one shape, one compilation.
        filled = np.concatenate(
            [block, np.full(block_size - len(block), block[0] if len(block) else users[0], np.int32)]
        )
        return start, prepare(filled), *mask_indices(masked, start, len(block), out_of_range=block_size)

    def ranked(block: Any, rows: np.ndarray, items: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
        if hasattr(score_block, "ranked") and (together or devices == 1):
            return score_block.ranked(block, allowed, rows, items, k=length)
        scores = jnp.asarray(score_block(block))
        if scores.shape != (block_size, num_items):
            raise ValueError(f"score_block gave shape {scores.shape}, not {(block_size, num_items)}")
        return _ranker(scores.sharding)(scores, allowed, rows, items, k=length)

    workers = num_workers()
    with progress("ranking", len(own), "user") as advance, ThreadPoolExecutor(workers) as pool:

        def store(start: int, best: jax.Array, _: jax.Array, any_nan: jax.Array) -> None:
            if np.any(any_nan):
                raise UserError(
                    "a score is NaN: the model has diverged; train again, with a lower learning rate for instance"
                )
            rows = topk[start - own.start :][:block_size]
            rows[:, :length] = own_rows(best)[: len(rows)]
            advance(len(rows))

        waiting = None
        starts = range(own.start, own.start + count, block_size)
        # The device gets the next block before the host waits for the lists of this one.
        for start, *block in ordered_map(prepared, starts, pool=pool, ahead=workers):
            result = ranked(*block)
            if waiting is not None:
                store(*waiting)
            waiting = start, *result
        if waiting is not None:
            store(*waiting)
    return processes.gather_rows(topk, len(users)) if shared else topk


def _ranker(sharding: jax.sharding.Sharding) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """`best_songs` on the devices that have the scores' rows."""
    return best_songs if sharding.num_devices == 1 else _sharded_ranker(sharding)


@functools.cache
def _sharded_ranker(sharding: NamedSharding) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    def on_one_device(scores: jax.Array, allowed: jax.Array | None, rows: jax.Array, items: jax.Array, *, k: int):
        rows = rows - jax.lax.axis_index(NAME) * scores.shape[0]
        # Rows of other devices must be out of range; a negative index would count from the end.
        songs, best, any_nan = best_songs(scores, allowed, jnp.where(rows < 0, scores.shape[0], rows), items, k=k)
        return songs, best, any_nan[None]

    @functools.partial(jax.jit, static_argnames="k")
    def ranked(scores: jax.Array, allowed: jax.Array | None, rows: jax.Array, items: jax.Array, *, k: int):
        specs = (P(NAME), P(), P(), P())
        mapped = functools.partial(on_one_device, k=k)
        return jax.shard_map(mapped, mesh=sharding.mesh, in_specs=specs, out_specs=P(NAME), check_vma=False)(
            scores, allowed, rows, items
        )

    return ranked


@functools.partial(jax.jit, static_argnames="k")
def best_songs(
    scores: jax.Array, allowed: jax.Array | None, rows: jax.Array | None, items: jax.Array | None, *, k: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The k best of the songs that are neither disallowed nor at (rows, items).

    Args:
      scores: float32 [B, I].
      allowed: bool [I], or None: all.
      rows, items: int32 [N], songs withheld from single users; rows of B and more are ignored. None: none.
      k: at most I.

    Returns:
      songs int32 [B, k], best first, -1 once there are fewer; their scores float32 [B, k]; and whether a score is NaN.
    """
    if allowed is not None:
        scores = jnp.where(allowed[None], scores, -jnp.inf)
    if rows is not None:
        scores = scores.at[rows, items].set(-jnp.inf, mode="drop")
    best, index = top_k(scores, k)
    # The maximum is NaN wherever a score is (top_k ranks a NaN with the sign bit last). On CPU this takes a third of
    # the time of isnan(scores).any().
    return jnp.where(best == -jnp.inf, -1, index), best, jnp.isnan(scores.max(axis=1)).any()


@functools.partial(jax.jit, static_argnames="k")
def _dot_and_rank(
    user_emb: jax.Array,
    item_emb: jax.Array,
    users: jax.Array,
    allowed: jax.Array | None,
    rows: jax.Array,
    items: jax.Array,
    *,
    k: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return best_songs(_dot(user_emb, item_emb, users), allowed, rows, items, k=k)


def mask_indices(
    masked: Pairs | None, start: int, num_rows: int, *, out_of_range: int
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, items) of the masked pairs of a block, padded to few lengths with rows that are `out_of_range`."""
    if masked is None:
        return np.full(_MIN_MASK, out_of_range, np.int32), np.zeros(_MIN_MASK, np.int32)
    block = Pairs(
        masked.offsets[start : start + num_rows + 1] - masked.offsets[start],
        masked.items[masked.offsets[start] : masked.offsets[start + num_rows]],
    )
    # Lengths are 2^10, 2^12, ...: about ten programs at most.
    length = _MIN_MASK
    while length < len(block.items):
        length *= 4
    fill = length - len(block.items)
    rows = np.concatenate([block.rows, np.full(fill, out_of_range)]).astype(np.int32)
    return rows, np.concatenate([block.items, np.zeros(fill, np.int32)])
