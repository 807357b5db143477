"""Converts a log: the user's files in, Yambda's files out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from music_map.convert.ids import Numbering, check_ids, no_ids
from music_map.convert.settings import IGNORED, ColumnMapping
from music_map.convert.sources import read_batches
from music_map.convert.spill import PARTITION_ROWS, ROW, Spill
from music_map.convert.values import Times, Values, flags, kinds, numbers
from music_map.errors import UserError, disk_errors
from music_map.progress import Progress, silent
from music_map.raw.schema import ALBUMS, ARTISTS, EVENT_SCHEMAS, event_path, item_path
from music_map.storage import new_folder

KINDS = (*EVENT_SCHEMAS, IGNORED)
USERS, SONGS = "user_ids", "song_ids"
_ITEM_TABLES = {"artist": ARTISTS, "album": ALBUMS}
_COLUMN_OF = {
    "uid": "user",
    "timestamp": "time",
    "item_id": "item",
    "is_organic": "organic",
    "played_ratio_pct": "played",
    "track_length_seconds": "seconds",
}
# Pairs of song and artist kept aside before doubles are dropped.
_MOST_PENDING = 1 << 20


@dataclasses.dataclass
class Summary:
    """What a conversion has written.

    Attributes:
      events: rows by kind ("listens", ...), without those that are 0.
      num_users, num_items: distinct users and songs.
      first, last: seconds, of the earliest and the latest event.
      skipped: rows left out because they could not be read (bad_rows="skip").
      ignored: rows of a type that is to be ignored.
      tables: id tables written, by column ("user", "item", "artist", "album"): those whose ids are no whole numbers.
      notes: remarks on the data.
    """

    events: dict[str, int]
    num_users: int
    num_items: int
    first: int
    last: int
    skipped: int
    ignored: int
    tables: dict[str, Path]
    notes: list[str]


def convert_logs(
    inputs: Mapping[str, Sequence[Path]],
    raw_dir: Path,
    mapping: ColumnMapping,
    *,
    size: str = "own",
    overwrite: bool = False,
    source: Mapping[str, Any] | None = None,
    partition_rows: int = PARTITION_ROWS,
    progress: Progress = silent,
) -> Summary:
    """Writes RAW_DIR/flat/SIZE/ (and the artist and album mappings) from the user's files.

    Memory holds the distinct ids, a batch of the input and `partition_rows` events, whatever the size of the log; while
    it runs, the disk holds 19 bytes an event beside the result.

    Args:
      inputs: files by kind of event ("listens", "likes", ...). With mapping.type the kind of a row of "listens" counts;
        of the other files only user, item and time are read.
      raw_dir: folder to fill, data.raw_dir of the configurations.
      mapping: which column means what.
      size: name of the folder below flat/, data.size of the configurations.
      overwrite: replace a conversion that is there.
      source: arguments of `read_batches` that hold for every file (file_format, delimiter, header).
      partition_rows: events sorted in memory at a time.
      progress: reports rows.

    Raises:
      UserError: a file, column or value is wrong (the message names file, column and row, which count from 0), there
        are no listens, or the folder is taken.
    """
    folder = _folder(raw_dir, size)
    _check_free(folder, raw_dir, mapping, overwrite)
    with disk_errors(folder), new_folder(folder) as temporary, contextlib.closing(_Log(temporary, mapping)) as log:
        with progress("read", None, "row") as advance:
            for kind, paths in inputs.items():
                for path in paths:
                    for rows in _reading(log, kind, path, mapping, source):
                        advance(rows)
        summary = log.finish(partition_rows, progress)
    for name in _ITEM_TABLES:
        if (made := folder / f"{name}_item_mapping.parquet").exists():
            os.replace(made, item_path(raw_dir, f"{name}_item_mapping"))
    return _moved(summary, folder)


def preview_logs(
    inputs: Mapping[str, Sequence[Path]],
    raw_dir: Path,
    mapping: ColumnMapping,
    *,
    size: str = "own",
    overwrite: bool = False,
    source: Mapping[str, Any] | None = None,
) -> Summary:
    """What `convert_logs` makes of the first rows of each file: the same checks, and nothing written to `raw_dir`.

    Args and errors are those of `convert_logs`.
    """
    folder = _folder(raw_dir, size)
    _check_free(folder, raw_dir, mapping, overwrite)
    with tempfile.TemporaryDirectory() as temporary, contextlib.closing(_Log(Path(temporary), mapping)) as log:
        for kind, paths in inputs.items():
            for path in paths:
                next(_reading(log, kind, path, mapping, source), None)
        return _moved(log.finish(PARTITION_ROWS, silent), folder)


def _moved(summary: Summary, folder: Path) -> Summary:
    """A summary whose tables lie in `folder`, not where they were written."""
    return dataclasses.replace(summary, tables={column: folder / path.name for column, path in summary.tables.items()})


def _folder(raw_dir: Path, size: str) -> Path:
    if not size or Path(size).name != size:
        raise UserError(f"--size={size}: must be a name without slashes; it becomes the folder flat/{size}/")
    return event_path(raw_dir, size, "listens").parent


def _reading(
    log: _Log, kind: str, path: Path, mapping: ColumnMapping, source: Mapping[str, Any] | None
) -> Iterator[int]:
    """Reads a file into `log` batch by batch; yields rows."""
    columns = mapping.columns()
    if kind != "listens":
        columns = {role: columns[role] for role in ("user", "item", "time")}
    return log.read(path, kind, read_batches(path, columns, **(source or {})))


def _check_free(folder: Path, raw_dir: Path, mapping: ColumnMapping, overwrite: bool) -> None:
    for path in (folder, *(item_path(raw_dir, f"{name}_item_mapping") for name in _ITEM_TABLES)):
        if path.exists() and not overwrite:
            raise UserError(f"{path}: is there already; give --overwrite, or another --output")
    for name in _ITEM_TABLES:
        path = item_path(raw_dir, f"{name}_item_mapping")
        if path.exists() and getattr(mapping, name) is None:
            raise UserError(f"{path}: its songs may be numbered otherwise now; delete it, or give --{name}=COLUMN")


class _Log:
    """The state of a conversion: numberings, spilled rows and counts."""

    def __init__(self, folder: Path, mapping: ColumnMapping):
        self._folder, self._mapping = folder, mapping
        self._kind_of = {word: KINDS.index(kind) for word, kind in mapping.types.items()}
        self._ids = {name: Numbering() for name in ("user", "item")}
        self._spills = {kind: Spill(folder, kind) for kind in EVENT_SCHEMAS}
        self._groups = {name: _Pairs() for name in _ITEM_TABLES if getattr(mapping, name) is not None}
        self._span = [2**32, -1]
        self._skipped = self._ignored = 0
        self._most_played = 0.0

    def close(self) -> None:
        """Closes the spilled files."""
        for spill in self._spills.values():
            spill.close()

    def read(self, path: Path, kind: str, batches: Iterator[pa.RecordBatch]) -> Iterator[int]:
        """Takes in the batches of a file; yields the number of rows of each."""
        # Each file tells the unit of its own times.
        self._times = Times(self._mapping.time_unit, self._mapping.time_format)
        first = 0
        for batch in batches:
            self._take(path, kind, batch, first)
            first += batch.num_rows
            yield batch.num_rows

    def _column(self, batch: pa.RecordBatch, role: str) -> pa.Array | None:
        name = getattr(self._mapping, role)
        return batch.column(name) if name in batch.schema.names else None

    def _take(self, path: Path, kind: str, batch: pa.RecordBatch, first: int) -> None:
        count, mapping = batch.num_rows, self._mapping
        checks: list[tuple[str, Values]] = []

        def checked(role: str, found: Values, where: np.ndarray | None = None) -> np.ndarray:
            checks.append((role, found if where is None else found._replace(bad=found.bad & where)))
            return found.values

        kind_of = np.full(count, KINDS.index(kind), np.int8)
        if (types := self._column(batch, "type")) is not None:
            kind_of = checked("type", kinds(types, self._kind_of))
        used = kind_of != KINDS.index(IGNORED)
        listens = kind_of == KINDS.index("listens")
        for role in self._ids:
            column = self._column(batch, role)
            check_ids(column, f"{path}: column {getattr(mapping, role)}")
            missing = no_ids(column)
            checked(role, Values(missing, missing, "an id"), used)
        time = checked("time", self._times.read(self._column(batch, "time")), used)
        organic = np.ones(count, np.uint8)
        if (column := self._column(batch, "organic")) is not None:
            organic = checked("organic", flags(column), used)
        seconds = np.zeros(count)
        if (column := self._column(batch, "duration")) is not None:
            # A song of unknown length has 0, as the pipeline reads it.
            found = numbers(column)
            known = ~column.is_null().to_numpy(zero_copy_only=False)
            seconds = checked("duration", found, listens & known) / (1 if mapping.duration_unit == "seconds" else 1000)
        played = np.full(count, 100.0)
        if (column := self._column(batch, "played")) is not None:
            played = self._played(checked("played", numbers(column), listens), seconds, listens, checks)
        good = self._settle(path, batch, checks, first)
        self._ignored += int((good & ~used).sum())
        good &= used
        if not good.any():
            return
        rows = np.empty(int(good.sum()), ROW)
        kept = pa.array(good)
        rows["user"] = self._ids["user"].codes(self._column(batch, "user").filter(kept))
        rows["item"] = self._ids["item"].codes(self._column(batch, "item").filter(kept))
        rows["time"], rows["organic"] = time[good], organic[good]
        rows["played"] = np.minimum(np.rint(played[good]), np.iinfo(np.uint16).max)
        rows["seconds"] = np.minimum(np.rint(seconds[good]), np.iinfo(np.uint32).max)
        self._span = [min(self._span[0], int(rows["time"].min())), max(self._span[1], int(rows["time"].max()))]
        for number, name in enumerate(EVENT_SCHEMAS):
            if (here := kind_of[good] == number).any():
                self._spills[name].append(rows[here])
        for name, pairs in self._groups.items():
            if (column := self._column(batch, name)) is not None:
                check_ids(column, f"{path}: column {getattr(mapping, name)}")
                pairs.add(rows["item"], column.filter(kept))

    def _played(
        self, value: np.ndarray, seconds: np.ndarray, listens: np.ndarray, checks: list[tuple[str, Values]]
    ) -> np.ndarray:
        """Percent of the song that was played."""
        unit = self._mapping.played_unit
        self._most_played = max(self._most_played, float(value[listens].max(initial=0.0)))
        if unit in ("percent", "fraction"):
            return value * (1.0 if unit == "percent" else 100.0)
        unknown = listens & (seconds <= 0)
        checks.append(("duration", Values(seconds, unknown, f"above 0, as --played is in {unit}")))
        return 100.0 * value / (1.0 if unit == "seconds" else 1000.0) / np.where(seconds > 0, seconds, 1.0)

    def _settle(self, path: Path, batch: pa.RecordBatch, checks: list[tuple[str, Values]], first: int) -> np.ndarray:
        """Rows that can be read: bool [rows]. Raises UserError for the first that cannot, unless they are skipped."""
        bad = np.logical_or.reduce([found.bad for _, found in checks])
        if bad.any() and self._mapping.bad_rows == "stop":
            row = int(bad.argmax())
            role, found = next((role, found) for role, found in checks if found.bad[row])
            name = getattr(self._mapping, role)
            value = batch.column(name)[row].as_py()
            told = "empty" if value is None else f"{str(value)[:60]!r}"
            raise UserError(
                f"{path}: column {name}, row {first + row}: {told}; it must be {found.rule}; mend it, or give "
                "--bad_rows=skip"
            )
        self._skipped += int(bad.sum())
        return ~bad

    def finish(self, partition_rows: int, progress: Progress) -> Summary:
        """Sorts and writes everything."""
        if not len(self._spills["listens"]):
            raise UserError("no listens in the input: nothing to learn from; check --type, --types and --bad_rows")
        tables: dict[str, Path] = {}

        def number(role: str, numbering: Numbering, name: str) -> np.ndarray:
            final, kept = numbering.numbers()
            if not kept:
                tables[role] = self._folder / f"{name}.parquet"
                numbering.write(tables[role], final)
            return final

        users = number("user", self._ids["user"], USERS)
        items = number("item", self._ids["item"], SONGS)
        events = {kind: len(spill) for kind, spill in self._spills.items() if len(spill)}
        with progress("sort and write", sum(events.values()), "row") as advance:
            for kind, spill in self._spills.items():
                schema = EVENT_SCHEMAS[kind]
                rows = spill.sorted_rows(users, items, partition_rows=partition_rows)
                if kind not in events:
                    list(rows)
                    continue
                with pq.ParquetWriter(self._folder / f"{kind}.parquet", schema, compression="zstd") as writer:
                    for part in rows:
                        columns = [np.ascontiguousarray(part[_COLUMN_OF[name]]) for name in schema.names]
                        writer.write_table(pa.table(columns, schema=schema))
                        advance(len(part))
        for name, pairs in self._groups.items():
            groups = number(name, pairs.numbering, f"{name}_ids")
            item, group = pairs.distinct()
            table = pa.table([groups[group], items[item]], schema=_ITEM_TABLES[name])
            pq.write_table(table, self._folder / f"{name}_item_mapping.parquet", compression="zstd")
        return Summary(events, len(users), len(items), *self._span, self._skipped, self._ignored, tables, self._notes())

    def _notes(self) -> list[str]:
        if self._mapping.played is None or self._mapping.played_unit != "percent" or self._most_played > 1:
            return []
        return [
            f"column {self._mapping.played} is nowhere above 1, read as percent; if 1 is a whole song, convert again "
            "with --played_unit=fraction"
        ]


class _Pairs:
    """Distinct pairs of song and artist (album), in codes."""

    def __init__(self) -> None:
        self.numbering = Numbering()
        self._pairs: list[np.ndarray] = [np.empty(0, np.int64)]
        self._pending = 0

    def add(self, items: np.ndarray, groups: pa.Array) -> None:
        """Adds a pair a row; rows without an artist have none."""
        group = self.numbering.codes(groups)
        pairs = np.unique((items.astype(np.int64) << 32 | group)[group >= 0])
        self._pairs.append(pairs)
        self._pending += len(pairs)
        if self._pending > _MOST_PENDING:
            self._pairs, self._pending = [np.unique(np.concatenate(self._pairs))], 0

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the songs and of their artists."""
        pairs = np.unique(np.concatenate(self._pairs))
        return pairs >> 32, pairs & (2**32 - 1)
