"""Parquet: columns of any type as text, where their meaning is clear."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from music_map.convert.settings import ColumnMapping
from music_map.convert.sources import BATCH_ROWS, ROW, Source
from music_map.raw.reader import open_parquet, record_batches

_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def read_parquet(source: Source) -> Iterator[pa.RecordBatch]:
    """Reads a Parquet file; the columns keep their types."""
    with open_parquet(source.path) as file:
        schema = file.schema_arrow
    known = {name for name in source.names if _holds(schema, name)}
    source.require([*schema.names, *known])
    names = [name for name in source.names if name in known]
    first = 0
    # Of structs only the wanted fields are read.
    for batch in record_batches(source.path, names, batch_rows=BATCH_ROWS):
        rows = np.arange(first, first + batch.num_rows)
        first += batch.num_rows
        yield pa.record_batch([*(_column(batch, name) for name in names), pa.array(rows)], names=[*names, ROW])


def _holds(schema: pa.Schema, name: str) -> bool:
    """Whether there is a column, or a field of a struct, of that name."""
    if name in schema.names:
        return True
    first, *path = name.split(".")
    kind = schema.field(first).type if schema.names.count(first) == 1 else None
    for key in path:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(key) < 0:
            return False
        kind = kind.field(key).type
    return bool(path) and kind is not None


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    first, *path = name.split(".")
    return pc.struct_field(batch.column(first), path)


def is_list(batch: pa.RecordBatch, name: str) -> bool:
    """Whether a column is there and holds lists."""
    kind = batch.schema.field(name).type if name in batch.schema.names else pa.null()
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def as_text(column: pa.Array, role: str, mapping: ColumnMapping) -> tuple[pa.Array, bool]:
    """A column as strings, and whether its type says that they are ISO 8601 times.

    Raises:
      TypeError: the type does not fit the role; the message says why and what to do.
    """
    kind, types = column.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        column, kind = column.storage, column.type.storage_type
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if types.is_string(kind):
        return column, False
    if types.is_null(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_boolean(kind):
        return column.cast(pa.string()), False
    if types.is_integer(kind) or types.is_decimal(kind):
        return column.cast(pa.string()), False
    if types.is_floating(kind):
        # NaN is what many tools write for a missing number.
        wide = column.cast(pa.float64())
        wide = pc.if_else(pc.is_nan(wide), None, wide)
        try:
            return wide.cast(pa.int64()).cast(pa.string()), False
        except pa.ArrowInvalid:  # not all are whole
            return wide.cast(pa.string()), False
    if types.is_timestamp(kind) or types.is_date(kind):
        if types.is_timestamp(kind) and kind.tz:
            # In UTC, written with a Z.
            return column.cast(pa.timestamp(kind.unit, "UTC")).cast(pa.timestamp("s", "UTC"), safe=False).cast(
                pa.string()
            ), True
        return column.cast(pa.timestamp("s"), safe=False).cast(pa.string()), True
    if types.is_duration(kind) or types.is_time(kind):
        return _length(column, role, mapping)
    if types.is_fixed_size_binary(kind) and kind.byte_width == 16:
        named = column.dictionary_encode()
        texts = [value and str(uuid.UUID(bytes=value)) for value in named.dictionary.to_pylist()]
        return pa.array(texts, pa.string()).take(named.indices), False
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        try:
            return column.cast(pa.large_binary()).cast(pa.string()), False
        except pa.ArrowInvalid:
            raise TypeError("bytes that are not UTF-8; cast it to a string") from None
    if types.is_struct(kind):
        raise TypeError(f"name a field of it, as in COLUMN.{kind.field(0).name if kind.num_fields else 'FIELD'}")
    raise TypeError("cast it to a string or a number (of a list: one row for each value, or its first value)")


def _length(column: pa.Array, role: str, mapping: ColumnMapping) -> tuple[pa.Array, bool]:
    """A duration or a time of day as a number in the unit that the role has."""
    kind = column.type
    per_second = _UNITS[kind.unit]
    count = column.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64()).cast(pa.int64())
    if role == "time" and pa.types.is_duration(kind):
        # Seconds since any moment.
        return pc.divide(count, per_second).cast(pa.timestamp("s")).cast(pa.string()), True
    unit = {"played": mapping.played_unit, "duration": mapping.duration_unit}.get(role)
    if unit not in ("seconds", "milliseconds"):
        if role == "time":
            raise TypeError("a time of day has no day; give a column of dates and times")
        raise TypeError("a length of time; " + ("give --played_unit=seconds" if role == "played" else "cast it"))
    seconds = pc.divide(count.cast(pa.float64(), safe=False), float(per_second))
    return pc.multiply(seconds, 1.0 if unit == "seconds" else 1000.0).cast(pa.string()), False
