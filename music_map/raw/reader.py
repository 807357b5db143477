"""Streams Parquet logs by batches, checking schema, nulls and order as it goes; nothing is held whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from music_map.errors import UserError
from music_map.raw.schema import AUDIO_DIM, EVENT_SCHEMAS, ITEM_SCHEMAS

BATCH_ROWS = 1 << 20

Columns = dict[str, np.ndarray]


def open_parquet(path: Path) -> pq.ParquetFile:
    """Opens a Parquet file.

    Raises:
      UserError: it is missing, empty, cut off or no Parquet; the message names it.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; download it, generate it, or set config.data.raw_dir and config.data.size"
        )
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes); download it again")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as e:
        raise UserError(f"{path}: not a whole Parquet file ({_short(e)}); download it again") from e


def _short(error: Exception) -> str:
    return str(error).split("\n")[0].split(". ")[0][:120]


def _check_columns(path: Path, schema: pa.Schema, wanted: pa.Schema, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in schema.names:
            raise UserError(f"{path}: lacks the column {name!r}; it has {', '.join(schema.names)}")
        have, want = schema.field(name).type, wanted.field(name).type
        if pa.types.is_list(want):
            is_list = pa.types.is_list(have) or pa.types.is_large_list(have) or pa.types.is_fixed_size_list(have)
            good = is_list and pa.types.is_floating(have.value_type)
        else:
            good = pa.types.is_integer(have)
        if not good:
            raise UserError(f"{path}: column {name!r} is {have}, should be {want}; convert it")


def _integers(path: Path, name: str, column: pa.Array, wanted: pa.DataType, first_row: int) -> np.ndarray:
    """A column as the schema's integer type; names the first null or value out of range."""
    if column.null_count:
        row = first_row + pc.index(column.is_null(), True).as_py()
        raise UserError(f"{path}: column {name!r} is null in row {row}; drop or fill such rows")
    values = column.to_numpy(zero_copy_only=False)
    if column.type == wanted:
        return values
    low, high = (getattr(np.iinfo(wanted.to_pandas_dtype()), side) for side in ("min", "max"))
    wrong = (values < low) | (values > high)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise UserError(
            f"{path}: column {name!r} is {values[at]} in row {first_row + at}, beyond {wanted}; renumber it"
        )
    return values.astype(wanted.to_pandas_dtype())


def _batches(path: Path, file: pq.ParquetFile, columns: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(batch_rows, columns=list(columns), use_threads=True)
    except (pa.ArrowInvalid, OSError) as e:
        raise UserError(f"{path}: cannot be read to its end ({_short(e)}); download it again") from e


def read_table(path: Path, name: str, columns: Sequence[str], *, batch_rows: int = BATCH_ROWS) -> Iterator[Columns]:
    """Streams integer columns of an event or mapping file.

    Args:
      path: the file.
      name: its key in EVENT_SCHEMAS or ITEM_SCHEMAS, e.g. "listens".
      columns: which columns.
      batch_rows: most rows per batch.

    Yields:
      {column: array [B]} in the schema's dtypes, B > 0.

    Raises:
      UserError: file, column, type, null or value out of range, named.
    """
    schema = {**EVENT_SCHEMAS, **ITEM_SCHEMAS}[name]
    file = open_parquet(path)
    _check_columns(path, file.schema_arrow, schema, columns)
    row = 0
    for batch in _batches(path, file, columns, batch_rows):
        if batch.num_rows:
            yield {c: _integers(path, c, batch.column(c), schema.field(c).type, row) for c in columns}
        row += batch.num_rows


def read_events(path: Path, name: str, columns: Sequence[str], *, batch_rows: int = BATCH_ROWS) -> Iterator[Columns]:
    """Streams an event file like `read_table`, and checks that it is sorted by uid, then timestamp.

    Raises:
      UserError: besides those of read_table, the first row that is out of order.
    """
    last, row = (-1, -1), 0
    for batch in read_table(path, name, columns, batch_rows=batch_rows):
        uid, time = batch["uid"].astype(np.int64), batch["timestamp"].astype(np.int64)
        ordered = (uid[1:] > uid[:-1]) | ((uid[1:] == uid[:-1]) & (time[1:] >= time[:-1]))
        if (uid[0], time[0]) < last or not ordered.all():
            at = 0 if (uid[0], time[0]) < last else 1 + int(np.argmin(ordered))
            raise UserError(
                f"{path}: row {row + at} is out of order; sort the file by uid, then timestamp "
                "(pyarrow: table.sort_by([('uid', 'ascending'), ('timestamp', 'ascending')]))"
            )
        last, row = (int(uid[-1]), int(time[-1])), row + len(uid)
        yield batch


def read_embeddings(
    path: Path, wanted: np.ndarray, *, batch_rows: int = 1 << 15
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Streams the audio embeddings of some songs.

    Args:
      path: embeddings.parquet.
      wanted: uint32, ascending original ids; all other rows are passed over.
      batch_rows: most rows in memory.

    Yields:
      (rows read, positions in `wanted` int64 [b], unit embeddings float32 [b, 128]) per batch; b may be 0.

    Raises:
      UserError: file, column, wrong length, null or a value that is not finite, named with the song.
    """
    file = open_parquet(path)
    column = "normalized_embed" if "normalized_embed" in file.schema_arrow.names else "embed"
    columns = ["item_id", column]
    _check_columns(path, file.schema_arrow, ITEM_SCHEMAS["embeddings"], columns)
    row = 0
    for batch in _batches(path, file, columns, batch_rows):
        ids = _integers(path, "item_id", batch.column("item_id"), pa.uint32(), row)
        at = np.minimum(np.searchsorted(wanted, ids), max(len(wanted) - 1, 0))
        keep = wanted[at] == ids if len(wanted) else np.zeros(len(ids), bool)
        lists = batch.column(column).filter(pa.array(keep))
        yield batch.num_rows, at[keep], _unit_vectors(path, column, lists, ids[keep])
        row += batch.num_rows


def _unit_vectors(path: Path, column: str, lists: pa.Array, ids: np.ndarray) -> np.ndarray:
    def refuse(bad: np.ndarray, what: str) -> None:
        if bad.any():
            raise UserError(
                f"{path}: column {column!r} {what} for item_id {ids[np.argmax(bad)]}; drop the row or mend it"
            )

    refuse(lists.is_null().to_numpy(zero_copy_only=False), "is null")
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    refuse(lengths != AUDIO_DIM, f"does not have {AUDIO_DIM} numbers")
    flat = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    vectors = flat.astype(np.float32).reshape(-1, AUDIO_DIM)
    refuse(~np.isfinite(vectors).all(axis=1), "has a null or a number that is not finite")
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    refuse(norm[:, 0] == 0, "is all zeros")
    return vectors / norm
