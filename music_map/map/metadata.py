"""Names of songs: those that a run knows, and a file (CSV, Parquet, JSON, JSON lines) with item_id and others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from music_map.errors import UserError
from music_map.ids import SONG_FIELDS, Ids
from music_map.storage import strict_json

SUFFIXES = (".csv", ".parquet", ".json", ".jsonl")


class Column(NamedTuple):
    """One column of texts.

    Attributes:
      name: as in the file.
      values: the different texts.
      codes: int32 [I], position in `values`, -1 where the song has none.
    """

    name: str
    values: list[str]
    codes: np.ndarray


class Metadata(NamedTuple):
    """Columns in the file's order, the number of its rows, and of those with a song of the model."""

    columns: list[Column]
    num_rows: int
    num_known: int


def names_of_run(songs: Ids) -> Metadata:
    """The names that a run knows."""
    columns = []
    for name in SONG_FIELDS:
        if name in songs.fields:
            columns.append(_column(name, [songs.field(name, at) or "" for at in range(len(songs))]))
    if songs.names is not None:
        columns.append(_column("title", [songs.name(at) or "" for at in range(len(songs))]))
    titles = [column for column in columns if column.name == "title"]
    return Metadata(columns, len(songs), int((titles[0].codes >= 0).sum()) if titles else 0)


def joined(first: Metadata, others: Metadata) -> Metadata:
    """The columns of both; of two with one name those of `first`."""
    taken = {column.name.lower() for column in first.columns}
    more = [column for column in others.columns if column.name.lower() not in taken]
    return Metadata([*first.columns, *more], first.num_rows, first.num_known)


def of_songs(metadata: Metadata, rows: np.ndarray) -> Metadata:
    """The metadata of some of the songs, int [n]."""
    return metadata._replace(columns=[column._replace(codes=column.codes[rows]) for column in metadata.columns])


def read_metadata(path: Path, songs: Ids) -> Metadata:
    """Reads a file of songs' names.

    Args:
      path: with one of SUFFIXES; JSON is a list of objects.
      songs: ids of the logs. Rows of other songs are skipped; of several rows of a song the first counts.

    Raises:
      UserError: no such file, another format, no column item_id, or an id that is no whole number where all of the
        logs are.
    """
    table = _table(path)
    if twice := sorted({name for name in table.column_names if table.column_names.count(name) > 1}):
        raise UserError(f"{path}: has the column {twice[0]!r} twice; rename or drop one of them")
    if "item_id" not in table.column_names:
        raise UserError(f"{path}: has no column item_id; its columns are {', '.join(table.column_names) or 'none'}")
    if len(table.column_names) < 2:
        raise UserError(f"{path}: has no column besides item_id; give title, artist or others")
    wanted = pa.int64() if songs.own is None else pa.string()
    try:
        if table["item_id"].null_count:
            raise ValueError("it has empty cells")
        found = songs.indices(pc.cast(table["item_id"], wanted).to_pylist())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as e:
        kind = "whole numbers" if songs.own is None else "texts"
        raise UserError(f"{path}: column item_id: {kind} wanted ({str(e).splitlines()[0]})") from e
    at, first = np.unique(found, return_index=True)
    first, at = first[at >= 0], at[at >= 0]
    columns = []
    for name in table.column_names:
        if name == "item_id":
            continue
        texts = _texts(path, name, table[name])
        column = _column(name, [texts[row] or "" for row in first])
        placed = np.full(len(songs), -1, np.int32)
        placed[at] = column.codes
        columns.append(column._replace(codes=placed))
    return Metadata(columns, len(table), len(at))


def _column(name: str, texts: Sequence[str]) -> Column:
    """A column of texts; an empty one is none."""
    values, codes = np.unique(np.array(["", *texts], object), return_inverse=True)
    return Column(name, values[1:].tolist(), (codes[1:] - 1).astype(np.int32))


def _texts(path: Path, name: str, column: pa.ChunkedArray) -> list[str | None]:
    kind = "nested values"
    try:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            return [v if v is None else ", ".join(map(str, v)) for v in column.to_pylist()]
        if not pa.types.is_nested(column.type):
            kind = str(column.type)
            return [t if t is None else t.strip() for t in pc.cast(column, pa.string()).to_pylist()]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, RecursionError):  # RecursionError: nested a thousand times
        pass
    raise UserError(f"{path}: column {name}: texts or numbers wanted, not {kind}")


def _table(path: Path) -> pa.Table:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file; give one that ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a file of songs' names")
    try:
        if suffix == ".parquet":
            return pq.ParquetFile(path).read()
        if suffix == ".csv":
            return pa.csv.read_csv(path)
        if suffix == ".jsonl":
            return pa.json.read_json(path)
        rows = strict_json(path.read_text(encoding="utf-8-sig"))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f'{path}: a list of objects wanted, such as [{{"item_id": 1, "title": "..."}}]')
        names = list(dict.fromkeys(name for row in rows for name in row))
        return pa.table({name: [row.get(name) for row in rows] for name in names})
    except (pa.ArrowException, OSError, ValueError, OverflowError) as e:  # OverflowError: a number of 20 digits
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise UserError(f"{path}: cannot be read as {suffix[1:]} ({reason})") from e
