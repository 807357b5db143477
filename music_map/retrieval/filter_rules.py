"""The filters of this package; docs/extending.md shows how to add one elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from music_map.retrieval.filters import register
from music_map.settings import setting

if TYPE_CHECKING:
    from music_map.retrieval.export import Export, UserSongs


@register("heard", setting(True, "whether songs that the user has heard may be recommended"), kind="user")
def heard(user_songs: UserSongs, user: int, value: bool) -> np.ndarray:
    del value
    return user_songs.heard_by(user)


@register(
    "max_per_artist", setting(0, "songs of one artist among the recommended; 0: any number", at_least=0), kind="cap"
)
def artists_of(export: Export) -> tuple[np.ndarray, np.ndarray]:
    return export.artist_offsets, export.artists


@register(
    "max_per_album", setting(0, "songs of one album among the recommended; 0: any number", at_least=0), kind="cap"
)
def albums_of(export: Export) -> tuple[np.ndarray, np.ndarray]:
    return export.album_offsets, export.albums


@register(
    "min_listeners", setting(0, "songs with fewer listeners in train are not recommended", at_least=0), kind="mask"
)
def min_listeners(export: Export, value: int) -> np.ndarray:
    return export.listeners >= value


@register("only_with_audio", setting(False, "songs without an audio embedding are not recommended"), kind="mask")
def only_with_audio(export: Export, value: bool) -> np.ndarray:
    del value
    return export.has_audio


@register(
    "diversity",
    setting(
        0.0, "0: by score alone; towards 1: unlike the songs before (maximal marginal relevance)", at_least=0, below=1
    ),
    kind="order",
)
class MarginalRelevance:
    """Picks argmax_i (1 - diversity) s_i - diversity max_{j picked} e_i . e_j.

    Reference: Carbonell and Goldstein, "The use of MMR", SIGIR 1998.
    """

    def __init__(self, export: Export, vectors: np.ndarray, items: np.ndarray, value: float):
        del export
        self._rows, self._diversity = vectors[items], value
        self._nearest: np.ndarray | None = None

    def gain(self, scores: np.ndarray) -> np.ndarray:
        relevance = (1.0 - self._diversity) * scores
        return relevance if self._nearest is None else relevance - self._diversity * self._nearest

    def picked(self, at: int) -> None:
        similarity = self._rows @ self._rows[at]
        self._nearest = similarity if self._nearest is None else np.maximum(self._nearest, similarity)


@register("allow", setting(None, "songs that alone may be recommended"), kind="songs")
def allow(export: Export, value: np.ndarray) -> np.ndarray:
    listed = np.zeros(len(export.item_ids), bool)
    listed[value] = True
    return listed


@register("deny", setting((), "songs that are not recommended"), kind="songs")
def deny(export: Export, value: np.ndarray) -> np.ndarray:
    return ~allow(export, value)
