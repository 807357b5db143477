"""Reads listening logs: a data frame, files of any known format, or a folder in Yambda's layout."""

from __future__ import annotations

import dataclasses
import datetime
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from music_map.convert.build import Summary, convert_logs
from music_map.convert.importing import import_logs
from music_map.convert.settings import EVENT_TYPES, SONGS, ColumnMapping
from music_map.errors import DamagedFileError, UserError
from music_map.raw.layout import EVENTS, event_path
from music_map.reporter import Reporter
from music_map.text import html_table

_SIZE = "own"


@dataclasses.dataclass(frozen=True)
class Logs:
    """Logs in Yambda's layout: FOLDER/flat/SIZE/listens.parquet, ...

    Attributes:
      folder: data.raw_dir of a configuration.
      size: data.size of a configuration.
      summary: of the conversion; None if the folder existed already.
    """

    folder: Path
    size: str
    summary: Summary | None = None

    def _rows(self) -> list[tuple[str, str]]:
        found = self.summary
        if found is None:
            return []
        span = (f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%Y-%m-%d}" for at in (found.first, found.last))
        counts = {**found.events, "users": found.num_users, "songs": found.num_items, "rows skipped": found.skipped}
        return [*((name, f"{count:,}") for name, count in counts.items() if count), ("time", " to ".join(span))]

    def __repr__(self) -> str:
        lines = [f"{name:<14}{value}" for name, value in self._rows()]
        return "\n".join([f"logs in {self.folder / 'flat' / self.size}", *lines])

    def _repr_html_(self) -> str:
        return html_table(("logs", str(self.folder / "flat" / self.size)), self._rows())


def read_logs(
    logs: Any,
    folder: str | Path = "data/own",
    *,
    user: str | None = "user",
    item: str = "item",
    time: str = "time",
    likes: Any = None,
    dislikes: Any = None,
    unlikes: Any = None,
    undislikes: Any = None,
    songs: Any = None,
    size: str | None = None,
    types: Mapping[str, str] | None = None,
    preset: str | None = None,
    reporter: Reporter,
    **columns: Any,
) -> Logs:
    """Converts logs of any kind to Yambda's layout; ids and names are kept.

    Args:
      logs: the listens: a data frame (pandas, Polars, Arrow, or a dict of columns), a file or a list of files (CSV,
        TSV, JSON lines, Parquet), or a folder in Yambda's layout, which needs no conversion.
      folder: for the converted logs; an earlier conversion there is replaced.
      user, item, time: names of columns; user=None and user_value="me": a log of one person.
      likes, dislikes, unlikes, undislikes: like `logs`, with the same three columns.
      songs: like `logs`, one row per song with its names, artist and album.
      size: name of the folder below flat/; by default the only one there, or "own".
      types: with type="COLUMN", the meaning of its values: {"heart": "likes", "skip": "ignore"}.
      preset: `logs` is an export (a path or several): its name in `music_map.convert.presets`, or "auto". Then only
        `folder`, `size` and `columns` count besides.
      reporter: gets the progress, and warnings of doubtful values.
      **columns: the other fields of `music_map.convert.settings.ColumnMapping`: played, title, artist, ...

    Raises:
      UserError: a column or a value is wrong; the message names file, column and row.
    """
    known = {field.name for field in dataclasses.fields(ColumnMapping)}
    if unknown := [name for name in columns if name not in known]:
        raise UserError(f"read_logs({unknown[0]}=...): there is no such column; columns are {', '.join(sorted(known))}")
    if preset is not None:
        return _imported(preset, logs, Path(folder).expanduser(), size or _SIZE, columns, reporter)
    if isinstance(logs, str | Path) and Path(logs).expanduser().is_dir():
        return _in_layout(Path(logs).expanduser(), size)
    folder, size = Path(folder).expanduser(), size or _SIZE
    given = {EVENTS[0]: logs, "likes": likes, "dislikes": dislikes, "unlikes": unlikes, "undislikes": undislikes}
    given |= {SONGS: songs}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = {kind: _files(kind, value, Path(scratch)) for kind, value in given.items() if value is not None}
        try:
            mapping = ColumnMapping(user=user, item=item, time=time, **columns, types=EVENT_TYPES | dict(types or {}))
            summary = convert_logs(inputs, folder, mapping, size=size, overwrite=True, progress=reporter.bar)
        except UserError as e:
            raise _in_words_of_arguments(e, scratch) from e
    for note in summary.notes:
        reporter.warn(note)
    return Logs(folder, size, summary)


def _imported(preset: str, logs: Any, folder: Path, size: str, columns: Mapping[str, Any], reporter: Reporter) -> Logs:
    """The logs of an export."""
    paths = [Path(path).expanduser() for path in ([logs] if isinstance(logs, str | Path) else logs)]
    try:
        options = {"size": size, "overwrite": True, "changes": columns}
        found, summary = import_logs(preset, paths, folder, **options, reporter=reporter)
    except UserError as e:
        raise _in_words_of_arguments(e, "/dev/null") from e
    for note in (*found.notes, *summary.notes):
        reporter.warn(note)
    return Logs(folder, size, summary)


def _in_layout(folder: Path, size: str | None) -> Logs:
    """The logs in a folder in Yambda's layout, with the given size or the only one there."""
    sizes = sorted(path.parent.name for path in folder.glob("flat/*/listens.parquet"))
    if size is None and len(sizes) != 1:
        says = f"{', '.join(sizes)}; choose one: size={sizes[0]!r}" if sizes else "no flat/*/listens.parquet"
        raise UserError(f"{folder}: holds {says}")
    if size is not None and size not in sizes:
        raise UserError(f"{event_path(folder, size, 'listens')}: no such file")
    return Logs(folder, size or sizes[0])


def _files(kind: str, value: Any, scratch: Path) -> list[Path]:
    """The given files, or a file with the given data frame as Parquet."""
    if isinstance(value, str | Path):
        return [Path(value).expanduser()]
    if isinstance(value, Sequence) and value and all(isinstance(one, str | Path) for one in value):
        return [Path(one).expanduser() for one in value]
    path = scratch / f"{kind}.parquet"
    try:
        table = pa.table(value)
        pq.write_table(pa.table({name: _as_values(table[name]) for name in table.column_names}), path)
    except (TypeError, ValueError, pa.ArrowException) as e:
        text = " ".join(str(e).split())[:200]
        raise UserError(f"{kind}: {type(value).__name__} is no table ({text}); give a data frame or a file") from e
    return [path]


def _as_values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without categories, because Parquet cannot store those of every library."""
    if not pa.types.is_dictionary(column.type):
        return column
    return pa.chunked_array(
        [each.dictionary.cast(pa.string()).take(each.indices) for each in column.chunks], pa.string()
    )


def _in_words_of_arguments(error: UserError, scratch: str) -> UserError:
    """A conversion's error, with names of arguments instead of flags and without the path of a data frame's file."""
    text = re.sub(rf"{re.escape(scratch)}/(\w+)\.parquet", r"\1", str(error))
    text = re.sub(r"--(\w+)", r"\1", text)
    return DamagedFileError(text) if isinstance(error, DamagedFileError) else UserError(text)
