"""Writes generated logs into the hub's layout: streamed by blocks, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from music_map.errors import DamagedFileError, UserError
from music_map.lock import writing
from music_map.raw.layout import event_path, id_table_path, item_path, link_item_files, pipeline_files
from music_map.raw.schema import EVENT_SCHEMAS, ITEM_SCHEMAS
from music_map.reporter import Progress, silent
from music_map.storage import new_folder, read_json, scratch_folder, write_json
from music_map.synthetic.audio import BLOCK_SONGS, MISSING_SHARE, audio_blocks
from music_map.synthetic.blocks import BlockEvents, World, block_events, build_world
from music_map.synthetic.mappings import album_rows, artist_rows
from music_map.synthetic.marginals import Counter
from music_map.synthetic.names import write_names
from music_map.synthetic.settings import Settings
from music_map.synthetic.streams import Stream, generator

FORMAT = 1  # of the generator: raise it with every change of the rows that a seed gives
ROW_GROUP = 1_000_000
_LISTEN_BYTES, _SONG_BYTES = 12, 1_100  # on disk, to ask for the space beforehand
_UNSEEN_LISTED = 0.05
_REPETITIVE = ["uid", "is_organic", "played_ratio_pct", "track_length_seconds", "artist_id", "album_id"]


def record_path(raw_dir: Path, size: str) -> Path:
    """Path of the record of what was generated, beside the event files."""
    return raw_dir / "flat" / size / "generated.json"


def generated_files(size: str) -> list[str]:
    """The files of a generated log, relative to the raw folder: those that the pipeline reads, and tables of names."""
    tables = (id_table_path(Path(), size, kind) for kind in ("item", "artist", "album"))
    return [*pipeline_files(size), *map(str, tables)]


def _identity(settings: Settings) -> dict[str, Any]:
    return {"format": FORMAT, "settings": dataclasses.asdict(settings)}


def read_record(raw_dir: Path, settings: Settings) -> dict[str, Any] | None:
    """The record of an earlier generation with the same settings whose files are all still there, else None."""
    try:
        record = read_json(record_path(raw_dir, settings.size))
    except (DamagedFileError, NotADirectoryError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        return None
    # A record of an earlier version lacks the settings that were added since; their defaults mean "as before".
    before = {f.name: f.default for f in dataclasses.fields(Settings) if f.default is not dataclasses.MISSING}
    if {"format": record.get("format"), "settings": before | record["settings"]} != _identity(settings):
        return None
    # Earlier versions wrote no names, kept the item files at the hub's places, and their paths here.
    sizes, names = record.get("bytes"), pipeline_files(settings.size, raw_dir)
    names += [name for name in generated_files(settings.size) if Path(name).stem.endswith("_ids")]
    found = {name: (raw_dir / name).stat().st_size for name in names if (raw_dir / name).is_file()}
    if sizes not in (found, {Path(name).name: size for name, size in found.items()}):
        return None
    return record


def require_free(raw_dir: Path, settings: Settings) -> None:
    """Raises a UserError that names a file that exists already."""
    for name in pipeline_files(settings.size):
        path = raw_dir / name
        if path.exists():
            raise UserError(
                f"{path}: exists and is no output of these settings; "
                "give --overwrite to replace it, or another --output"
            )


def expected_bytes(settings: Settings) -> int:
    """About how large the files will be."""
    return settings.num_listens * _LISTEN_BYTES + int(settings.num_items * 1.1 * (1 - MISSING_SHARE)) * _SONG_BYTES


def _require_space(raw_dir: Path, settings: Settings) -> None:
    folder = raw_dir
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose another --output")
    need = expected_bytes(settings)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"{raw_dir}: about {need / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB are free; free some space, "
            "choose another --output or a smaller --size"
        )


class RowGroupWriter:
    """Appends columns to a Parquet file, in row groups of at least `rows` rows (the last may be smaller)."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._schema = schema
        self._rows = rows
        self._waiting: list[pa.RecordBatch] = []
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in schema.names if name in _REPETITIVE],
        )

    def append(self, columns: list[pa.Array]) -> None:
        """Adds rows, given as one array per column of the schema."""
        self._waiting.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        if sum(len(batch) for batch in self._waiting) >= self._rows:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting = []
        self._writer.write_table(table, row_group_size=max(1, len(table)))

    def __enter__(self) -> RowGroupWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._waiting:
            self._flush()
        self._writer.close()


def _columns(world: World, events: BlockEvents, name: str) -> list[pa.Array]:
    rows = events.listens if name == "listens" else events.marks[name]
    values = {
        "uid": world.users.uid[events.first_user + rows.user],
        "timestamp": rows.timestamp,
        "item_id": world.catalogue.item_id[rows.song],
        "is_organic": rows.is_organic,
    }
    if name == "listens":
        values["played_ratio_pct"] = rows.played_pct
        values["track_length_seconds"] = world.catalogue.track_seconds[rows.song]
    return [pa.array(values[field.name], field.type) for field in EVENT_SCHEMAS[name]]


def write_events(folder: Path, world: World, *, row_group: int = ROW_GROUP, progress: Progress = silent) -> Counter:
    """Streams the five event files into the hub's layout below `folder`.

    Args:
      folder: in place of the raw folder.
      world: what to write.
      row_group: rows to gather before they are written.
      progress: counts events.

    Returns:
      The counts of what was written.
    """
    settings, counter = world.settings, Counter(world)
    total = sum(getattr(settings, f"num_{name}") for name in EVENT_SCHEMAS)
    writers = {
        name: RowGroupWriter(event_path(folder, settings.size, name), schema, row_group)
        for name, schema in EVENT_SCHEMAS.items()
    }
    with contextlib.ExitStack() as stack, progress("events", total, "events") as advance:
        for writer in writers.values():
            stack.enter_context(writer)
        for block in range(world.num_blocks):
            events = block_events(world, block)
            counter.add(events)
            rows = 0
            for name, writer in writers.items():
                columns = _columns(world, events, name)
                if len(columns[0]):
                    writer.append(columns)
                rows += len(columns[0])
            advance(rows)
    return counter


def write_items(folder: Path, world: World, seen: np.ndarray, *, progress: Progress = silent) -> None:
    """Streams the audio embeddings and writes the two mappings and the names below `folder`.

    Args:
      folder: in place of the raw folder.
      world: what to write.
      seen: bool [N], songs with an event. A few others are listed too, as in the published files, which list songs
        that the smaller sizes lack.
      progress: counts songs.
    """
    catalogue, seed = world.catalogue, world.settings.seed
    listed = seen | (generator(seed, Stream.MAPPINGS, 2).random(len(seen)) < _UNSEEN_LISTED)
    write_names(folder, world.settings.size, catalogue, listed, seed)
    total = int(listed.sum())

    def lists(rows: np.ndarray) -> pa.Array:
        offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.reshape(-1)))

    with (
        RowGroupWriter(item_path(folder, "embeddings"), ITEM_SCHEMAS["embeddings"], ROW_GROUP // 16) as writer,
        progress("audio", total, "songs") as advance,
    ):
        for done, audio in zip(range(0, total, BLOCK_SONGS), audio_blocks(catalogue, listed, seed), strict=True):
            writer.append([pa.array(audio.item_id), lists(audio.embed), lists(audio.normalized_embed)])
            advance(min(BLOCK_SONGS, total - done))
    for name, rows in (("artist_item_mapping", artist_rows), ("album_item_mapping", album_rows)):
        with RowGroupWriter(item_path(folder, name), ITEM_SCHEMAS[name], ROW_GROUP) as writer:
            writer.append([pa.array(column) for column in rows(catalogue, listed, seed)])


def generate(raw_dir: Path, settings: Settings, *, overwrite: bool = False, progress: Progress = silent) -> dict:
    """Generates a set of logs, whole or not at all.

    All files lie in the folder of the log, which appears by one rename; then links are made at the hub's places.

    Args:
      raw_dir: the hub's layout begins here.
      settings: what to generate.
      overwrite: whether files that are there already may be replaced.
      progress: counts events, then songs.

    Returns:
      Marginals, see PUBLISHED_50M.

    Raises:
      UserError: a file is in the way, another process writes there, or the disk is too small.
    """
    _require_space(raw_dir, settings)
    record = record_path(raw_dir, settings.size)
    with writing(raw_dir, "generate"), scratch_folder(raw_dir / "generated") as work:
        if not overwrite:
            require_free(raw_dir, settings)
        world = build_world(settings)
        counter = write_events(work, world, progress=progress)
        write_items(work, world, counter.seen(), progress=progress)
        marginals = counter.marginals()
        with new_folder(record.parent) as folder:
            for name in generated_files(settings.size):
                os.replace(work / name, folder / Path(name).name)
            sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
            write_json(folder / record.name, {**_identity(settings), "bytes": sizes, "marginals": marginals})
        link_item_files(raw_dir, settings.size)
    return marginals
