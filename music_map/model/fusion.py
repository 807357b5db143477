"""The content part of a song's e^(0): audio, artists, albums and track length.

    content_i = A audio_i                        (or a learned vector where the song has no audio)
              + mean of its artists' embeddings + mean of its albums' embeddings
              + T (log-length standardised, its square)

A term is 0 if its data is unknown. So a song with any of these gets an embedding, also without listens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from music_map.model.propagation import Csr, Matrix, coo_matrix, spmm
from music_map.preprocess.dataset import ItemFeatures


class Features(NamedTuple):
    """Song features on the device; None for a kind that is absent or switched off.

    Attributes:
      audio: float32 [I, 128], rows of unit length, 0 for songs without audio. There is a row for every song, so that
        the gradient needs no scatter.
      has_audio: bool [I].
      artists: float32 [I, number of artists]; a row averages a song's artists, without the untrained ones.
      albums: likewise.
      track: float32 [I, 3]: whether the length is known (0 or 1), the log-length standardised over known lengths, and
        its square.
    """

    audio: jax.Array | None
    has_audio: jax.Array | None
    artists: Matrix | None
    albums: Matrix | None
    track: jax.Array | None


def _membership(offsets: np.ndarray, groups: np.ndarray, num_groups: int, item_degree: np.ndarray) -> Matrix | None:
    """The averaging matrix [I, groups] over groups with a trained song; None if no song has such a group."""
    num_items = len(offsets) - 1
    item = np.repeat(np.arange(num_items, dtype=np.int32), np.diff(offsets))
    trained = np.zeros(num_groups, bool)
    trained[groups[item_degree[item] > 0]] = True
    keep = trained[groups]
    item, group = item[keep], groups[keep]
    if not len(item):
        return None
    share = 1.0 / np.bincount(item, minlength=num_items)[item]
    return coo_matrix(item, group, share, num_rows=num_items, num_columns=num_groups)


def features(raw: ItemFeatures, item_degree: np.ndarray, *, audio: bool, metadata: bool) -> Features | None:
    """Puts song features on the device.

    Args:
      raw: from the processed data set.
      item_degree: float [I], 0 for songs without train edges, which are left out of all means and of learning.
      audio, metadata: the kinds to use.

    Returns:
      None if no kind is both present and wanted.
    """
    by_song = has_audio = artists = albums = track = None
    if audio and len(raw.audio):
        has_audio = np.asarray(raw.audio_row) >= 0
        by_song = np.zeros((len(has_audio), raw.audio.shape[1]), np.float32)
        by_song[has_audio] = raw.audio[raw.audio_row[has_audio]]
        by_song, has_audio = jnp.asarray(by_song), jnp.asarray(has_audio)
    if metadata:
        artists = _membership(raw.artist_offsets, raw.artists, len(raw.artist_ids), item_degree)
        albums = _membership(raw.album_offsets, raw.albums, len(raw.album_ids), item_degree)
        known = raw.track_seconds > 0
        if np.any(known & (item_degree > 0)):
            log_length = np.log(np.where(known, raw.track_seconds, 1.0))
            seen = log_length[known & (item_degree > 0)]
            z = np.where(known, (log_length - seen.mean()) / max(seen.std(), 1e-6), 0.0).clip(-4.0, 4.0)
            track = jnp.asarray(np.stack([known, z, z * z], 1), jnp.float32)
    if all(part is None for part in (by_song, artists, albums, track)):
        return None
    return Features(by_song, has_audio, artists, albums, track)


class Fusion(nn.Module):
    """The learned function from Features to float32 [I, embedding_dim].

    Attributes:
      embedding_dim: d.
      init_std: standard deviation of the initial artist and album embeddings.
      backend: see `music_map.model.propagation.spmm`.
    """

    embedding_dim: int
    init_std: float
    backend: str

    @nn.compact
    def __call__(self, inputs: Features, known: jax.Array) -> jax.Array:
        d, normal = self.embedding_dim, nn.initializers.normal(self.init_std)
        total: Any = 0.0
        if inputs.audio is not None:
            projected = nn.Dense(d, use_bias=False, name="audio")(inputs.audio)
            missing = self.param("audio_missing", nn.initializers.zeros, (1, d))
            total += jnp.where(inputs.has_audio[:, None], projected, missing)
        for name, matrix in (("artist", inputs.artists), ("album", inputs.albums)):
            if matrix is not None:
                size = matrix.backward.offsets.shape[0] - 1
                total += spmm(matrix, self.param(name, normal, (size, d)), self.backend)
        if inputs.track is not None:
            # The length is only known from listens, so a song without listens has none.
            weights = self.param("track", nn.initializers.zeros, (inputs.track.shape[1], d))
            total += (inputs.track * known[:, None]) @ weights
        return total


_NO_ENTRIES = Csr(np.zeros(2, np.int32), *(np.zeros(0, t) for t in (np.int32, np.int32, np.float32)))


def init(key: jax.Array, inputs: Features, *, embedding_dim: int, init_std: float) -> dict[str, Any]:
    """Draws the fusion's parameters."""
    # The parameters do not depend on the number of songs: one song is enough for flax, and the cheapest.
    one = jax.tree.map(lambda x: x[:1], inputs._replace(artists=None, albums=None))
    artists, albums = (m and m._replace(forward=_NO_ENTRIES) for m in (inputs.artists, inputs.albums))
    module = Fusion(embedding_dim, init_std, "segment")
    return module.init(key, one._replace(artists=artists, albums=albums), jnp.ones(1, bool))["params"]


def apply(params: dict[str, Any], inputs: Features, known: jax.Array, *, backend: str) -> jax.Array:
    """The content part of e^(0), float32 [I, d]; `known` is bool [I], False for songs treated as never listened to."""
    d = jax.tree.leaves(params)[0].shape[-1]
    return Fusion(d, 1.0, backend).apply({"params": params}, inputs, known)
