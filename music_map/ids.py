"""Ids of the logs, and their positions in arrays.

Logs identify users and songs (artists, albums) by whole numbers, or by texts that the conversion has numbered. `Ids`
turns both kinds of id into positions and back:

    songs = dataset.songs
    songs.index_of("Hello, Goodbye"), songs.label(3), songs.name(3)
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from music_map.errors import DamagedFileError
from music_map.rows import offsets_of
from music_map.storage import ArrayFolder, ArrayWriter, check_rows

_MOST_NAMED, _MOST_CHARACTERS = 10, 60
# What the table of songs says of a song; each is a text, "" if unknown.
SONG_FIELDS = ("title", "artist", "album", "genre")


def index_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of `wanted` in the ascending array `ids`; -1 for unknown ids. int64 [len(wanted)]."""
    wanted = np.asarray(wanted, np.int64)
    if len(ids) == 0:
        return np.full(wanted.shape, -1, np.int64)
    # `wanted` is converted to the type of `ids`: otherwise NumPy converts all of `ids` at each call.
    inside = (wanted >= 0) & (wanted <= np.iinfo(ids.dtype).max)
    at = np.minimum(np.searchsorted(ids, np.where(inside, wanted, 0).astype(ids.dtype)), len(ids) - 1)
    return np.where(inside & (ids[at] == wanted), at, -1)


class Texts(NamedTuple):
    """Texts as two arrays: text n is data[offsets[n]:offsets[n + 1]], in UTF-8.

    Attributes:
      offsets: int64 [N + 1].
      data: uint8 [B].
    """

    offsets: np.ndarray
    data: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Encodes texts."""
        encoded = [text.encode() for text in texts]
        offsets = offsets_of(np.array([len(text) for text in encoded], np.int64))
        return cls(offsets, np.frombuffer(b"".join(encoded), np.uint8))

    def at(self, position: int) -> str:
        """The text at a position."""
        return self.data[self.offsets[position] : self.offsets[position + 1]].tobytes().decode(errors="replace")


@dataclasses.dataclass(frozen=True, eq=False)
class Ids:
    """The ids of users, songs, artists or albums; the position is the index.

    Attributes:
      numbers: uint32 [N], ascending: the ids of the Parquet logs.
      own: the ids in the original logs, [N]; None if these are the numbers.
      names: names for people, [N], "" if unknown; None if all are unknown, or if `fields` has them.
      fields: of songs: SONG_FIELDS by name, [N] each; without the fields that are unknown of every song.
    """

    numbers: np.ndarray
    own: Texts | None = None
    names: Texts | None = None
    fields: Mapping[str, Texts] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def index_of(self, value: Any) -> int:
        """The position of an id, -1 if it is unknown.

        If the logs' ids are numbers, 7 and "7" are the same id; if they are texts, 7 means "7". Other spellings ("07",
        " 7", 7.0, True) are unknown ids. No value raises an error.
        """
        if self.own is not None:
            return self._positions.get(text_of(value), -1)
        number = number_of(value)
        return int(index_of(self.numbers, np.array([number]))[0]) if number >= 0 else -1

    def indices(self, values: Iterable[Any]) -> np.ndarray:
        """`index_of` for each value: int64 [len(values)]."""
        if self.own is None:
            return index_of(self.numbers, np.fromiter(map(number_of, values), np.int64))
        return np.fromiter((self._positions.get(text_of(value), -1) for value in values), np.int64)

    def resolve(self, values: Iterable[Any]) -> tuple[np.ndarray, list[Any]]:
        """The positions of the known ids, int64, and the unknown values, both in the given order."""
        values = list(values)
        at = self.indices(values)
        return at[at >= 0], [value for value, found in zip(values, at, strict=True) if found < 0]

    def label(self, position: int) -> str | int:
        """The id at a position, as in the logs."""
        return int(self.numbers[position]) if self.own is None else self.own.at(position)

    def labels(self, positions: Iterable[int]) -> list[str | int]:
        """`label` for each position."""
        if self.own is None:
            return self.numbers[np.fromiter(positions, np.int64)].tolist()
        return [self.own.at(position) for position in positions]

    def name(self, position: int) -> str | None:
        """The name at a position, of a song "Artist - Title"; None if it is unknown."""
        if self.names is not None:
            return self.names.at(position) or None
        title, artist = self.field("title", position), self.field("artist", position)
        return f"{artist} - {title}" if title and artist else title

    def field(self, field: str, position: int) -> str | None:
        """One of SONG_FIELDS of the song at a position; None if it is unknown."""
        return (self.fields[field].at(position) or None) if field in self.fields else None

    @property
    def named(self) -> bool:
        """Whether any name is known."""
        return self.names is not None or "title" in self.fields

    def find(self, text: str) -> list[int]:
        """The positions that have a name, ascending: those whose whole name it is, else those whose title it is.

        Case, accents and the number of spaces do not count.
        """
        wanted = folded(text)
        whole, titles = self._by_name
        return whole.get(wanted) or titles.get(wanted) or []

    def unknown(self, kind: str, values: Sequence[Any]) -> str:
        """One line that names unknown ids, control characters escaped.

        Args:
          kind: of the ids, in the singular ("song").
          values: the ids, as given; at least one.
        """
        named = ", ".join(map(self._shown, values[:_MOST_NAMED])) + (", ..." if len(values) > _MOST_NAMED else "")
        example = f"; the ids look like {self._shown(self.label(0))}" if len(self) else ""
        plural = "s" if len(values) > 1 else ""
        return f"unknown {kind}{plural} {named}: not in the logs, or with too few interactions{example}"

    def _shown(self, value: Any) -> str:
        # If ids are numbers, the text "7" is the number 7; otherwise quotes show that an id is a text.
        if self.own is None and isinstance(value, str) and value.isascii() and value.isdigit():
            return value[:_MOST_CHARACTERS]
        try:
            shown = repr(value.item() if isinstance(value, np.generic) else value)
        except ValueError:  # Python refuses to write out integers of thousands of digits
            shown = f"({type(value).__name__} too long to show)"
        return shown if len(shown) <= _MOST_CHARACTERS else f"{shown[:_MOST_CHARACTERS]}..."

    @functools.cached_property
    def _positions(self) -> dict[bytes, int]:
        """The position of each own id. Made at the first look-up, because it takes 70 ms for 254,000 ids."""
        data, ends = self.own.data.tobytes(), self.own.offsets.tolist()
        return {data[first:end]: at for at, (first, end) in enumerate(itertools.pairwise(ends))}

    @functools.cached_property
    def _by_name(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Positions by folded name and by folded title. Made at the first use: about 5 us a song."""
        whole: dict[str, list[int]] = {}
        titles: dict[str, list[int]] = {}
        for table, texts in (
            (whole, (self.name(at) for at in range(len(self) if self.named else 0))),
            (titles, (self.field("title", at) for at in range(len(self) if "title" in self.fields else 0))),
        ):
            for at, text in enumerate(texts):
                if text:
                    table.setdefault(folded(text), []).append(at)
        return whole, titles

    def write(self, writer: ArrayWriter, kind: str) -> None:
        """Writes KIND_ids and, for own ids, names and fields, KIND_own_offsets, KIND_own_data, KIND_name_*, ..."""
        writer.write(f"{kind}_ids", self.numbers)
        for part, texts in (("own", self.own), ("name", self.names), *self.fields.items()):
            if texts is not None:
                writer.write(f"{kind}_{part}_offsets", texts.offsets)
                writer.write(f"{kind}_{part}_data", texts.data)

    @classmethod
    def load(cls, store: ArrayFolder, kind: str, *, verify: bool = True, mmap: bool = False) -> Ids:
        """Reads the arrays of `write`. Raises DamagedFileError like ArrayFolder.load."""
        load = functools.partial(store.load, verify=verify, mmap=mmap)

        def texts(part: str) -> Texts | None:
            names = [f"{kind}_{part}_offsets", f"{kind}_{part}_data"]
            if names[0] not in store.arrays:
                return None
            found = Texts(*map(load, names))
            check_rows(store, names[1], found.offsets, found.data, rows=len(numbers), limit=256)
            return found

        numbers = load(f"{kind}_ids")
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise DamagedFileError(
                f"{store.folder / kind}_ids.npy: needs a row of whole numbers; delete {store.folder} and run the "
                "command again to rebuild it"
            )
        fields = {field: found for field in SONG_FIELDS if kind == "item" and (found := texts(field)) is not None}
        return cls(numbers, texts("own"), texts("name"), fields)


def folded(text: str) -> str:
    """A text as names are compared: without case, accents and repeated spaces."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        text = text.translate(_DASHES)
    return " ".join(text.casefold().split())


# Players write dashes of any length between artist and title, and typographic apostrophes.
_DASHES = str.maketrans({**dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"), "\u2019": "'"})


def number_of(value: Any) -> int:
    """A value as a number id; -1 if it is none."""
    if isinstance(value, str):
        # Digits only, and no leading zero: the text of a number, in one spelling.
        if not (value.isascii() and value.isdigit() and len(value) <= 10 and str(int(value)) == value):
            return -1
        value = int(value)
    elif isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        return -1
    return int(value) if 0 <= value < 2**32 else -1


def text_of(value: Any) -> bytes | None:
    """A value as a text id in UTF-8; None if it is none."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not -(2**63) <= value < 2**64:
        return None
    return str(int(value)).encode()
