"""Streaming reader of the Parquet logs: checked columns as NumPy arrays, batch by batch.

Only one batch of the wanted columns is in memory, never a whole file. Every error names the file, the column and the
row (counted from 0) and the remedy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from music_map.errors import UserError, disk_error
from music_map.raw.schema import EVENT_SCHEMAS, event_path

BATCH_ROWS = 1 << 20
# These options read a column chunk through a window. With the defaults, pyarrow holds the chunks of a whole row group:
# 600 MiB instead of 130 for a row group of a million embeddings.
_READ_AHEAD_BYTES = 4 << 20

Columns = dict[str, np.ndarray]


class UserRange(NamedTuple):
    """Users from `first` up to `end`, without `end`."""

    first: int
    end: int


# Wider than all valid ids on both sides, so that invalid ids are read too and reported.
EVERYONE = UserRange(-(1 << 62), 1 << 62)


class RowGroups(NamedTuple):
    """The statistics of an event file's row groups, known without reading them.

    Attributes:
      first, last: int64 [G], lowest and highest uid of each.
      starts: int64 [G + 1], the first row of each.
    """

    first: np.ndarray
    last: np.ndarray
    starts: np.ndarray

    @property
    def ascend(self) -> bool:
        """Whether every group begins with a user that is not before those of the previous group."""
        return bool((self.first[1:] >= self.last[:-1]).all())


def open_parquet(path: Path) -> pq.ParquetFile:
    """Opens a Parquet file for streaming.

    Raises:
      UserError: the file is missing, empty, truncated or not Parquet.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; fetch it with launch/download.py, or point --config.data.raw_dir at the folder "
            "that holds flat/ and embeddings.parquet"
        )
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty (0 bytes); download or export it again")
    with _parquet_errors(path):
        return pq.ParquetFile(path, buffer_size=_READ_AHEAD_BYTES, pre_buffer=False)


@contextlib.contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as e:
        if isinstance(e, OSError) and (told := disk_error(e, path)):
            raise told from e
        cause = " ".join(str(e).split())
        raise UserError(f"{path}: truncated or not Parquet ({cause}); download or export it again") from e


@dataclasses.dataclass(frozen=True)
class Table:
    """A Parquet file whose columns exist, with types that can be converted to the schema's.

    Attributes:
      path: the file.
      schema: the columns and the integer types that batches are converted to.
      num_rows: rows in the file.
    """

    path: Path
    schema: pa.Schema
    num_rows: int

    @classmethod
    def open(cls, path: Path, schema: pa.Schema) -> Table:
        """Checks the footer against `schema`: any integer (or boolean) type is accepted, values are checked when read.

        Raises:
          UserError: the file cannot be read, a column is missing, or its type is no integer.
        """
        with open_parquet(path) as file:
            found = file.schema_arrow
            for field in schema:
                if found.names.count(field.name) > 1:
                    raise UserError(f"{path}: has the column {field.name!r} twice; rename or drop one of them")
                wanted = f"{field.name} ({field.type})"
                if field.name not in found.names:
                    raise UserError(f"{path}: has no column {wanted}, only {', '.join(found.names)}; add it")
                kind = found.field(field.name).type
                if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
                    raise UserError(f"{path}: column {field.name} is {kind}; cast it to {field.type}")
            return cls(path, schema, file.metadata.num_rows)

    def batches(self, columns: Sequence[str], *, batch_rows: int = BATCH_ROWS) -> Iterator[Columns]:
        """Yields the columns as NumPy arrays of the schema's types, at most `batch_rows` rows at a time.

        Raises:
          UserError: a null, a value outside the type's range, or damaged bytes.
        """
        return self._batches(columns, batch_rows=batch_rows)

    def _batches(
        self,
        columns: Sequence[str],
        *,
        batch_rows: int,
        row_groups: Sequence[int] | None = None,
        first_row: int = 0,
    ) -> Iterator[Columns]:
        row = first_row
        for batch in record_batches(self.path, columns, batch_rows=batch_rows, row_groups=row_groups):
            yield {name: self._convert(batch.column(name), name, row) for name in columns}
            row += batch.num_rows

    def _convert(self, column: pa.Array, name: str, first_row: int) -> np.ndarray:
        wanted = np.dtype(self.schema.field(name).type.to_pandas_dtype())
        reject_nulls(column, self.path, name, first_row)
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.uint8())
        values = column.to_numpy(zero_copy_only=False)
        if values.dtype == wanted:
            return values
        limits = np.iinfo(wanted)
        outside = (values < limits.min) | (values > limits.max)
        if outside.any():
            at = int(outside.argmax())
            raise UserError(
                f"{self.path}: column {name}, row {first_row + at}: {values[at]} does not fit {wanted.name} "
                f"({limits.min}..{limits.max}); renumber or rescale the column"
            )
        return values.astype(wanted)


def record_batches(
    path: Path, columns: Sequence[str], *, batch_rows: int, row_groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yields Arrow record batches of the named columns; damaged bytes become a UserError that names the file."""
    with open_parquet(path) as file:
        found = file.schema_arrow.names
        if twice := next((name for name in columns if found.count(name) > 1), None):
            raise UserError(f"{path}: has the column {twice!r} twice; rename or drop one of them")
        groups = range(file.num_row_groups) if row_groups is None else row_groups
        with _parquet_errors(path):
            stream = file.iter_batches(batch_size=batch_rows, columns=list(columns), row_groups=list(groups))
        while True:
            with _parquet_errors(path):
                batch = next(stream, None)
            if batch is None:
                return
            yield batch


def reject_nulls(column: pa.Array, path: Path, name: str, first_row: int) -> None:
    """Raises a UserError that names the first null of the column, if there is one."""
    if column.null_count:
        row = first_row + int(column.is_null().to_numpy(zero_copy_only=False).argmax())
        raise UserError(f"{path}: column {name}, row {row}: null; fill in the value or drop the row")


@dataclasses.dataclass(frozen=True)
class EventTable(Table):
    """An event file, sorted by uid, then timestamp; the order is checked while reading."""

    @functools.cached_property
    def groups(self) -> RowGroups:
        """The row groups, from the footer's statistics or, if these are missing, from the column uid."""
        with open_parquet(self.path) as file:
            found = file.metadata
            groups = [found.row_group(g) for g in range(found.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum([group.num_rows for group in groups])]).astype(np.int64)
            names = [found.schema.column(c).path for c in range(found.num_columns)]
            column = names.index("uid")
            bounds = []
            for group in groups:
                statistics = group.column(column).statistics
                if statistics is None or not statistics.has_min_max:
                    bounds = self._read_bounds(starts)
                    break
                bounds.append((int(statistics.min), int(statistics.max)))
        # Ids beyond EVERYONE fit no column of the schema; reading them raises an error.
        inside = [[min(max(uid, EVERYONE.first), EVERYONE.end - 1) for uid in ends] for ends in bounds]
        first, last = np.array(inside, np.int64).reshape(-1, 2).T
        return RowGroups(first, last, starts)

    def _read_bounds(self, starts: np.ndarray) -> list[tuple[int, int]]:
        bounds, latest = [], 0
        for group in range(len(starts) - 1):
            of_group = self._batches(["uid"], batch_rows=BATCH_ROWS, row_groups=[group], first_row=int(starts[group]))
            ends = [(int(b["uid"].min()), int(b["uid"].max())) for b in of_group if len(b["uid"])]
            # A group without rows takes the last uid of the previous group.
            low, high = min((e[0] for e in ends), default=latest), max((e[1] for e in ends), default=latest)
            bounds.append((low, high))
            latest = high
        return bounds

    def batches(
        self, columns: Sequence[str], *, batch_rows: int = BATCH_ROWS, users: UserRange = EVERYONE
    ) -> Iterator[Columns]:
        """Table.batches for the rows of some users; `columns` must contain uid and timestamp.

        Only row groups that may have rows of these users are read, each as a whole.

        Raises:
          UserError: also if a row is before its predecessor by (uid, timestamp), or is_organic is neither 0 nor 1.
        """
        row_groups, row = None, 0
        if users != EVERYONE:
            groups = self.groups
            row_groups = np.flatnonzero((groups.last >= users.first) & (groups.first < users.end)).tolist()
            if not row_groups:
                return
            row = int(groups.starts[row_groups[0]])
        previous = (0, 0)
        for batch in self._batches(columns, batch_rows=batch_rows, row_groups=row_groups, first_row=row):
            uid, timestamp = batch["uid"], batch["timestamp"]
            if len(uid) == 0:
                continue
            falls = (uid[1:] < uid[:-1]) | ((uid[1:] == uid[:-1]) & (timestamp[1:] < timestamp[:-1]))
            at = -1
            if (int(uid[0]), int(timestamp[0])) < previous:
                at = 0
            elif falls.any():
                at = int(falls.argmax()) + 1
            if at >= 0:
                raise UserError(
                    f"{self.path}: row {row + at} (uid {uid[at]}, timestamp {timestamp[at]}) "
                    "comes before the row above it; sort the file by uid, then timestamp"
                )
            previous = int(uid[-1]), int(timestamp[-1])
            if "is_organic" in batch and batch["is_organic"].max() > 1:
                at = int((batch["is_organic"] > 1).argmax())
                raise UserError(
                    f"{self.path}: column is_organic, row {row + at}: {batch['is_organic'][at]}; it must be 1 "
                    "(organic) or 0 (played by the recommender)"
                )
            row += len(uid)
            if users == EVERYONE:
                yield batch
                continue
            mine = slice(*np.searchsorted(uid.astype(np.int64), users))
            if mine.start < mine.stop:
                yield {name: values[mine] for name, values in batch.items()}


def open_events(raw_dir: Path, size: str) -> dict[str, EventTable]:
    """Opens the event files of a log in the hub's layout; all but the listens may be absent.

    Args:
      raw_dir: folder that holds flat/<size>/.
      size: "50m", "500m", "5b" or the name of the log's folder.
    Returns:
      The files found, by name ("listens", "likes", ...), in the order of EVENT_SCHEMAS.
    Raises:
      UserError: the listens are missing or have no row, or a file has other columns.
    """
    tables = {}
    for name, schema in EVENT_SCHEMAS.items():
        path = event_path(raw_dir, size, name)
        if name == "listens" or path.is_file():
            tables[name] = EventTable.open(path, schema)
    if tables["listens"].num_rows == 0:
        raise UserError(f"{tables['listens'].path}: has no rows; download or export it again")
    return tables


def user_ranges(tables: Mapping[str, EventTable], count: int) -> list[UserRange]:
    """Cuts a log into ranges of users with about the same number of listens each.

    The ranges follow from the lowest and highest uid of each row group, as if its rows were evenly spread; no row is
    read. Ranges may be empty; together they cover all users.

    Args:
      tables: event files, including the listens.
      count: number of ranges.
    """
    groups = tables["listens"].groups
    if not all(table.groups.ascend for table in tables.values()):
        # Not sorted: the worker of the first range reads all rows and reports the row that is out of order.
        return [EVERYONE] + [UserRange(EVERYONE.end, EVERYONE.end)] * (count - 1)
    uid = np.maximum.accumulate(np.stack([groups.first, groups.last + 1], 1).reshape(-1))
    rows = np.stack([groups.starts[:-1], groups.starts[1:]], 1).reshape(-1)
    cuts = np.interp(np.arange(1, count) * (groups.starts[-1] / count), rows, uid).astype(np.int64).tolist()
    return [UserRange(*ends) for ends in itertools.pairwise([EVERYONE.first, *cuts, EVERYONE.end])]


def user_chunks(
    tables: Mapping[str, EventTable], *, batch_rows: int = BATCH_ROWS, users: UserRange = EVERYONE
) -> Iterator[dict[str, Columns]]:
    """Walks several event files side by side, a range of users at a time.

    Args:
      tables: event files, each sorted by uid.
      batch_rows: rows to read from a file at a time; a chunk is larger only if one user has more events.
      users: the users whose events to read.
    Yields:
      The columns of each file for a range of users. All rows of a user are in one chunk; the ranges ascend.
    """
    cursors = {name: _Cursor(table, batch_rows, users) for name, table in tables.items()}
    while True:
        for cursor in cursors.values():
            if len(cursor) < batch_rows:
                cursor.read()
        # The last user of an unfinished buffer may have more rows in the file, so a chunk stops before that user.
        unfinished = [c for c in cursors.values() if not c.finished]
        stop = min((c.last_user for c in unfinished), default=None)
        chunk = {name: cursor.take_before(stop) for name, cursor in cursors.items()}
        if any(len(columns["uid"]) for columns in chunk.values()):
            yield chunk
        elif stop is None:
            return
        else:
            for cursor in unfinished:
                if cursor.last_user == stop:
                    cursor.read()


class _Cursor:
    """The rows of one event file that have been read but not yet taken."""

    def __init__(self, table: EventTable, batch_rows: int, users: UserRange):
        self._stream = table.batches(table.schema.names, batch_rows=batch_rows, users=users)
        self._rows = {f.name: np.empty(0, f.type.to_pandas_dtype()) for f in table.schema}
        self.finished = False

    def __len__(self) -> int:
        return len(self._rows["uid"])

    @property
    def last_user(self) -> int:
        return int(self._rows["uid"][-1])

    def read(self) -> None:
        """Appends the next rows of the file. Afterwards the cursor is only empty if the file is finished."""
        while not self.finished:
            batch = next(self._stream, None)
            if batch is None:
                self.finished = True
            elif len(batch["uid"]):
                self._rows = {k: np.concatenate([v, batch[k]]) if len(v) else batch[k] for k, v in self._rows.items()}
                return

    def take_before(self, stop: int | None) -> Columns:
        """Removes and returns the rows of users before `stop`; None: all rows."""
        end = len(self) if stop is None else int(np.searchsorted(self._rows["uid"], stop))
        taken = {k: v[:end] for k, v in self._rows.items()}
        self._rows = {k: v[end:] for k, v in self._rows.items()}
        return taken
