"""Neighbours in sound: for songs, those of other songs whose audio embeddings have the largest cosine, exactly."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from music_map.errors import DamagedFileError, UserError
from music_map.preprocess.dataset import ItemFeatures
from music_map.reporter import Progress, silent
from music_map.storage import ArrayFolder, ArrayWriter, fingerprint, new_folder
from music_map.topk import rows_at_once, top_k

# Increase this when the same arguments give other neighbours: stored neighbours are then computed again.
_VERSION = 1


class Neighbours(NamedTuple):
    """Neighbours of S songs.

    Attributes:
      songs: int32 [S, N], the nearest first; -1 if a song has no audio or fewer neighbours.
      cosines: float32 [S, N], 0 for missing neighbours.
    """

    songs: np.ndarray
    cosines: np.ndarray


class Kept(NamedTuple):
    """Where computed neighbours are stored.

    Attributes:
      folder: the neighbours for one set of arguments are in its folder sound-KEY.
      identity: of the audio; the data set's fingerprint.
    """

    folder: Path
    identity: str


def neighbours(
    features: ItemFeatures,
    songs: np.ndarray,
    others: np.ndarray,
    *,
    count: int,
    kept: Kept | None = None,
    progress: Progress = silent,
) -> Neighbours:
    """The `count` nearest of `others` to each song; a song is no neighbour of itself.

    Args:
      features: audio of all songs.
      songs: integers [S].
      others: integers [P], ascending; those without audio are left out. Among equal cosines the first song is nearer.
      count: N; the width is less if there are fewer others.
      kept: the neighbours are read from here, or computed and written here. If the folder is damaged or cannot be
        written, they are computed again.
      progress: counts songs.
    """
    others = np.asarray(others)[features.audio_row[others] >= 0].astype(np.int32)
    songs = np.asarray(songs, np.int32)
    count = min(count, len(others))
    if count == 0 or len(songs) == 0:
        return Neighbours(np.zeros((len(songs), 0), np.int32), np.zeros((len(songs), 0), np.float32))
    if kept is None:
        return _compute(features, songs, others, count, progress)
    asked = [hashlib.sha256(np.ascontiguousarray(ids)).hexdigest() for ids in (songs, others)]
    identity = fingerprint({"version": _VERSION, "audio": kept.identity, "of": asked, "count": count})
    folder = kept.folder / f"sound-{identity[:12]}"
    with contextlib.suppress(DamagedFileError):
        store = ArrayFolder.open(folder)
        if store.fingerprint == identity:
            return Neighbours(*(store.load(name) for name in Neighbours._fields))
    found = _compute(features, songs, others, count, progress)
    with contextlib.suppress(UserError, OSError), new_folder(folder) as temporary:
        writer = ArrayWriter(temporary)
        for name, array in found._asdict().items():
            writer.write(name, array)
        writer.finish(fingerprint=identity, meta={})
    return found


def _compute(
    features: ItemFeatures, songs: np.ndarray, others: np.ndarray, count: int, progress: Progress
) -> Neighbours:
    found = Neighbours(np.full((len(songs), count), -1, np.int32), np.zeros((len(songs), count), np.float32))
    has_audio = np.flatnonzero(features.audio_row[songs] >= 0)
    audio = jnp.asarray(features.audio[features.audio_row[others]])
    on_device = jnp.asarray(others)
    size = min(rows_at_once(len(others)), max(len(has_audio), 1))
    with progress("sound", len(has_audio), "song") as advance:
        for start in range(0, len(has_audio), size):
            rows = has_audio[start : start + size]
            # The last block is padded with its first song: one shape needs one compilation.
            block = songs[np.append(rows, np.full(size - len(rows), rows[0]))]
            near, cosines = _nearest(features.audio[features.audio_row[block]], block, audio, on_device, count=count)
            found.songs[rows], found.cosines[rows] = np.asarray(near)[: len(rows)], np.asarray(cosines)[: len(rows)]
            advance(len(rows))
    return found


@functools.partial(jax.jit, static_argnames="count")
def _nearest(
    query: jax.Array, songs: jax.Array, audio: jax.Array, others: jax.Array, *, count: int
) -> tuple[jax.Array, jax.Array]:
    """The nearest of `others` (with `audio`) to `songs` (with audio `query`): songs and cosines, both [B, N]."""
    cosines = jnp.matmul(query, audio.T, precision=jax.lax.Precision.HIGHEST)
    # The position where a song would be among the others; a position beyond the end is dropped.
    own = jnp.searchsorted(others, songs)
    own = jnp.where(others[jnp.minimum(own, len(others) - 1)] == songs, own, len(others))
    best, at = top_k(cosines.at[jnp.arange(len(songs)), own].set(-jnp.inf, mode="drop"), count)
    there = best > -jnp.inf
    return jnp.where(there, others[at], -1), jnp.where(there, best, 0.0)
