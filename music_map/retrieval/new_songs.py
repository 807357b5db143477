"""Songs added to a recommender after training: ids, rows of arrays, and an index with exact rows beside it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from music_map.errors import UserError
from music_map.ids import Ids, number_of, text_of
from music_map.model.content import Content
from music_map.model.fold_in import FoldIn, ridge
from music_map.retrieval.export import Export, IdTables
from music_map.retrieval.index import ExactIndex, Index
from music_map.unit import unit_rows

FIELDS = ("id", "audio", "artist", "album", "name")
# Rows that arrays grow by: programs are compiled for their number, so for every so many new songs.
ROOM = 256
# Songs that the regression of messages is fitted on.
_FITTED = 20_000


@dataclasses.dataclass(frozen=True, eq=False)
class GrownIds(Ids):
    """Ids with new ones at the positions after those of the logs.

    Attributes:
      added: the new ids as the logs would have them, with names or None.
    """

    added: tuple[tuple[str | int, str | None], ...] = ()

    @functools.cached_property
    def _added_at(self) -> dict[Any, int]:
        return {self._key(label): len(self.numbers) + n for n, (label, _) in enumerate(self.added)}

    def _key(self, value: Any) -> Any:
        return number_of(value) if self.own is None else text_of(value)

    def __len__(self) -> int:
        return len(self.numbers) + len(self.added)

    def index_of(self, value: Any) -> int:
        found = super().index_of(value)
        return found if found >= 0 else self._added_at.get(self._key(value), -1)

    def indices(self, values: Iterable[Any]) -> np.ndarray:
        values = list(values)
        found = super().indices(values)
        for at in np.flatnonzero(found < 0):
            found[at] = self._added_at.get(self._key(values[at]), -1)
        return found

    def label(self, position: int) -> str | int:
        at = position - len(self.numbers)
        return super().label(position) if at < 0 else self.added[at][0]

    def labels(self, positions: Iterable[int]) -> list[str | int]:
        positions = list(positions)
        if not positions or max(positions) < len(self.numbers):
            return super().labels(positions)
        return [self.label(position) for position in positions]

    def name(self, position: int) -> str | None:
        at = position - len(self.numbers)
        return super().name(position) if at < 0 else self.added[at][1]

    def field(self, field: str, position: int) -> str | None:
        if position < len(self.numbers):
            return super().field(field, position)
        return self.name(position) if field == "title" else None

    @property
    def named(self) -> bool:
        return super().named or any(name for _, name in self.added)


class GrownIndex:
    """An index with more songs beside it, which are searched exactly.

    Args:
      index: over the first songs.
      rows: float32 [n, d], unit rows of the songs after these.
    """

    def __init__(self, index: Index, rows: np.ndarray):
        self._index, self._rows = index, rows
        self.backend, self.num_items = index.backend, index.num_items + len(rows)
        self.facts = {**index.facts, "added": len(rows)}

    @property
    def grown_from(self) -> Index:
        """The index without the songs beside it."""
        return self._index

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See Index.search."""
        songs, scores = self._index.search(queries, min(k, self._index.num_items))
        beside = np.broadcast_to(
            np.arange(self._index.num_items, self.num_items, dtype=np.int32), (len(queries), len(self._rows))
        )
        songs = np.concatenate([songs, beside], axis=1)
        scores = np.concatenate([scores, queries @ self._rows.T], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        songs, scores = (np.take_along_axis(x, order, axis=1) for x in (songs, scores))
        fill = ((0, 0), (0, max(0, k - songs.shape[1])))
        return np.pad(songs, fill, constant_values=-1), np.pad(scores, fill, constant_values=-np.inf)


class NewSongs(NamedTuple):
    """N songs to add, checked, in indices.

    Attributes:
      added: ids as the logs would have them, and names.
      audio: float32 [N, 128], unit rows; 0 where there is none.
      has_audio: bool [N].
      artists, albums: indices of known names, int32 arrays.
      warnings: about unknown artists and albums.
    """

    added: tuple[tuple[str | int, str | None], ...]
    audio: np.ndarray
    has_audio: np.ndarray
    artists: list[np.ndarray]
    albums: list[np.ndarray]
    warnings: list[str]


def new_songs_of(songs: Iterable[Any], ids: IdTables, content: Content) -> NewSongs:
    """Reads songs to add.

    Args:
      songs: mappings with "id" and, as far as they are known, "audio" (numbers, as many as the data set's), "artist"
        and "album" (an id of the logs or a list of ids), and "name" ("Artist - Title").
      ids: known ids.
      content: of the model.

    Raises:
      UserError: a wrong entry; an id that is known or twice there; a song of which the model can use nothing.
    """
    if isinstance(songs, Mapping | str | bytes) or not isinstance(songs, Iterable):
        raise UserError("songs: must be a list of songs, each an object with the fields " + ", ".join(FIELDS))
    songs, width = list(songs), content.sound.shape[1]
    rows = [np.zeros(width, np.float32)] * len(songs)
    added: dict[Any, tuple[str | int, str | None]] = {}
    names: dict[str, list[np.ndarray]] = {"artist": [], "album": []}
    unknown: dict[str, list[Any]] = {"artist": [], "album": []}
    for at, song in enumerate(songs):
        where = f"songs[{at}]"
        if not isinstance(song, Mapping) or "id" not in song:
            raise UserError(f"{where}: must be an object with an id")
        if wrong := [name for name in song if name not in FIELDS]:
            raise UserError(f"{where}: unknown field {wrong[0]!r}; fields are {', '.join(FIELDS)}")
        label = _new_label(song["id"], ids.songs, where)
        if label in added:
            raise UserError(f"{where}: id {label!r} is there twice")
        name = song.get("name")
        if name is not None and not isinstance(name, str):
            raise UserError(f"{where}: name={name!r}: must be a text")
        added[label] = (label, name or None)
        if song.get("audio") is not None:
            rows[at] = _audio(song["audio"], width, where)
        for kind, table in (("artist", ids.artists), ("album", ids.albums)):
            given = song.get(kind)
            given = [] if given is None else given if isinstance(given, list | tuple) else [given]
            known, missing = table.resolve(given)
            names[kind].append(np.unique(known).astype(np.int32))
            unknown[kind] += missing
    audio = np.stack(rows) if rows else np.zeros((0, width), np.float32)
    has_audio = np.any(audio != 0, axis=1)
    of_names = (("artist", content.artists_trained), ("album", content.albums_trained))
    for at in range(len(songs)):
        said = (has_audio[at] and len(content.audio)) or any(
            len(trained) and trained[names[kind][at]].any() for kind, trained in of_names
        )
        if not said:
            raise UserError(
                f"songs[{at}]: nothing to place it by; give its audio, or an artist or album of a trained song"
            )
    tables = {"artist": ids.artists, "album": ids.albums}
    warnings = [tables[kind].unknown(kind, values) for kind, values in unknown.items() if values]
    return NewSongs(tuple(added.values()), audio, has_audio, names["artist"], names["album"], warnings)


def _new_label(value: Any, songs: Ids, where: str) -> str | int:
    """A new id as the logs would have it."""
    value = value.item() if isinstance(value, np.generic) else value
    good = not isinstance(value, bool) and isinstance(value, int | str)
    if good and songs.index_of(value) >= 0:
        raise UserError(f"{where}: id {value!r} is known already; only new songs can be added")
    usable = good and (number_of(value) >= 0 if songs.own is None else bool(text_of(value)))
    if not usable:
        kind = "a whole number below 2^32" if songs.own is None else "a text"
        raise UserError(f"{where}: id={value!r}: must be {kind}, like the ids of the logs")
    return number_of(value) if songs.own is None else str(value)


def _audio(values: Any, width: int, where: str) -> np.ndarray:
    try:
        row = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        row = np.zeros(0, np.float32)
    if row.shape != (width,) or not np.isfinite(row).all() or not row.any():
        raise UserError(f"{where}: audio must be {width} finite numbers, not all 0")
    return unit_rows(row[None])[0]


def grown_export(export: Export, known: int, new: NewSongs, embeddings: np.ndarray) -> tuple[Export, int]:
    """The export with the new songs after its first `known` songs, and room for more; and how many songs there are now.

    Rows beyond the songs are not recommendable, and nothing else.
    """
    count = known + len(new.added)
    rows = max(len(export.recommendable), known)
    if count > rows:
        rows = known + -(-len(new.added) // ROOM) * ROOM

    def filled(old: np.ndarray, values: Any) -> np.ndarray:
        found = np.zeros((rows, *old.shape[1:]), old.dtype)
        found[:known], found[known:count] = old[:known], values
        return found

    def names(offsets: np.ndarray, values: np.ndarray, added: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        ends = offsets[known] + np.cumsum([len(one) for one in added], dtype=np.int64)
        last = ends[-1] if len(ends) else offsets[known]
        grown = np.concatenate([offsets[: known + 1], ends, np.full(rows - count, last, np.int64)])
        return grown, np.concatenate([values[: offsets[known]], *added]).astype(values.dtype)

    artist_offsets, artists = names(export.artist_offsets, export.artists, new.artists)
    album_offsets, albums = names(export.album_offsets, export.albums, new.albums)
    grown = export._replace(
        item_ids=filled(export.item_ids, 0),
        item_embeddings=filled(export.item_embeddings, embeddings),
        recommendable=filled(export.recommendable, True),
        listeners=filled(export.listeners, 0),
        has_audio=filled(export.has_audio, new.has_audio),
        artist_offsets=artist_offsets,
        artists=artists,
        album_offsets=album_offsets,
        albums=albums,
    )
    return grown, count


def grown_fold_in(fold_in: FoldIn, export: Export, known: int) -> FoldIn:
    """Messages for the songs after the first `known`, as their embeddings predict them; see `make_fold_in`."""
    items = export.item_embeddings
    rows = np.random.default_rng(0).permutation(known)[:_FITTED]
    predicted = items[known:] @ ridge(items[rows], fold_in.messages[rows])
    learning = fold_in.learning and fold_in.learning._replace(songs=items)
    messages = np.concatenate([fold_in.messages[:known], predicted]).astype(np.float32)
    return fold_in._replace(messages=messages, learning=learning)


def grown_index(index: Index, vectors: np.ndarray, count: int) -> Index:
    """The index over the first `count` rows of unit vectors; what is in it already is not built again."""
    if isinstance(index, ExactIndex):  # building it is one copy
        return ExactIndex(vectors)
    first = index.grown_from if isinstance(index, GrownIndex) else index
    return GrownIndex(first, vectors[first.num_items : count])


def grown_ids(ids: IdTables, new: NewSongs) -> IdTables:
    """The ids with those of the new songs."""
    before = ids.songs.added if isinstance(ids.songs, GrownIds) else ()
    songs = ids.songs
    grown = GrownIds(songs.numbers, songs.own, songs.names, songs.fields, added=(*before, *new.added))
    return ids._replace(songs=grown)
