"""Writes the store's events as logs that training reads: the hub's layout, alone or joined with the logs of before.

Users and songs keep their numbers, so the files of audio, artists and albums stay right; new ones get the next numbers.
Where an id is no whole number, a table of numbers and ids stands beside the events, as convert writes it. Users who
were deleted are left out, of the logs of before too.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from music_map.errors import UserError, disk_errors
from music_map.events.event import KINDS, digest
from music_map.events.store import EventStore
from music_map.ids import index_of
from music_map.lock import writing
from music_map.raw.layout import EVENTS, ID_TABLES, ITEMS, id_table_path, item_file, item_path, link_item_files
from music_map.raw.reader import BATCH_ROWS, Columns, EventTable, open_events, record_batches
from music_map.raw.schema import EVENT_SCHEMAS, event_path
from music_map.reporter import Progress, silent
from music_map.storage import new_folder

_TABLE = pa.schema([("number", pa.uint32()), ("id", pa.string())])


@dataclasses.dataclass
class Summary:
    """What an export has written.

    Attributes:
      events: rows by kind ("listens", ...) from the store.
      before: rows by kind from the logs of before.
      new_users, new_songs: numbers of those that only the store has.
      forgotten: rows of deleted users that were left out of the logs of before.
      repeated: events of the store that the logs of before have already.
    """

    events: dict[str, int]
    before: dict[str, int]
    new_users: int
    new_songs: int
    forgotten: int = 0
    repeated: int = 0


@dataclasses.dataclass(frozen=True)
class Logs:
    """Logs in the hub's layout: flat/SIZE/ in a folder."""

    raw_dir: Path
    size: str


@dataclasses.dataclass
class _Stored:
    """The store's events in columns; users and songs are places in lists of ids."""

    users: list[str]
    songs: list[str]
    user: np.ndarray
    song: np.ndarray
    kind: np.ndarray
    second: np.ndarray
    percent: np.ndarray


def export_events(
    store: EventStore,
    output: Logs,
    *,
    before: Logs | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Summary:
    """Writes OUTPUT/flat/SIZE/: all events of the store, and those of the logs of before.

    Args:
      store: of events; its clock becomes that of the logs.
      output: where to.
      before: logs to join, such as those that the served model was trained on; None: the store's events alone.
      overwrite: replace what is there.
      progress: reports rows.

    Raises:
      UserError: nothing to write, the folder is taken, or a file of the logs of before is wrong.
      StoreUnavailable: the database does not answer.
    """
    with writing(output.raw_dir, "export_events"):
        return _export(store, output, before, overwrite, progress)


def _export(store: EventStore, output: Logs, before: Logs | None, overwrite: bool, progress: Progress) -> Summary:
    folder = event_path(output.raw_dir, output.size, "listens").parent
    if before is not None and folder.resolve() == event_path(before.raw_dir, before.size, "listens").parent.resolve():
        raise UserError(f"{folder}: are the logs to be joined; give another --output or --size")
    if folder.exists() and not overwrite:
        raise UserError(f"{folder}: is there already; give --overwrite, or another --output")
    tables = {} if before is None else open_events(before.raw_dir, before.size)
    stored = _read(store, progress)
    if not tables and not (stored.kind == 0).any():
        raise UserError(f"{store.name}: holds no listens: nothing to learn from")
    with disk_errors(folder), new_folder(folder) as temporary:
        users = _Numbers.of("user", stored.users, before, tables)
        songs = _Numbers.of("item", stored.songs, before, tables)
        forgotten = users.hidden(store.forgotten())
        summary = Summary({}, {}, users.num_new, songs.num_new)
        total = len(stored.kind) + sum(table.num_rows for table in tables.values())
        with progress("write", total, "row") as advance:
            for number, name in enumerate(EVENTS):
                rows = _rows(stored, number, users.numbers, songs.numbers)
                if len(rows["uid"]) or name in tables:
                    merged = _merged(_batches(tables.get(name)), rows, forgotten, summary)
                    _write(temporary / f"{name}.parquet", name, merged, advance)
                    summary.events[name] = len(rows["uid"])
                    summary.before[name] = tables[name].num_rows if name in tables else 0
        for numbers in (users, songs):
            numbers.write(temporary)
        if before is not None:
            for name in (*ITEMS, *(ID_TABLES[kind] for kind in ("artist", "album"))):
                path = (
                    item_file(before.raw_dir, before.size, name)
                    if name in ITEMS
                    else event_path(before.raw_dir, before.size, name)
                )
                if path.is_file():
                    _link(path, temporary / f"{name}.parquet")
    if all(path.is_symlink() or not path.exists() for path in (item_path(output.raw_dir, name) for name in ITEMS)):
        link_item_files(output.raw_dir, output.size)
    return summary


def _read(store: EventStore, progress: Progress) -> _Stored:
    users: dict[str, int] = {}
    songs: dict[str, int] = {}
    parts: list[np.ndarray] = []
    with progress("events", store.count(), "event") as advance:
        for events in store.all():
            rows = [
                (
                    users.setdefault(event.user, len(users)),
                    songs.setdefault(event.song, len(songs)),
                    KINDS.index(event.kind),
                    event.time - store.epoch,
                    round(100 * event.played),
                )
                for event in events
            ]
            parts.append(np.array(rows, np.int64).reshape(-1, 5))
            advance(len(events))
    user, song, kind, second, percent = np.concatenate([np.zeros((0, 5), np.int64), *parts]).T
    if len(second) and not (second.min() >= 0 and second.max() < 2**32):
        raise UserError(f"{store.name}: has times that lie before the logs begin, or after 2^32 seconds of their clock")
    return _Stored(list(users), list(songs), user, song, kind, second, percent)


class _Numbers:
    """The numbers of the users or of the songs, by place in the store's list of ids.

    Attributes:
      numbers: int64 [n].
      num_new: how many of them the logs of before do not have.
    """

    def __init__(self, kind: str, numbers: np.ndarray, table: pa.Table | None, known: np.ndarray, num_new: int):
        self.kind, self.numbers, self.num_new = kind, numbers, num_new
        self._table, self._known = table, known

    @classmethod
    def of(cls, kind: str, ids: list[str], before: Logs | None, tables: dict[str, EventTable]) -> _Numbers:
        """Numbers ids as the logs of before do, and those that they do not have from the next number on."""
        path = None if before is None else id_table_path(before.raw_dir, before.size, kind)
        whole = np.array([_whole(one) for one in ids], np.int64)
        if path is not None and path.is_file():
            table = pq.read_table(path)
            table = table.set_column(0, "number", pc.cast(table["number"], pa.uint32()))
            known = table["number"].to_numpy().astype(np.int64)
            mine = table.filter(pc.is_in(table["id"], pa.array(ids, pa.string())))
            number_of = dict(zip(mine["id"].to_pylist(), mine["number"].to_pylist(), strict=True))
            found = np.array([number_of.get(one, -1) for one in ids], np.int64)
        else:
            known = np.zeros(0, np.int64) if before is None else _numbers_in(kind, before, tables)
            # Without logs of before, ids are numbers or texts, all of them.
            found = whole if before is not None or (whole >= 0).all() else np.full(len(ids), -1)
            table = None
            if (found < 0).any():
                number = np.union1d(known, found[found >= 0])
                table = pa.table({"number": number.astype(np.uint32), "id": number.astype(str)}, schema=_TABLE)
        num_new = int((~np.isin(found, known)).sum())
        new = np.flatnonzero(found < 0)
        new = new[np.argsort(np.array([ids[at] for at in new], object), kind="stable")]
        first = int(max(known.max(initial=-1), found.max(initial=-1))) + 1
        if first + len(new) > 2**32:
            raise UserError(f"{len(new)} new ids of {kind}s: no number up to 4294967295 is left for them")
        found[new] = first + np.arange(len(new))
        if table is not None and len(new):
            more = pa.table({"number": found[new].astype(np.uint32), "id": [ids[at] for at in new]}, schema=_TABLE)
            table = pa.concat_tables([table, more], promote_options="permissive")
        return cls(kind, found, table, known, num_new)

    def hidden(self, digests: frozenset[str]) -> np.ndarray:
        """The numbers of the users of the logs of before whose ids have these digests, ascending."""
        if not digests:
            return np.zeros(0, np.int64)
        if self._table is None:
            return np.array([one for one in self._known.tolist() if digest(str(one)) in digests], np.int64)
        pairs = zip(self._table["number"].to_pylist(), self._table["id"].to_pylist(), strict=True)
        known = set(self._known.tolist())
        return np.array(sorted(n for n, one in pairs if n in known and digest(one) in digests), np.int64)

    def write(self, folder: Path) -> None:
        """Writes the table of ids, where there is one."""
        if self._table is not None:
            pq.write_table(self._table, folder / f"{ID_TABLES[self.kind]}.parquet", compression="zstd")


def _whole(text: str) -> int:
    """A text as the number that it is; -1 if it is none, as in music_map.ids."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    return number if str(number) == text and number < 2**32 else -1


def _numbers_in(kind: str, logs: Logs, tables: dict[str, EventTable]) -> np.ndarray:
    """The numbers of all users or songs of logs, ascending, int64."""
    column = {"user": "uid", "item": "item_id"}[kind]
    paths = [table.path for table in tables.values()]
    if kind == "item":
        paths += [path for path in (item_file(logs.raw_dir, logs.size, name) for name in ITEMS) if path.is_file()]
    found = [np.zeros(0, np.int64)]
    for path in paths:
        for batch in record_batches(path, [column], batch_rows=BATCH_ROWS):
            found.append(pc.unique(batch.column(0)).to_numpy(zero_copy_only=False).astype(np.int64))
    return np.unique(np.concatenate(found))


def _rows(stored: _Stored, kind: int, users: np.ndarray, songs: np.ndarray) -> Columns:
    """The events of a kind as rows of the logs, by user and time; those of one second in the order of arrival."""
    mine = np.flatnonzero(stored.kind == kind)
    uid = users[stored.user[mine]]
    order = np.lexsort((stored.second[mine], uid))
    mine = mine[order]
    return {
        "uid": uid[order],
        "timestamp": stored.second[mine],
        "item_id": songs[stored.song[mine]],
        "is_organic": np.ones(len(mine), np.int64),
        "played_ratio_pct": stored.percent[mine],
        "track_length_seconds": np.zeros(len(mine), np.int64),
    }


def _batches(table: EventTable | None) -> Iterator[Columns]:
    if table is not None:
        yield from table.batches(table.schema.names)


def _merged(before: Iterable[Columns], rows: Columns, forgotten: np.ndarray, summary: Summary) -> Iterator[Columns]:
    """Rows of the logs of before, and of the store among them, by user and time."""
    keys, at = _keys(rows), 0
    rest: Columns | None = None
    for batch in before:
        if len(forgotten):
            hidden = index_of(forgotten, batch["uid"]) >= 0
            summary.forgotten += int(hidden.sum())
            batch = {name: column[~hidden] for name, column in batch.items()}
        if rest is not None:
            batch = {name: np.concatenate([rest[name], column]) for name, column in batch.items()}
        own = _keys(batch)
        # Rows of the last user and second may go on in the next batch.
        cut = int(np.searchsorted(own, own[-1])) if len(own) else 0
        rest = {name: column[cut:] for name, column in batch.items()}
        if cut:
            end = int(np.searchsorted(keys, own[cut]))
            yield _joined({name: column[:cut] for name, column in batch.items()}, rows, at, end, summary)
            at = end
    if (rest is not None and len(rest["uid"])) or at < len(keys):
        yield _joined(rest, rows, at, len(keys), summary)


def _joined(before: Columns | None, rows: Columns, at: int, end: int, summary: Summary) -> Columns:
    mine = {name: column[at:end] for name, column in rows.items()}
    if before is None:
        return mine
    own, keys = _keys(before), _keys(mine)
    low, high = np.searchsorted(own, keys), np.searchsorted(own, keys, side="right")
    keep = np.ones(len(keys), bool)
    for row in np.flatnonzero(low < high):
        keep[row] = mine["item_id"][row] not in before["item_id"][low[row] : high[row]]
    summary.repeated += int((~keep).sum())
    order = np.argsort(np.concatenate([own, keys[keep]]), kind="stable")
    return {name: np.concatenate([column, mine[name][keep]])[order] for name, column in before.items()}


def _keys(rows: Columns) -> np.ndarray:
    return rows["uid"].astype(np.uint64) << np.uint64(32) | rows["timestamp"].astype(np.uint64)


def _write(path: Path, name: str, batches: Iterable[Columns], advance: object) -> None:
    schema = EVENT_SCHEMAS[name]
    # A dictionary of times would be nearly as long as the column.
    repeating = [column for column in schema.names if column != "timestamp"]
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repeating) as writer:
        for rows in batches:
            columns = [pa.array(rows[field.name]).cast(field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            advance(len(rows["uid"]))


def _link(path: Path, other: Path) -> None:
    """The same file by another name; a copy where the disk is another one."""
    try:
        os.link(path.resolve(), other)
    except OSError:
        shutil.copyfile(path, other)
