"""Converts a log: the user's files in, Yambda's files out."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from music_map.convert.engine import MAPPINGS, MEMORY, Log, Summary
from music_map.convert.formats import files_of
from music_map.convert.settings import SONGS, ColumnMapping
from music_map.errors import UserError, disk_errors
from music_map.lock import writing
from music_map.raw.layout import EVENTS, event_path, item_path, link_item_files
from music_map.reporter import Progress, silent
from music_map.storage import new_folder


def convert_logs(
    inputs: Mapping[str, Sequence[Path | str]],
    raw_dir: Path,
    mapping: ColumnMapping,
    *,
    size: str = "own",
    overwrite: bool = False,
    source: Mapping[str, Any] | None = None,
    memory: str = MEMORY,
    progress: Progress = silent,
) -> Summary:
    """Writes RAW_DIR/flat/SIZE/, events, id tables and mappings, from the user's files.

    The folder appears whole, by one rename. Memory holds `memory` and a batch of the input, whatever the size of the
    log; while it runs, the disk holds the rows as text beside the result.

    Args:
      inputs: files by what they hold: a kind of event ("listens", "likes", ...) or "songs" (a row describes a song).
        With mapping.type the kind of a row of "listens" counts; of the other kinds only user, item and time are read.
        A folder of Parquet parts or a pattern (`*.json`) stands for its files.
      raw_dir: folder to fill, data.raw_dir of the configurations.
      mapping: which column means what.
      size: name of the folder below flat/, data.size of the configurations.
      overwrite: replace a conversion that is there.
      source: what holds for every file: file_format, delimiter, header, encoding; {kind: {...}} for those of a kind.
      memory: what the engine may take, such as "500MB".
      progress: reports rows.

    Raises:
      UserError: a file, column or value is wrong (the message names file, column and row, which count from 0), there
        are no listens, the folder is taken, or another process writes there.
    """
    folder = _folder(raw_dir, size)
    _check_free(folder, raw_dir, mapping, overwrite)
    mapping = _without_names(inputs, mapping)
    with writing(raw_dir, "convert"), disk_errors(folder):
        _check_free(folder, raw_dir, mapping, overwrite)  # again: another process may have written it meanwhile
        with new_folder(folder) as temporary, Log(temporary, mapping, memory) as log:
            with progress("read", None, "row") as advance:
                for kind, path in _each(inputs):
                    for rows in log.read(path, kind, **_options(source, kind)):
                        advance(rows)
            summary = log.finish(progress)
        link_item_files(raw_dir, size)
    return _moved(summary, folder)


def preview_logs(
    inputs: Mapping[str, Sequence[Path | str]],
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
    mapping = _without_names(inputs, mapping)
    with tempfile.TemporaryDirectory() as temporary, Log(Path(temporary), mapping, MEMORY) as log:
        for kind, path in _each(inputs):
            next(log.read(path, kind, **_options(source, kind)), None)
        return _moved(log.finish(silent), folder)


def _each(inputs: Mapping[str, Sequence[Path | str]]) -> Iterator[tuple[str, Path]]:
    for kind, paths in inputs.items():
        for given in paths:
            for path in files_of(given):
                yield kind, path


def _without_names(inputs: Mapping[str, Sequence[Path | str]], mapping: ColumnMapping) -> ColumnMapping:
    """The mapping of a log whose names stand in files of their own: the events' files may lack them."""
    if not inputs.get(SONGS):
        return mapping
    names = (name for role, names in mapping.columns(SONGS).items() if role != "item" for name in names)
    return dataclasses.replace(mapping, optional=(*mapping.optional, *names))


def _options(source: Mapping[str, Any] | None, kind: str) -> dict[str, Any]:
    """What holds for the files of a kind: `source`, but for what it says of that kind alone."""
    plain = {name: value for name, value in (source or {}).items() if name not in (*EVENTS, SONGS)}
    return plain | (source or {}).get(kind, {})


def _moved(summary: Summary, folder: Path) -> Summary:
    """A summary whose tables lie in `folder`, not where they were written."""
    return dataclasses.replace(summary, tables={column: folder / path.name for column, path in summary.tables.items()})


def _folder(raw_dir: Path, size: str) -> Path:
    if not size or Path(size).name != size or size in (".", "..") or not size.isprintable():
        raise UserError(f"--size={size}: must be a name without slashes; it becomes the folder flat/{size}/")
    return event_path(raw_dir, size, "listens").parent


def _check_free(folder: Path, raw_dir: Path, mapping: ColumnMapping, overwrite: bool) -> None:
    if folder.exists() and not overwrite:
        raise UserError(f"{folder}: is there already; give --overwrite, or another --output")
    for name in MAPPINGS:
        path = item_path(raw_dir, f"{name}_item_mapping")
        if path.exists() and not path.is_symlink() and not (overwrite and name in mapping.columns()):
            raise UserError(
                f"{path}: its songs may be numbered otherwise; delete it, or choose another --output"
                + (" (--overwrite replaces it)" if name in mapping.columns() else f" (or give --{name}=COLUMN)")
            )
