"""Parquet logs to shards: two streaming passes over the events; the item files are read during the second.

    1. count users, songs and times; decide what stays and where the splits begin   (take_census, select, Layout)
    2. map to indices, merge, split, write                                          (write_events)

A k-core takes one more pass per round in between. Memory grows with the numbers of users, songs and distinct timestamps
and with the size of a batch, not with the number of events. Several processes can share the two passes, see
music_map.preprocess.parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from music_map.errors import UserError
from music_map.preprocess.cold import held_out_songs
from music_map.preprocess.events import Written, write_events
from music_map.preprocess.features import write_audio, write_mapping
from music_map.preprocess.filtering import Filter, Kept, count_left, select, take_census
from music_map.preprocess.ids import IdIndex
from music_map.preprocess.own_ids import read_own_ids
from music_map.preprocess.present import far_times
from music_map.preprocess.settings import PreprocessSettings
from music_map.preprocess.splits import Cutoffs, global_temporal_cutoffs, split_sizes, temporal_cutoffs
from music_map.raw.layout import id_table_path, item_file
from music_map.raw.reader import BATCH_ROWS, EventTable, Table, open_events
from music_map.raw.schema import ITEM_SCHEMAS
from music_map.reporter import Progress
from music_map.storage import ArrayWriter


class Layout(NamedTuple):
    """The decisions from the counts, before anything is written.

    Attributes:
      kept: the result of the filter.
      cutoffs: the times where the splits begin and end.
      sizes: number of events by split and under "gap", including events of held-out songs.
      held_out: bool [I], songs held out altogether.
    """

    kept: Kept
    cutoffs: Cutoffs
    sizes: dict[str, int]
    held_out: np.ndarray

    @property
    def filter(self) -> Filter:
        return Filter(self.kept.users, self.kept.items)


def plan_layout(kept: Kept, settings: PreprocessSettings) -> Layout:
    """Decides where the splits begin and which songs are held out.

    Raises:
      UserError: a split would be empty, or the fraction of held-out songs selects none or all.
    """
    if settings.split == "temporal":
        cutoffs = temporal_cutoffs(
            *kept.times,
            train_fraction=settings.train_fraction,
            val_fraction=settings.val_fraction,
            train_on_val=settings.train_on_val,
        )
    else:
        cutoffs = global_temporal_cutoffs(kept.last_timestamp, train_on_val=settings.train_on_val)
    sizes = split_sizes(cutoffs, *kept.times, train_on_val=settings.train_on_val)
    held_out = held_out_songs(kept.items.ids, fraction=settings.cold_item_fraction, seed=settings.cold_item_seed)
    return Layout(kept, cutoffs, sizes, held_out)


def preprocess_logs(
    raw_dir: Path,
    settings: PreprocessSettings,
    writer: ArrayWriter,
    *,
    progress: Progress,
    batch_rows: int = BATCH_ROWS,
) -> dict[str, Any]:
    """Writes the arrays of a processed folder from logs in the hub's layout.

    Args:
      raw_dir: folder that holds flat/<size>/ and the item files; all but the listens may be absent.
      settings: filter, split, held-out songs and shard size.
      writer: the folder to write into.
      progress: shows the rows read.
      batch_rows: rows read at a time; the result does not depend on it.
    Returns:
      The manifest's meta: stats, train_end, times (see FarTimes), num_shards, num_withdrawn_shards, cutoffs;
      num_held_out_shards if songs are held out.
    Raises:
      UserError: a file, column or value that cannot be used, a filter that leaves nothing, or an empty split.
    """
    tables = open_events(raw_dir, settings.size)
    census = take_census(tables, min_interactions=settings.min_interactions, batch_rows=batch_rows, progress=progress)
    kept, _ = select(
        [census],
        lambda number, kept: [
            count_left(tables, kept, label=f"filter, pass {number}", batch_rows=batch_rows, progress=progress)
        ],
        rule=settings.filter,
        min_interactions=settings.min_interactions,
        path=tables["listens"].path,
    )
    del census
    layout = plan_layout(kept, settings)
    # Decoding the item files takes a tenth of the time of the events, so it runs beside them, not after.
    with ThreadPoolExecutor(1) as beside:
        features = beside.submit(write_features, raw_dir, settings.size, layout, writer, progress=progress)
        written = write_events(
            tables,
            layout.filter,
            layout.cutoffs,
            writer,
            held_out=layout.held_out,
            chunk_size=settings.chunk_size,
            batch_rows=batch_rows,
            progress=progress,
        )
        found = features.result()
    writer.write("track_seconds", written.track_seconds)
    return logs_meta(settings, tables, layout, written, found)


def write_features(
    raw_dir: Path, size: str, layout: Layout, writer: ArrayWriter, *, progress: Progress
) -> dict[str, int]:
    """Writes ids and item features of the kept users and songs; returns the numbers of songs with audio, artists and
    albums.
    """

    def write_ids(kind: str, index: IdIndex) -> None:
        read_own_ids(id_table_path(raw_dir, size, kind), index).write(writer, kind)

    items = layout.kept.items
    write_ids("user", layout.kept.users)
    write_ids("item", items)
    if layout.held_out.any():
        writer.write("held_out", layout.held_out)
    embeddings = item_file(raw_dir, size, "embeddings")
    found = {
        "num_items_with_audio": write_audio(
            writer, embeddings if embeddings.is_file() else None, items, progress=progress
        )
    }
    for name in ("artist", "album"):
        path = item_file(raw_dir, size, f"{name}_item_mapping")
        table = Table.open(path, ITEM_SCHEMAS[f"{name}_item_mapping"]) if path.is_file() else None
        groups = write_mapping(writer, name, table, items, progress=progress)
        write_ids(name, IdIndex(groups))
        found[f"num_{name}s"] = len(groups)
    return found


def logs_meta(
    settings: PreprocessSettings,
    tables: Mapping[str, EventTable],
    layout: Layout,
    written: Written,
    features: Mapping[str, int],
) -> dict[str, Any]:
    """The meta that preprocess_logs returns.

    Raises:
      UserError: no event is left to train on.
    """
    if written.train_end is None:
        raise UserError(
            f"config.data.cold_item_fraction={settings.cold_item_fraction} leaves no event to train on; lower it, or "
            "choose another --config.data.cold_item_seed"
        )
    kept, cutoffs, held_out = layout.kept, layout.cutoffs, layout.held_out
    held_out_meta, held_out_stats = {}, {}
    if held_out.any():
        held_out_meta["num_held_out_shards"] = written.num_held_out_shards
        held_out_stats = {"num_held_out_items": int(held_out.sum()), "held_out_size": written.num_held_out_rows}
    return {
        "stats": {
            "total_interactions": kept.times.total,
            "num_users": len(kept.users),
            "num_items": len(kept.items),
            "train_size": written.num_rows["train"],
            "val_size": written.num_rows["val"],
            "test_size": written.num_rows["test"],
            "min_interactions": settings.min_interactions,
            "chunk_size": settings.chunk_size,
            "gap_size": layout.sizes["gap"],
            "events_moved_by_ties": list(cutoffs.moved),
            "num_withdrawals": written.num_withdrawals,
            **features,
            "raw_rows": {name: table.num_rows for name, table in tables.items()},
            "raw_users": kept.num_raw_users,
            "raw_items": kept.num_raw_items,
            **held_out_stats,
        },
        "train_end": written.train_end,
        "times": far_times(*kept.times)._asdict(),
        "num_shards": written.num_shards,
        "num_withdrawn_shards": written.num_withdrawn_shards,
        "cutoffs": {name: getattr(cutoffs, name) for name in ("train_before", "val_from", "val_before", "test_from")},
        **held_out_meta,
    }
