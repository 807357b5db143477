"""Full ranking of the catalogue for many users, by blocks of users: never a full score matrix."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from music_map.errors import UserError
from music_map.evaluation.pairs import Pairs
from music_map.progress import Progress, silent

# Scores of a block of users: int32 [B] -> float32 [B, I].
ScoreBlock = Callable[[np.ndarray], Any]

# Bytes of scores held at a time.
_BUDGET = 256 << 20


@jax.jit
def _dot(user: jax.Array, item: jax.Array, users: jax.Array) -> jax.Array:
    return user[users] @ item.T


def embedding_scores(user_emb: jax.Array, item_emb: jax.Array) -> ScoreBlock:
    """Scores that are dot products of embeddings, float32 [U, d] and [I, d]."""
    return functools.partial(_dot, user_emb, item_emb)


@functools.partial(jax.jit, static_argnames="k")
def _top_k(
    scores: jax.Array, rows: jax.Array, columns: jax.Array, candidates: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
    """Masks (rows beyond the block are dropped) and takes the best k; ties go to the lower index."""
    bad = jnp.any(jnp.isnan(scores))
    scores = jnp.where(candidates[None, :], scores, -jnp.inf).at[rows, columns].set(-jnp.inf, mode="drop")
    best, items = jax.lax.top_k(scores, k)
    return jnp.where(best > -jnp.inf, items, -1), bad


def rank(
    score_block: ScoreBlock,
    users: np.ndarray,
    masked: Pairs,
    candidates: np.ndarray,
    *,
    k: int,
    progress: Progress = silent,
) -> np.ndarray:
    """The best k candidates of each user.

    Args:
      score_block: scores of a block of users.
      users: int32 [U].
      masked: songs never to recommend, row r for users[r].
      candidates: bool [I].
      k: length of the lists.
      progress: bar over users.

    Returns:
      int32 [U, k], best first, ties to the lower index; -1 where fewer than k songs remain.

    Raises:
      UserError: a score is NaN.
    """
    num_items = len(candidates)
    width = min(k, num_items)
    block = int(np.clip(_BUDGET // (4 * num_items), 1, min(1024, max(len(users), 1))))
    allowed = jnp.asarray(candidates)
    lists = []
    with progress("ranking", len(users), "user") as advance:
        for start in range(0, len(users), block):
            rows = np.arange(start, min(start + block, len(users)))
            # The last block is filled up with its first user: one shape, one program.
            chosen = np.full(block, users[start], np.int32)
            chosen[: len(rows)] = users[rows]
            hidden = masked.take(rows)
            # Padded to a power of two for the same reason; row `block` does not exist and is dropped.
            length = 1 << max(len(hidden.items) - 1, 0).bit_length()
            at = np.full((2, length), block, np.int32)
            at[0, : len(hidden.items)] = hidden.rows
            at[1, : len(hidden.items)] = hidden.items
            scores = jnp.asarray(score_block(chosen), jnp.float32)
            best, bad = _top_k(scores, at[0], at[1], allowed, width)
            if bool(bad):
                raise UserError("scores are NaN; the model did not train: lower config.train.learning_rate")
            lists.append(np.asarray(best, np.int32)[: len(rows)])
            advance(len(rows))
    ranked = np.concatenate(lists) if lists else np.zeros((0, width), np.int32)
    return np.pad(ranked, ((0, 0), (0, k - width)), constant_values=-1)
