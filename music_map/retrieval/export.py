"""A trained model as arrays: embeddings, ids and what filters and explanations need, checked by checksums.

Arrays of the folder: user_ids, item_ids (original ids, ascending), user_embeddings float32 [U, d], item_embeddings
float32 [I, d], recommendable bool [I], and artist_* / album_* as in ItemFeatures.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from music_map.preprocess.dataset import ItemFeatures
from music_map.storage import ArrayFolder, ArrayWriter, new_folder


class Export(NamedTuple):
    """A trained model's embeddings and ids; see the module's description for the arrays."""

    user_ids: np.ndarray
    item_ids: np.ndarray
    user_embeddings: np.ndarray
    item_embeddings: np.ndarray
    recommendable: np.ndarray
    artist_offsets: np.ndarray
    artists: np.ndarray
    artist_ids: np.ndarray
    album_offsets: np.ndarray
    albums: np.ndarray
    album_ids: np.ndarray


def make_export(
    *,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
    user_embeddings: np.ndarray,
    item_embeddings: np.ndarray,
    item_degree: np.ndarray,
    features: ItemFeatures,
) -> Export:
    """Gathers an Export.

    A song is recommendable if train or its features say anything of it: it has an edge, audio, an artist or an album.
    """
    known = (item_degree > 0) | (features.audio_row >= 0)
    known |= np.diff(features.artist_offsets) > 0
    known |= np.diff(features.album_offsets) > 0
    return Export(
        user_ids,
        item_ids,
        user_embeddings.astype(np.float32),
        item_embeddings.astype(np.float32),
        known,
        features.artist_offsets,
        features.artists,
        features.artist_ids,
        features.album_offsets,
        features.albums,
        features.album_ids,
    )


def save_export(export: Export, folder: Path, *, fingerprint: str, step: int) -> None:
    """Writes the folder, whole or not at all; `fingerprint` names the checkpoint and data it comes from."""
    with new_folder(folder) as temporary:
        writer = ArrayWriter(temporary)
        for name, array in zip(Export._fields, export, strict=True):
            writer.write(name, array)
        writer.finish(fingerprint=fingerprint, meta={"step": step})


def load_export(folder: Path) -> tuple[Export, str]:
    """Loads the folder and its fingerprint. Raises DamagedFileError naming a damaged file."""
    store = ArrayFolder.open(folder)
    return Export(*(store.load(name) for name in Export._fields)), store.fingerprint
