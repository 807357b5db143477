"""CSV and TSV: a line a row, lines end at \\n only, and only the wanted columns are decoded.

Quotes follow RFC 4180 in a CSV; a field whose quote is never closed properly is taken as it stands where the line then
has the right number of fields. A TSV has no quoting, but a field that begins and ends with a quote is freed of them. So
no title that opens with a quote takes the rows after it away.

Blocks without trouble are parsed by Arrow, the others line by line.
"""

from __future__ import annotations

import csv as python_csv
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from music_map.convert.sources import ROW, Source, open_bytes
from music_map.errors import UserError

_BLOCK_BYTES = 8 << 20
_LONGEST = 64 << 20  # bytes of a row
_MOST_LINES = 1000  # of a quoted field


def read_csv(source: Source) -> Iterator[pa.RecordBatch]:
    """Reads a CSV with RFC 4180's quotes."""
    return _read(source, source.delimiter or ",", quoted=True)


def read_tsv(source: Source) -> Iterator[pa.RecordBatch]:
    """Reads a TSV."""
    return _read(source, source.delimiter or "\t", quoted=source.delimiter not in (None, "\t"))


def read_recbole(source: Source) -> Iterator[pa.RecordBatch]:
    """Reads RecBole's atomic files: a TSV whose header names types too, `user_id:token`."""
    return _read(source, source.delimiter or "\t", quoted=False, typed=True)


def read_films(source: Source) -> Iterator[pa.RecordBatch]:
    """Reads MovieLens' u.item: its last 19 columns are 1 where a film has the genre; they become one, "genres"."""
    flags = source.header[5:]
    columns = [(role, name) for role, name in source.columns if name != "genres"]
    wanted = dataclasses.replace(source, columns=[*columns, *(("genre", name) for name in flags)])
    for batch in _read(wanted, source.delimiter or "|", quoted=False):
        marks = np.array([pc.equal(pc.fill_null(batch.column(name), ""), "1").to_pylist() for name in flags]).T
        genres = ["|".join(name for name, on in zip(flags, row, strict=True) if on) for row in marks]
        yield batch.append_column("genres", pa.array(genres, pa.string()))


def _read(source: Source, delimiter: str, *, quoted: bool, typed: bool = False) -> Iterator[pa.RecordBatch]:
    if not delimiter or not delimiter.isascii() or delimiter in '"\r\n':
        raise UserError(f"--delimiter={delimiter!r}: must be ASCII, such as ';' or '::'")
    with open_bytes(source) as stream:
        lines = _Lines(source, delimiter.encode(), quoted)
        for block, last in _blocks(source, stream):
            if lines.names is None:
                block = lines.take_header(block, typed=typed)
            yield from lines.read(block, last)


def _blocks(source: Source, stream: io.BufferedIOBase) -> Iterator[tuple[bytes, bool]]:
    """Blocks of whole lines, and whether it is the last."""
    rest = b""
    while True:
        try:
            read = stream.read(_BLOCK_BYTES)
        except (pa.ArrowException, OSError, EOFError) as e:
            source.unreadable(e, "text")
        if not read:
            yield rest, True
            return
        cut = read.rfind(b"\n") + 1
        if cut:
            yield rest + read[:cut], False
            rest = read[cut:]
        else:
            rest += read
        if len(rest) > _LONGEST:
            raise UserError(f"{source.path}: a line of more than {_LONGEST >> 20} MiB; is it text at all?")


class _Lines:
    """Parses blocks of whole lines."""

    def __init__(self, source: Source, delimiter: bytes, quoted: bool):
        self._source, self._delimiter, self._quoted = source, delimiter, quoted
        self._opening = delimiter + b'"'  # no quote inside a field means anything
        self.names: list[str] | None = None
        self._row = 0
        self._carried = b""
        if source.header:
            self._set_header([name.strip() for name in source.header])

    def take_header(self, block: bytes, *, typed: bool) -> bytes:
        """Takes the names of the columns from the first line that is not blank; returns what follows."""
        line = b""
        while block and not line.strip():
            line, _, block = block.partition(b"\n")
        fields = (self._strict(line) if self._quoted else None) or line.rstrip(b"\r").split(self._delimiter)
        # A column that nobody asks for may have any name.
        found = [_unquoted(field).decode(errors="replace").strip() for field in fields]
        self._set_header([name.rpartition(":")[0] or name for name in found] if typed else found)
        return block

    def _set_header(self, names: list[str]) -> None:
        source = self._source
        source.require(names)
        for name in source.names:
            if names.count(name) > 1:
                raise UserError(f"{source.path}: has the column {name!r} twice; rename one of them")
        self.names = names
        self._wanted = [(name, names.index(name)) for name in source.names if name in names]

    def read(self, block: bytes, last: bool) -> Iterator[pa.RecordBatch]:
        """Yields the rows of a block."""
        block, self._carried = self._carried + block, b""
        if not block.strip():
            return
        batch = self._fast(block)
        if batch is None:
            batch = self._slow(block, last)
        if batch.num_rows:
            yield batch

    def _fast(self, block: bytes) -> pa.RecordBatch | None:
        """The rows by Arrow's parser; None where a line, a quote or a character needs a closer look."""
        quotes = b'"' in block
        if (
            len(self._delimiter) != 1
            or (quotes and self._quoted and not self._well_quoted(block))
            or block.count(b"\r") != block.count(b"\r\n")
        ):
            return None
        # As many names as fields: positions, for names may be empty or stand twice.
        names = [str(n) for n in range(len(self.names))]
        wanted = [str(at) for _, at in self._wanted]
        try:
            table = csv.read_csv(
                pa.BufferReader(block),
                read_options=csv.ReadOptions(column_names=names, block_size=len(block) + 1, use_threads=False),
                parse_options=csv.ParseOptions(
                    delimiter=self._delimiter.decode(), quote_char='"' if self._quoted else False
                ),
                convert_options=csv.ConvertOptions(
                    include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), check_utf8=True
                ),
            )
        except pa.ArrowInvalid:
            return None
        columns = [column.combine_chunks() for column in table.columns]
        if quotes and not self._quoted:
            columns = [_unquoted_all(column) for column in columns]
        rows = pa.array(np.arange(self._row, self._row + len(table)))
        self._row += len(table)
        columns = [pc.utf8_trim_whitespace(column) for column in columns]
        return pa.record_batch([*columns, rows], names=[*(name for name, _ in self._wanted), ROW])

    def _well_quoted(self, block: bytes) -> bool:
        """Whether every quote opens a field, closes it or is doubled inside, and no field goes over a line's end."""
        text = np.frombuffer(block, np.uint8)
        quotes = np.flatnonzero(text == 0x22)
        if len(quotes) % 2:
            return False
        opens, closes = quotes[0::2], quotes[1::2]
        ends = (ord("\n"), self._delimiter[0])
        before = text[np.maximum(opens - 1, 0)]
        doubled = np.append(False, closes[:-1] + 1 == opens[1:])
        good_open = (opens == 0) | np.isin(before, ends) | doubled
        after = text[np.minimum(closes + 1, len(text) - 1)]
        good_close = (closes == len(text) - 1) | np.isin(after, (*ends, ord("\r"))) | np.append(doubled[1:], False)
        if not (good_open.all() and good_close.all()):
            return False
        lines = np.flatnonzero(text == 0x0A)
        return not (np.searchsorted(quotes, lines) % 2).any()

    def _slow(self, block: bytes, last: bool) -> pa.RecordBatch:
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        values: list[list[str | None]] = [[] for _ in self._wanted]
        rows: list[int] = []
        at = 0
        while at < len(lines):
            if not lines[at].strip():
                at += 1
                continue
            fields, after = self._record(lines, at, last)
            if after == 0:
                # A quoted field goes on in the next block.
                self._carried = b"\n".join(lines[at:]) + b"\n"
                break
            at = after
            if isinstance(fields, str):
                self._source.bad_row(self._row, fields)
            elif (found := self._decoded(fields)) is not None:
                rows.append(self._row)
                for column, value in zip(values, found, strict=True):
                    column.append(value)
            self._row += 1
        columns = [pa.array(column, pa.string()) for column in values]
        return pa.record_batch([*columns, pa.array(rows, pa.int64())], names=[*(name for name, _ in self._wanted), ROW])

    def _decoded(self, fields: Sequence[bytes]) -> list[str | None] | None:
        found = []
        for name, at in self._wanted:
            try:
                found.append(fields[at].decode().strip() or None)
            except UnicodeDecodeError:
                shown = fields[at].decode("latin-1")[:60]
                self._source.bad_row(
                    self._row, f"{shown!r} is not UTF-8; save the file as UTF-8, or give --encoding", name
                )
                return None
        return found

    def _record(self, lines: list[bytes], at: int, last: bool) -> tuple[Sequence[bytes] | str, int]:
        """The fields of the row that begins at a line, or what is wrong with it, and the line after it.

        The line after it is 0 where the row may go on in the next block.
        """
        line, want = lines[at].removesuffix(b"\r"), len(self.names)
        plain = line.split(self._delimiter)
        if not line.startswith(b'"') and self._opening not in line:
            return (plain if len(plain) == want else self._ragged(len(plain))), at + 1
        if not self._quoted and len(plain) == want:
            return [_unquoted(field) for field in plain], at + 1
        fields, end, text = self._strict(line), at, line
        while fields == []:  # a quoted field goes on
            end += 1
            if end == len(lines):
                if not last and end - at < _MOST_LINES:
                    return plain, 0
                fields = None
                break
            if end - at >= _MOST_LINES:
                fields = None
                break
            text += b"\n" + lines[end].removesuffix(b"\r")
            if b'"' in lines[end]:
                fields = self._strict(text)
        # Lines that are each a row by themselves are no field of a title that only opens with a quote.
        group = lines[at : end + 1] if fields and end > at else ()
        rows = bool(group) and all(len(part.split(self._delimiter)) == want for part in group)
        if fields and len(fields) == want and not rows:
            return fields, end + 1
        if (fields is None or rows) and len(plain) == want:
            return plain, at + 1
        if fields and not rows:
            return self._ragged(len(fields)), end + 1
        field = next((n for n, field in enumerate(plain) if field.startswith(b'"')), 0)
        name = self.names[field] if field < want else str(field)
        return f"column {name}: opens with a quote that is not closed; double the quotes inside", at + 1

    def _ragged(self, count: int) -> str:
        return f"{count} columns where {len(self.names)} are expected; check --delimiter and the quotes"

    def _strict(self, text: bytes) -> list[bytes] | None:
        """The fields by RFC 4180; None where they break it, no field at all where a quote is still open."""
        if len(self._delimiter) != 1:
            return None
        # Latin-1 keeps every byte: what nobody asked for is never decoded.
        reader = python_csv.reader([text.decode("latin-1")], delimiter=self._delimiter.decode(), strict=True)
        try:
            return [field.encode("latin-1") for field in next(reader)]
        except StopIteration:
            return [b""]
        except python_csv.Error as e:
            return [] if "unexpected end" in str(e) else None


_QUOTED = re.compile(rb'"((?:[^"]|"")*)"', re.DOTALL)


def _unquoted(field: bytes) -> bytes:
    """A field without the quotes around it, where they are closed properly."""
    found = _QUOTED.fullmatch(field.strip())
    return found[1].replace(b'""', b'"') if found else field


def _unquoted_all(column: pa.Array) -> pa.Array:
    around = pc.match_substring_regex(column, r'^\s*"([^"]|"")*"\s*$')
    if not pc.any(around).as_py():
        return column
    bare = pc.replace_substring_regex(column, r'^\s*"((?:[^"]|"")*)"\s*$', r"\1")
    return pc.if_else(around, pc.replace_substring(bare, '""', '"'), column)
