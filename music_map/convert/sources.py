"""A file to read, and what readers of text share.

Text formats give every column as strings, so that no value is read as what the first rows of the file suggest.
"""

from __future__ import annotations

import codecs
import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from music_map.errors import UserError

ROW = "\0row"  # name of the batches' column of row numbers: no column of a file
BATCH_ROWS = 1 << 17
# The first bytes of compressed files; Parquet compresses inside.
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
_NO_TEXT = "holds what is no character (a lone surrogate, or bytes that are not UTF-8; see --encoding)"


@dataclasses.dataclass(frozen=True)
class Source:
    """A file to read.

    Attributes:
      path: the file.
      columns: (role, column) of all that is wanted; the role is the name of the flag.
      bad_row: called with the number of a row that cannot be read, the reason and, if it is known, the column; raises
        UserError unless such rows are skipped.
      delimiter: of a CSV; None: that of the format.
      header: names of the columns of a CSV without a header line.
      optional: columns that may be absent.
      encoding: of text; None: UTF-8, or what a byte order mark tells.
    """

    path: Path
    columns: Sequence[tuple[str, str]]
    bad_row: Callable[..., None]
    delimiter: str | None = None
    header: Sequence[str] = ()
    optional: Sequence[str] = ()
    encoding: str | None = None

    @property
    def names(self) -> list[str]:
        """The wanted columns, each once."""
        return list(dict.fromkeys(name for _, name in self.columns))

    def require(self, found: Iterable[str]) -> None:
        """Raises UserError where a wanted column is not among those found."""
        found = list(dict.fromkeys(found))
        for role, name in self.columns:
            if name not in found and name not in self.optional:
                have = ", ".join(n[:60] for n in found[:20]) + (", ..." if len(found) > 20 else "")
                raise UserError(f"{self.path}: has no column {name!r}, only {have}; set --{role} to one of them")

    def unreadable(self, error: object, what: str) -> NoReturn:
        """Raises the UserError of a file that cannot be read at all."""
        raise UserError(f"{self.path}: cannot be read as {what} ({str(error)[:200]}); export it again") from None


def open_bytes(source: Source) -> io.BufferedIOBase:
    """Opens a text file as bytes, decompressed, after a byte order mark. Raises UserError where it is empty."""
    path = source.path
    try:
        file = open(path, "rb", buffering=1 << 20)  # noqa: SIM115 - closed by the reader
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be opened ({e.strerror}); check its permissions") from None
    head = file.peek(4)
    if not head:
        file.close()
        raise UserError(f"{path}: is empty (0 bytes); export it again")
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    if kind is not None:
        plain = pa.CompressedInputStream(pa.PythonFile(file, "r"), kind)
        file = io.BufferedReader(_Raw(plain), 1 << 20)
        try:
            head = file.peek(4)
        except (pa.ArrowException, OSError) as e:
            source.unreadable(e, kind)
    encoding = "utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else source.encoding
    if encoding is not None:
        return io.BufferedReader(_Recoded(file, encoding), 1 << 20)
    if head.startswith(b"\xef\xbb\xbf"):
        file.read(3)
    return file


class _Raw(io.RawIOBase):
    """An Arrow stream as Python's, for `peek`."""

    def __init__(self, stream: pa.NativeFile):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Recoded(io.RawIOBase):
    """Text of another encoding as UTF-8."""

    def __init__(self, stream: io.BufferedIOBase, encoding: str):
        self._stream, self._decoder = stream, codecs.getincrementaldecoder(encoding)("replace")
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        read = b"more"
        while not self._rest and read:
            read = self._stream.read(1 << 18)
            self._rest = self._decoder.decode(read, final=not read).encode()
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def batches_of(rows: Iterable[tuple[int, Mapping[str, str | None]]], source: Source) -> Iterator[pa.RecordBatch]:
    """Batches of rows that were read one by one.

    Args:
      rows: the number of a row, and its wanted columns as text; a value that is not text makes the row bad.
      source: what is read.
    """
    names = source.names
    fields = [*((name, pa.string()) for name in names), (ROW, pa.int64())]
    taken: list[tuple[Any, ...]] = []

    def batch() -> pa.RecordBatch:
        columns = zip(*taken, strict=True) if taken else [()] * len(fields)
        arrays = [pa.array(column, kind) for column, (_, kind) in zip(columns, fields, strict=True)]
        return pa.record_batch(arrays, names=[name for name, _ in fields])

    def settled() -> pa.RecordBatch:
        try:
            return batch()
        except UnicodeEncodeError:  # rare: row by row
            taken[:] = [row for row in taken if _is_text(row) or source.bad_row(row[-1], _NO_TEXT)]
            return batch()

    for number, row in rows:
        taken.append((*(row.get(name) for name in names), number))
        if len(taken) == BATCH_ROWS:
            yield settled()
            taken.clear()
    if taken:
        yield settled()


def _is_text(row: tuple[Any, ...]) -> bool:
    try:
        "".join(filter(None, row[:-1])).encode()
    except UnicodeEncodeError:
        return False
    return True
