"""The formats of own files: a format is a function from a file to batches of columns, and an entry in FORMATS."""

from __future__ import annotations

import dataclasses
import glob
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from music_map.errors import UserError
from music_map.registry import Registry

if TYPE_CHECKING:
    import pyarrow as pa

    from music_map.convert.sources import Source

PARQUET = (".parquet", ".pq")
_COMPRESSED = (".gz", ".bz2", ".zst")


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
      reader: a function that yields the wanted columns of a Source (a column that is absent may be left out) and ROW,
        int64, the number of each row; or where it is, "module:function", so that listing the formats imports nothing.
      suffixes: ends of file names in lower case.
    """

    reader: Callable[[Source], Iterator[pa.RecordBatch]] | str
    suffixes: tuple[str, ...] = ()

    def read(self, source: Source) -> Iterator[pa.RecordBatch]:
        """Reads a file batch by batch."""
        if isinstance(self.reader, str):
            module, _, name = self.reader.partition(":")
            return getattr(importlib.import_module(module), name)(source)
        return self.reader(source)


FORMATS: Registry[Format] = Registry("--format")
for _name, _reader, *_suffixes in (
    ("csv", "delimited:read_csv", ".csv"),
    ("tsv", "delimited:read_tsv", ".tsv", ".tab"),
    ("jsonl", "json_rows:read_json", ".jsonl", ".ndjson", ".json"),
    ("parquet", "parquet:read_parquet", *PARQUET),
    ("pages", "json_rows:read_pages"),
    ("scrobbles", "json_rows:read_scrobbles"),
    ("mpd", "json_rows:read_playlists"),
    ("recbole", "delimited:read_recbole", ".inter", ".item"),
    ("u.item", "delimited:read_films"),
    ("lightgcn", "pairs:read_lightgcn"),
):
    FORMATS.register(_name, Format(f"music_map.convert.{_reader}", tuple(_suffixes)))


def format_of(path: Path) -> str:
    """The format that a file's name tells. Raises UserError where it tells none."""
    name = path.name.lower()
    name = next((name.removesuffix(end) for end in _COMPRESSED if name.endswith(end)), name)
    formats = FORMATS.all()
    for kind, known in formats.items():
        if name.endswith(known.suffixes):
            return kind
    ends = ", ".join(end for known in formats.values() for end in known.suffixes)
    raise UserError(f"{path}: its name tells no format; end it in one of {ends}, or give --format")


def files_of(text: str | Path, suffixes: Sequence[str] = ()) -> list[Path]:
    """The files that a path means: itself, those that fit a pattern (`*.json`), or those of a folder, by name.

    Args:
      text: the path.
      suffixes: ends of the names (lower case) to take from a folder; by default those of Parquet parts.

    Raises:
      UserError: there is none.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        ends = tuple(suffixes) or PARQUET
        # Hidden files and _SUCCESS are no parts; subfolders (year=2024) hold some.
        found = [p for p in sorted(path.rglob("*")) if p.name.lower().endswith(ends) and p.name[0] not in "._"]
        if not found:
            raise UserError(f"{path}: holds no file that ends in {', '.join(ends)}; give the files, or a pattern")
        return found
    if path.exists():
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
    if not found:
        raise UserError(f"{path}: no such file; check the path")
    return found
