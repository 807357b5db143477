"""Reads the user's own files batch by batch: CSV, TSV, JSON lines (compressed or not) and Parquet.

Text formats give every column as strings, so that no value is read as what the first rows of the file suggest.
"""

from __future__ import annotations

import csv as python_csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from music_map.convert.settings import FORMATS
from music_map.errors import UserError
from music_map.raw.reader import open_parquet, record_batches

_COMPRESSED = (".gz", ".bz2", ".zst")
# 8 MiB of text are some 150,000 events.
_BLOCK_BYTES = 8 << 20
_BATCH_ROWS = 1 << 17


def format_of(path: Path) -> str:
    """The format that a file's name tells. Raises UserError where it tells none."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    found = FORMATS.get(suffixes[-1] if suffixes else "")
    if found is None:
        raise UserError(f"{path}: its name tells no format; end it in one of {', '.join(FORMATS)}, or give --format")
    return found


def read_batches(
    path: Path,
    columns: Mapping[str, str],
    *,
    file_format: str | None = None,
    delimiter: str | None = None,
    header: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Yields the wanted columns of a file, in record batches.

    Args:
      path: the file; .gz, .bz2 and .zst are decompressed on the way where it is text.
      columns: names of columns by the flag that gave them, which errors name.
      file_format: "csv", "tsv", "jsonl" or "parquet"; None: by the file's name.
      delimiter: of a CSV; None: a comma, or a tab for TSV.
      header: names of the columns of a CSV without a header line.

    Raises:
      UserError: no such file, no such column, or a row that is none.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give --input=FILE")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty (0 bytes); export it again")
    kind = file_format or format_of(path)
    if kind == "parquet":
        yield from _parquet(path, columns)
    elif kind == "jsonl":
        yield from _json_lines(path, columns)
    else:
        yield from _csv(path, columns, delimiter or ("\t" if kind == "tsv" else ","), header)


def _require_columns(path: Path, columns: Mapping[str, str], found: Sequence[str]) -> list[str]:
    for flag, name in columns.items():
        if name not in found:
            have = ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
            raise UserError(f"{path}: has no column {name!r}, only {have}; set --{flag} to one of them")
    return list(dict.fromkeys(columns.values()))


def _parquet(path: Path, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    with open_parquet(path) as file:
        wanted = _require_columns(path, columns, file.schema_arrow.names)
    for batch in record_batches(path, wanted, batch_rows=_BATCH_ROWS):
        plain = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
        yield pa.record_batch(plain, names=batch.schema.names)


def _csv(path: Path, columns: Mapping[str, str], delimiter: str, header: Sequence[str]) -> Iterator[pa.RecordBatch]:
    if len(delimiter.encode()) != 1:
        raise UserError(f"--delimiter={delimiter!r}: must be one character")
    broken: list[str] = []

    def note(row: Any) -> str:
        # Numbers count from 1 and, where there is a header, from its line.
        number = "" if row.number is None else f", row {row.number - (1 if header else 2)}"
        broken.append(f"{path}{number}: {row.actual_columns} columns where {row.expected_columns} are expected")
        return "error"

    found = list(header) or _header_line(path, delimiter)
    names = _require_columns(path, columns, found)
    read = csv.ReadOptions(block_size=_BLOCK_BYTES, column_names=list(header) or None, use_threads=False)
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note)
    convert = csv.ConvertOptions(
        include_columns=names,
        column_types={name: pa.string() for name in names},
        null_values=[""],
        strings_can_be_null=True,
    )
    try:
        with csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as stream:
            for batch in stream:
                yield pa.record_batch([pc.utf8_trim_whitespace(c) for c in batch.columns], names=batch.schema.names)
    except (pa.ArrowException, OSError) as e:
        cause = broken[0] if broken else f"{path}: cannot be read as CSV ({' '.join(str(e).split())[:200]})"
        raise UserError(f"{cause}; check --delimiter, the quotes and the encoding (UTF-8)") from e


def _text(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(pa.input_stream(str(path), compression="detect", buffer_size=1 << 20), "utf-8-sig")


def _header_line(path: Path, delimiter: str) -> list[str]:
    try:
        with _text(path) as stream:
            found = next(python_csv.reader(stream, delimiter=delimiter), [])
    except (OSError, UnicodeDecodeError, python_csv.Error) as e:
        raise UserError(f"{path}: cannot be read as CSV ({' '.join(str(e).split())[:200]}); save it as UTF-8") from e
    repeated = sorted({name for name in found if found.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: has the column {repeated[0]!r} twice; rename one of them")
    return found


def _json_lines(path: Path, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    wanted = list(dict.fromkeys(columns.values()))
    values: dict[str, list[str | None]] = {name: [] for name in wanted}
    seen: set[str] = set()
    row = 0

    def batch() -> pa.RecordBatch:
        return pa.record_batch([pa.array(values[name], pa.string()) for name in wanted], names=wanted)

    try:
        with _text(path) as stream:
            for line in stream:
                if line.isspace():
                    continue
                try:
                    event = json.loads(line)
                except json.JSONDecodeError as e:
                    raise UserError(f"{path}, row {row}: not valid JSON ({e.msg}); mend the line") from e
                if not isinstance(event, dict):
                    raise UserError(f"{path}, row {row}: is no JSON object; write {{...}} a line")
                seen.update(event)
                for name in wanted:
                    values[name].append(_as_text(event.get(name), path, name, row))
                row += 1
                if row % _BATCH_ROWS == 0:
                    _require_columns(path, columns, list(seen))
                    yield batch()
                    for column in values.values():
                        column.clear()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: cannot be read ({' '.join(str(e).split())[:200]}); save it as UTF-8") from e
    _require_columns(path, columns, list(seen))
    if values[wanted[0]]:
        yield batch()


def _as_text(value: Any, path: Path, name: str, row: int) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    raise UserError(f"{path}: column {name}, row {row}: a {type(value).__name__}; write a number or a string")
