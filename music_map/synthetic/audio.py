"""Audio embeddings: a noisy linear projection of the artist's position in the latent space of tastes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from music_map.raw.schema import AUDIO_DIM
from music_map.synthetic.catalogue import LATENT_DIM, Catalogue
from music_map.synthetic.streams import Stream, generator

MISSING_SHARE = 0.18  # 7.72 of Yambda's 9.39 million songs have an embedding
BLOCK_SONGS = 8192  # songs that share a random stream
_SONG_NOISE, _AUDIO_NOISE = 0.7, 0.8  # norms, beside about 1.2 of the artist's vector


class Audio(NamedTuple):
    """Embeddings of K songs.

    Attributes:
      item_id: uint32 [K], ascending.
      embed: float32 [K, 128].
      normalized_embed: float32 [K, 128], unit rows.
    """

    item_id: np.ndarray
    embed: np.ndarray
    normalized_embed: np.ndarray


def audio_blocks(catalogue: Catalogue, listed: np.ndarray, seed: int) -> Iterator[Audio]:
    """Yields the embeddings of the `listed` songs (bool [N]) that have one, ascending by id, a block at a time.

    embed = (artist + song noise) P + noise, with P a random [16, 128] projection that keeps norms on average.
    """
    projection = generator(seed, Stream.AUDIO).normal(0, AUDIO_DIM**-0.5, (LATENT_DIM, AUDIO_DIM)).astype(np.float32)
    order = np.argsort(catalogue.item_id)
    order = order[listed[order]]
    for block, begin in enumerate(range(0, len(order), BLOCK_SONGS)):
        rng = generator(seed, Stream.AUDIO, 1 + block)
        song = order[begin : begin + BLOCK_SONGS]
        song = song[rng.random(len(song)) >= MISSING_SHARE]
        artist = np.searchsorted(catalogue.artist_songs, song, "right") - 1
        latent = catalogue.artist_vector[artist]
        latent = latent + rng.standard_normal(latent.shape, np.float32) * np.float32(_SONG_NOISE * LATENT_DIM**-0.5)
        embed = rng.standard_normal((len(song), AUDIO_DIM), np.float32) * np.float32(_AUDIO_NOISE * AUDIO_DIM**-0.5)
        embed += latent @ projection
        yield Audio(catalogue.item_id[song], embed, embed / np.linalg.norm(embed, axis=1, keepdims=True))
