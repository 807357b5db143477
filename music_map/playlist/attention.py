"""The query vector of a song or a playlist: attention over the songs' embeddings."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from music_map.model.attention import pool
from music_map.unit import unit, unit_rows

# Places from the end of a playlist that share a weight: the last song, the one before, 3rd-4th, 5th-8th, ..., 65th on.
POSITIONS = 8


class Head(NamedTuple):
    """The weights of the attention logits; a rotation of the embedding space does not change them.

    Attributes:
      position: float32 [POSITIONS], by log2 of the place from the end.
      centre: float32 [], of the cosine with the playlist's centre.
      latest: float32 [], of the cosine with its last song.
      popularity: float32 [], of log(1 + listeners of the song).
    """

    position: jax.Array
    centre: jax.Array
    latest: jax.Array
    popularity: jax.Array


def attend(songs: jax.Array, where: jax.Array, popularity: jax.Array, head: Head) -> tuple[jax.Array, jax.Array]:
    """Attention-weighted query of playlists.

        m = unit(sum_i e_i),  l_i = position[bucket_i] + centre e_i . m + latest e_i . e_last + popularity p_i
        a = softmax(l),  q = unit(sum_i a_i e_i)

    with bucket_i = floor(log2(place of song i from the end, 1 for the last)). If `position` and `latest` are 0, the
    order of the songs does not matter. A single song is its own query. Padding may be anywhere and has no effect.

    Args:
      songs: float32 [..., n, d], unit rows.
      where: bool [..., n], False for padding.
      popularity: float32 [..., n], log(1 + listeners).
      head: the weights.

    Returns:
      query float32 [..., d] of unit length, 0 for a playlist without songs; weights float32 [..., n] that sum to 1 and
      are 0 on padding.
    """
    masked = jnp.where(where[..., None], songs, 0.0)
    centre = unit(jnp.sum(masked, axis=-2))
    count = jnp.cumsum(where, axis=-1)
    place = count[..., -1:] - count + 1  # from the end, the last is 1
    last = jnp.sum(jnp.where((where & (place == 1))[..., None], songs, 0.0), axis=-2)
    bucket = jnp.minimum(31 - jax.lax.clz(jnp.maximum(place, 1).astype(jnp.int32)), POSITIONS - 1)
    logits = (
        jnp.asarray(head.position)[bucket]
        + head.centre * jnp.einsum("...nd,...d->...n", masked, centre)
        + head.latest * jnp.einsum("...nd,...d->...n", masked, last)
        + head.popularity * jnp.where(where, popularity, 0.0)
    )
    query, weights = pool(masked, logits, where)
    return unit(query), weights


def attend_to(songs: np.ndarray, popularity: np.ndarray, head: Head) -> tuple[np.ndarray, np.ndarray]:
    """`attend` for one playlist without padding, float32 [n, d] and [n]. Plain NumPy: no program for each length."""
    if not len(songs):
        return np.zeros(songs.shape[1], np.float32), np.zeros(0, np.float32)
    place = np.arange(len(songs), 0, -1)
    bucket = np.minimum(np.frexp(place)[1] - 1, POSITIONS - 1)
    logits = np.asarray(head.position)[bucket] + head.latest * (songs @ songs[-1]) + head.popularity * popularity
    logits += head.centre * (songs @ unit_rows(songs.sum(axis=0, keepdims=True))[0])
    odds = np.exp(logits - logits.max())
    weights = (odds / odds.sum()).astype(np.float32)
    return unit_rows((weights @ songs)[None])[0].astype(np.float32), weights


def push_away(queries: np.ndarray, disliked: np.ndarray, strength: float) -> np.ndarray:
    """Moves queries away from disliked songs. Plain NumPy: no program for each number of songs.

        w = softmax(4 d . q),  q' = unit(q - s sum_j w_j max(0, d_j . q) d_j)

    With one disliked song, the share s of its component is removed: s = 1 makes the query orthogonal to it. A song with
    a negative cosine has no effect.

    Args:
      queries: float32 [H, d], unit rows.
      disliked: float32 [m, d], unit rows.
      strength: s, 0 to 1.

    Returns:
      float32 [H, d], unit rows.
    """
    if not len(disliked):
        return queries
    near = queries @ disliked.T
    odds = np.exp(4.0 * (near - near.max(axis=1, keepdims=True)))
    away = (odds / odds.sum(axis=1, keepdims=True) * np.maximum(near, 0.0)) @ disliked
    return unit_rows(queries - strength * away).astype(np.float32)
