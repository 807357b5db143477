"""Embeddings of songs that were not there at training, from audio, artists and albums, in NumPy.

Such a song is placed as the encoder and `music_map.model.cold` place a song of the data set without train edges:

    content_i = A audio_i                        (or a learned vector where the song has no audio)
                + mean of its artists' embeddings + mean of its albums' embeddings
    e_i       = scale content_i,    then the mean with the played songs that sound most alike

where names that no trained song has are left out of the means, and `scale` is the share of e^(0) in an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from music_map.preprocess.dataset import ItemFeatures
from music_map.unit import unit_rows


class Content(NamedTuple):
    """What places new songs; an array without rows stands for a part that the model has not.

    Attributes:
      audio: float32 [128 or 0, d], A.
      audio_missing: float32 [1 or 0, d].
      artists, albums: float32 [number of names or 0, d]; rows of names that no trained song has are 0.
      artists_trained, albums_trained: bool [number of names or 0].
      sound: float16 [P, 128], unit rows: the audio of the played songs.
      sound_items: int32 [P], these songs.
      scale: of the content in the embedding.
      neighbours: number of songs that sound alike.
      unit: whether embeddings have unit length.
    """

    audio: np.ndarray
    audio_missing: np.ndarray
    artists: np.ndarray
    albums: np.ndarray
    artists_trained: np.ndarray
    albums_trained: np.ndarray
    sound: np.ndarray
    sound_items: np.ndarray
    scale: float
    neighbours: int
    unit: bool

    def place(
        self,
        audio: np.ndarray,
        has_audio: np.ndarray,
        artists: Sequence[np.ndarray],
        albums: Sequence[np.ndarray],
        items: np.ndarray,
    ) -> np.ndarray:
        """The embeddings of N songs, float32 [N, d].

        Args:
          audio: float32 [N, 128], unit rows; 0 where there is none.
          has_audio: bool [N].
          artists, albums: for each song, indices of known names.
          items: float32 [I, d], the embeddings of the songs of the model.
        """
        total = np.zeros((len(audio), items.shape[1]))
        if len(self.audio):
            total += np.where(has_audio[:, None], audio @ self.audio, self.audio_missing)
        for table, trained, names in (
            (self.artists, self.artists_trained, artists),
            (self.albums, self.albums_trained, albums),
        ):
            for row, of in enumerate(names if len(table) else ()):
                known = of[trained[of]]
                if len(known):
                    total[row] += table[known].mean(axis=0)
        total *= self.scale
        if self.unit:
            total = unit_rows(total)
        near = np.flatnonzero(has_audio)
        if len(near) and len(self.sound) and self.neighbours:
            count = min(self.neighbours, len(self.sound))
            cosines = audio[near] @ self.sound.T.astype(np.float32)
            at = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
            around = items[self.sound_items[at]].mean(axis=1)
            if self.unit:
                total[near] = unit_rows(total[near] + unit_rows(around))
            else:
                total[near] = (total[near] + around) / 2
        return total.astype(np.float32)


def content_of(
    fusion: dict[str, Any] | None,
    features: ItemFeatures,
    item_degree: np.ndarray,
    *,
    dim: int,
    scale: float,
    neighbours: int,
    unit: bool,
) -> Content:
    """The content of a trained encoder.

    Args:
      fusion: parameters of `music_map.model.fusion`; None for a model of ids alone.
      features: of the data set.
      item_degree: float [I], 0 for songs without train edges.
      dim: d.
      scale, neighbours, unit: see Content.
    """
    found = {} if fusion is None else fusion
    none, played = np.zeros((0, dim), np.float32), item_degree > 0

    def names(kind: str, offsets: np.ndarray, values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        if kind not in found:
            return none, np.zeros(0, bool)
        trained = np.zeros(count, bool)
        trained[values[np.repeat(played, np.diff(offsets))]] = True
        return np.where(trained[:, None], np.asarray(found[kind], np.float32), 0), trained

    artists, artists_trained = names("artist", features.artist_offsets, features.artists, len(features.artist_ids))
    albums, albums_trained = names("album", features.album_offsets, features.albums, len(features.album_ids))
    heard = np.flatnonzero(played & (features.audio_row >= 0)) if "audio" in found else np.zeros(0, np.int64)
    return Content(
        np.asarray(found["audio"]["kernel"], np.float32) if "audio" in found else none,
        np.asarray(found["audio_missing"], np.float32) if "audio" in found else none,
        artists,
        albums,
        artists_trained,
        albums_trained,
        features.audio[features.audio_row[heard]].astype(np.float16),
        heard.astype(np.int32),
        scale,
        neighbours,
        unit,
    )
