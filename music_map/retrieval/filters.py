"""What may be recommended, as data: songs that are out, caps by artist and album, diversity."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from music_map.errors import UserError, require
from music_map.ids import Ids
from music_map.retrieval.export import Export
from music_map.retrieval.settings import RetrievalSettings


@dataclasses.dataclass(frozen=True)
class Filters:
    """Rules that recommendations keep; hashable.

    The songs of the query itself and those that its user dislikes are always out.

    Attributes:
      heard: whether songs that the query's user has heard may be recommended.
      max_per_artist, max_per_album: most songs of one artist or album; 0: any number.
      min_listeners: songs with fewer listeners in train are out.
      only_with_audio: songs without an audio embedding are out.
      diversity: 0: by score alone; else 0..1, see `diverse`.
      allow: ids of songs, as the logs have them; where it is given, all others are out. Unknown ones change nothing.
      deny: ids of songs that are out.
    """

    heard: bool = True
    max_per_artist: int = 0
    max_per_album: int = 0
    min_listeners: int = 0
    only_with_audio: bool = False
    diversity: float = 0.0
    allow: tuple[str | int, ...] | None = None
    deny: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_per_artist", "max_per_album", "min_listeners"):
            require(getattr(self, name) >= 0, f"config.retrieval.{name}", getattr(self, name), "at least 0")
        for name in ("allow", "deny"):
            for value in getattr(self, name) or ():
                if isinstance(value, bool) or not isinstance(value, (str, int, np.integer)):
                    raise UserError(f"{name}: {value!r} is no id of a song; ids are texts or whole numbers")
        require(0.0 <= self.diversity < 1.0, "config.retrieval.diversity", self.diversity, "at least 0 and below 1")

    @property
    def by_score_alone(self) -> bool:
        """Whether the rank of a song depends on its score alone, not on the songs before it."""
        return not (self.max_per_artist or self.max_per_album or self.diversity)


def filters_of(settings: RetrievalSettings, **given: Any) -> Filters:
    """The filters that config.retrieval asks for; what is `given` and not None comes in place of it."""
    names = ("max_per_artist", "max_per_album", "min_listeners", "only_with_audio", "diversity")
    chosen = {name: getattr(settings, name) for name in names} | {k: v for k, v in given.items() if v is not None}
    return Filters(**chosen)


def unknown_in(filters: Filters, songs: Ids) -> list[str]:
    """A line for each of `allow` and `deny` that holds ids which are not known."""
    unknown = {name: songs.resolve(getattr(filters, name) or ())[1] for name in ("allow", "deny")}
    return [f"{name}: {songs.unknown('song', values)}" for name, values in unknown.items() if values]


def allowed_songs(filters: Filters, export: Export, songs: Ids | None = None) -> np.ndarray:
    """Songs that the filters leave, whoever asks: bool [I].

    Args:
      filters: the filters.
      export: what is known of the songs.
      songs: their ids; None: the numbers of the export.

    Raises:
      UserError: none is left.
    """
    songs = Ids(export.item_ids) if songs is None else songs
    allowed = export.recommendable & (export.listeners >= filters.min_listeners)
    if filters.only_with_audio:
        allowed &= export.has_audio
    if filters.allow is not None:
        listed = np.zeros(len(allowed), bool)
        listed[songs.resolve(filters.allow)[0]] = True
        allowed &= listed
    allowed[songs.resolve(filters.deny)[0]] = False
    if not allowed.any():
        noted = "".join(f"; {text}" for text in unknown_in(filters, songs))
        raise UserError(f"no song is left by the filters {_active(filters)}; loosen one of them{noted}")
    return allowed


def _active(filters: Filters) -> str:
    """The fields that differ from the defaults, without long lists."""
    told = []
    for field in dataclasses.fields(filters):
        value = getattr(filters, field.name)
        if value != field.default:
            told.append(f"{field.name}={f'{len(value)} ids' if isinstance(value, tuple) else value}")
    return ", ".join(told) or "(none is set: no song has an edge, audio, an artist or an album)"


def choose(
    filters: Filters, export: Export, vectors: np.ndarray, items: np.ndarray, scores: np.ndarray, k: int
) -> np.ndarray:
    """Picks k songs one after the other under the caps and, with diversity, by marginal relevance.

        argmax_i (1 - diversity) s_i - diversity max_{j picked} e_i . e_j

    A song of several artists counts for each; a song without artist or album is never capped. Ties go to the earlier.

    Args:
      filters: caps and diversity.
      export: artists and albums.
      vectors: float32 [I, d], unit.
      items, scores: int [n], float32 [n], candidates, best first.
      k: songs wanted.

    Returns:
      positions in `items`, int64, in the order of the recommendations; fewer than k where the caps leave no more.

    Reference: Carbonell and Goldstein, "The use of MMR", SIGIR 1998.
    """
    if not filters.diversity:
        caps = _Caps(filters, export)
        picked = []
        for at, item in enumerate(items):
            if caps.admit(int(item)):
                picked.append(at)
                if len(picked) == k:
                    break
        return np.array(picked, np.int64)
    caps, picked = _Caps(filters, export), []
    relevance = (1.0 - filters.diversity) * scores.astype(np.float64)
    rows = vectors[items]
    nearest = np.full(len(items), -np.inf)
    left = np.ones(len(items), bool)
    while len(picked) < k and left.any():
        gain = relevance - filters.diversity * np.where(np.isfinite(nearest), nearest, 0.0)
        at = int(np.argmax(np.where(left, gain, -np.inf)))
        left[at] = False
        if caps.admit(int(items[at])):
            picked.append(at)
            nearest = np.maximum(nearest, rows @ rows[at])
    return np.array(picked, np.int64)


class _Caps:
    """Counts of the artists and albums that were picked."""

    def __init__(self, filters: Filters, export: Export):
        self._rules = [
            (most, offsets, values, {})
            for most, offsets, values in (
                (filters.max_per_artist, export.artist_offsets, export.artists),
                (filters.max_per_album, export.album_offsets, export.albums),
            )
            if most
        ]

    def admit(self, item: int) -> bool:
        """Whether the song may still be picked; if so it is counted."""
        found = []
        for most, offsets, values, counts in self._rules:
            mine = values[offsets[item] : offsets[item + 1]].tolist()
            if any(counts.get(v, 0) >= most for v in mine):
                return False
            found.append((counts, mine))
        for counts, mine in found:
            for v in mine:
                counts[v] = counts.get(v, 0) + 1
        return True
