"""Embeddings of songs without train edges: the mean of their content embedding and of played songs that sound alike.

The encoder embeds such a song i from its features alone. With N(i) the songs with train edges nearest in sound,

    e_i <- 1/2 (e_i + mean_{j in N(i)} e_j)

If embeddings have unit length ("cosine"), the mean is normalised before the addition and the sum after it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from music_map.model.encoder import l2_normalize
from music_map.model.sound import Kept, neighbours
from music_map.preprocess.dataset import ItemFeatures
from music_map.reporter import Progress, silent


class Nearest(NamedTuple):
    """Songs without train edges, and their neighbours in sound.

    Attributes:
      songs: int32 [C], songs with audio and no train edge.
      neighbours: int32 [C, N], for each the N songs of largest cosine among those with audio and train edges.
    """

    songs: jax.Array
    neighbours: jax.Array


def nearest(
    raw: ItemFeatures, item_degree: np.ndarray, *, count: int, kept: Kept | None = None, progress: Progress = silent
) -> Nearest | None:
    """Finds the neighbours, exactly.

    Args:
      raw: from the processed data set.
      item_degree: float [I], 0 for songs without train edges.
      count: N; fewer where fewer songs have been played.
      kept, progress: see sound.neighbours.

    Returns:
      None if there is no such song, or no possible neighbour.
    """
    has_audio, played = raw.audio_row >= 0, item_degree > 0
    songs = np.flatnonzero(has_audio & ~played)
    found = neighbours(raw, songs, np.flatnonzero(played), count=count, kept=kept, progress=progress).songs
    return Nearest(jnp.asarray(songs, jnp.int32), jnp.asarray(found)) if found.size else None


def place(items: jax.Array, nearest: Nearest, *, unit: bool) -> jax.Array:
    """The embeddings, with the formula above applied to `nearest.songs`.

    Args:
      items: float [I, d], song embeddings.
      nearest: from the function `nearest`.
      unit: whether embeddings have unit length.
    """
    own, around = items[nearest.songs], items[nearest.neighbours].mean(axis=1)
    moved = l2_normalize(own + l2_normalize(around)) if unit else (own + around) / 2
    return items.at[nearest.songs].set(moved)
