"""The logs' own ids and the songs' names, from the tables that convert wrote beside the logs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from music_map.errors import UserError
from music_map.ids import SONG_FIELDS, Ids, Texts
from music_map.preprocess.ids import IdIndex
from music_map.raw.reader import BATCH_ROWS, open_parquet, record_batches, reject_nulls

_REMEDY = "convert the logs again, or remove the tables of ids beside them"


def read_own_ids(path: Path, index: IdIndex) -> Ids:
    """The own ids of the kept numbers, and their names if there are any.

    Args:
      path: a table with the columns number and id, and optionally title, artist, album and genre (songs) or name
        (artists, albums). If there is no such file, or each id equals its number, the numbers are the ids.
      index: the kept numbers.
    Raises:
      UserError: a column is missing or of another type, a null, a kept number or an id occurs twice, or a kept number
        has no id.
    """
    if not path.is_file():
        return Ids(index.ids)
    with open_parquet(path) as file:
        found = file.schema_arrow.names
    if missing := [name for name in ("number", "id") if name not in found]:
        raise UserError(f"{path}: has no column {missing[0]}, only {', '.join(found)}; {_REMEDY}")
    columns = [name for name in ("number", "id", "name", *SONG_FIELDS) if name in found]
    places, kept, row = [np.empty(0, np.int32)], [], 0
    for batch in record_batches(path, columns, batch_rows=BATCH_ROWS):
        for name in ("number", "id"):
            reject_nulls(batch.column(name), path, name, row)
        at = index.lookup(_numbers(batch.column("number"), path))
        places.append(at[at >= 0])
        kept.append(batch.filter(pa.array(at >= 0)))
        row += batch.num_rows
    at = np.concatenate(places)
    count = np.bincount(at, minlength=len(index))
    if len(index) and (wrong := count != 1).any():
        number = index.ids[wrong.argmax()]
        what = "occurs twice" if count[wrong.argmax()] else "is in the logs but has no id here"
        raise UserError(f"{path}: column number: {number} {what}; {_REMEDY}")
    table = pa.Table.from_batches(kept).take(np.argsort(at)) if kept else pa.table({name: [] for name in columns})
    own = _column(table, "id", path)
    counted = pc.value_counts(own)
    if len(repeated := counted.filter(pc.greater(counted.field("counts"), 1))):
        raise UserError(f"{path}: column id: {repeated[0]['values'].as_py()!r} occurs twice; {_REMEDY}")
    are_numbers = own.equals(pc.cast(pa.array(index.ids), pa.large_string()))
    texts = {name: _texts(pc.fill_null(_column(table, name, path), "")) for name in columns[2:]}
    # A column that says nothing of any song is none.
    known = {name: found for name, found in texts.items() if len(found.data)}
    return Ids(index.ids, None if are_numbers else _texts(own), known.pop("name", None), known)


def _numbers(column: pa.Array, path: Path) -> np.ndarray:
    """Numbers as uint32 [n]."""
    try:
        return pc.cast(column, pa.uint32()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise UserError(f"{path}: column number: {e}; it must hold numbers from 0 to 4294967295; {_REMEDY}") from e


def _column(table: pa.Table, name: str, path: Path) -> pa.Array:
    """A column as texts, large_string [n]."""
    try:
        return pc.cast(table[name], pa.large_string()).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise UserError(f"{path}: column {name}: {e}; it must hold texts; {_REMEDY}") from e


def _texts(column: pa.Array) -> Texts:
    """A column of texts as two arrays."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int64, len(column) + 1, 8 * column.offset)
    text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return Texts(ends - ends[0], text[ends[0] : ends[-1]])
