"""Parquet logs to shards: three streaming passes over the events, then the item files.

    1. count users and songs                       (census)
    2. filter; count the timestamps of what stays  (select; one pass more per round of a k-core)
    3. merge, map to indices, split, write         (write_events)

Memory follows the numbers of users, songs and distinct timestamps, and the size of a batch; not the number of events.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from music_map.errors import UserError
from music_map.preprocess.cold import held_out_songs
from music_map.preprocess.dataset import (
    DISLIKE,
    EVENT_TYPES,
    LIKE,
    LISTEN,
    SPLITS,
    WITHDRAWAL_TYPES,
    Events,
    Withdrawals,
)
from music_map.preprocess.features import write_audio, write_mapping
from music_map.preprocess.filtering import INTERACTIONS, select, take_census
from music_map.preprocess.ids import IdIndex
from music_map.preprocess.settings import PreprocessSettings
from music_map.preprocess.shards import ShardWriter
from music_map.preprocess.splits import Cutoffs, global_temporal_cutoffs, split_sizes, temporal_cutoffs
from music_map.progress import Progress
from music_map.raw.reader import BATCH_ROWS, Columns, EventTable, Table, open_events, user_chunks
from music_map.raw.schema import ITEM_SCHEMAS, item_path
from music_map.storage import ArrayWriter

KINDS = {"listens": LISTEN, "likes": LIKE, "dislikes": DISLIKE}
WITHDRAWN_KINDS = {"unlikes": LIKE, "undislikes": DISLIKE}


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
      The manifest's meta: stats, train_end, num_shards, num_withdrawn_shards, cutoffs; num_held_out_shards where
      songs are held out.
    Raises:
      UserError: a file, column or value that cannot be used, a filter that leaves nothing, or an empty split.
    """
    tables = open_events(raw_dir, settings.size)
    census = take_census(tables, batch_rows=batch_rows, progress=progress)
    kept = select(
        tables,
        census,
        rule=settings.filter,
        min_interactions=settings.min_interactions,
        batch_rows=batch_rows,
        progress=progress,
    )
    if settings.split == "temporal":
        cutoffs = temporal_cutoffs(
            kept.times,
            kept.time_counts,
            train_fraction=settings.train_fraction,
            val_fraction=settings.val_fraction,
            train_on_val=settings.train_on_val,
        )
    else:
        cutoffs = global_temporal_cutoffs(census.last_timestamp, train_on_val=settings.train_on_val)
    sizes = split_sizes(cutoffs, kept.times, kept.time_counts, train_on_val=settings.train_on_val)
    held_out = held_out_songs(kept.items.ids, fraction=settings.cold_item_fraction, seed=settings.cold_item_seed)
    writer.write("user_ids", kept.users.ids)
    writer.write("item_ids", kept.items.ids)
    written = write_events(
        tables,
        kept.users,
        kept.items,
        cutoffs,
        writer,
        held_out=held_out,
        chunk_size=settings.chunk_size,
        batch_rows=batch_rows,
        progress=progress,
    )
    if written.train_end is None:
        raise UserError(
            f"config.data.cold_item_fraction={settings.cold_item_fraction} leaves no event to train on; lower it, or "
            "choose another --config.data.cold_item_seed"
        )
    writer.write("track_seconds", written.track_seconds)
    embeddings = item_path(raw_dir, "embeddings")
    with_audio = write_audio(writer, embeddings if embeddings.is_file() else None, kept.items, progress=progress)
    groups = {}
    for name in ("artist", "album"):
        path = item_path(raw_dir, f"{name}_item_mapping")
        table = Table.open(path, ITEM_SCHEMAS[f"{name}_item_mapping"]) if path.is_file() else None
        groups[name] = write_mapping(writer, name, table, kept.items, progress=progress)

    held_out_meta, held_out_stats = {}, {}
    if held_out.any():
        writer.write("held_out", held_out)
        held_out_meta["num_held_out_shards"] = written.num_held_out_shards
        held_out_stats = {"num_held_out_items": int(held_out.sum()), "held_out_size": written.num_held_out_rows}
    return {
        "stats": {
            "total_interactions": int(kept.time_counts.sum()),
            "num_users": len(kept.users),
            "num_items": len(kept.items),
            "train_size": written.num_rows["train"],
            "val_size": written.num_rows["val"],
            "test_size": written.num_rows["test"],
            "min_interactions": settings.min_interactions,
            "chunk_size": settings.chunk_size,
            "gap_size": sizes["gap"],
            "events_moved_by_ties": list(cutoffs.moved),
            "num_withdrawals": written.num_withdrawals,
            "num_items_with_audio": with_audio,
            "num_artists": groups["artist"],
            "num_albums": groups["album"],
            "raw_rows": {name: table.num_rows for name, table in tables.items()},
            "raw_users": len(census.user_ids),
            "raw_items": len(census.item_ids),
            **held_out_stats,
        },
        "train_end": written.train_end,
        "num_shards": written.num_shards,
        "num_withdrawn_shards": written.num_withdrawn_shards,
        "cutoffs": {name: getattr(cutoffs, name) for name in ("train_before", "val_from", "val_before", "test_from")},
        **held_out_meta,
    }


class Written(NamedTuple):
    """What write_events wrote.

    Attributes:
      num_shards, num_withdrawn_shards: by split.
      num_rows: interactions by split, without those of held-out songs.
      num_held_out_shards, num_held_out_rows: of the interactions of held-out songs.
      num_withdrawals: unlikes and undislikes written, over all splits.
      track_seconds: float32 [I], see ItemFeatures.
      train_end: seconds, the last train event; None where there is none.
    """

    num_shards: dict[str, int]
    num_withdrawn_shards: dict[str, int]
    num_rows: dict[str, int]
    num_held_out_shards: int
    num_held_out_rows: int
    num_withdrawals: int
    track_seconds: np.ndarray
    train_end: int | None


def write_events(
    tables: Mapping[str, EventTable],
    users: IdIndex,
    items: IdIndex,
    cutoffs: Cutoffs,
    writer: ArrayWriter,
    *,
    held_out: np.ndarray,
    chunk_size: int,
    batch_rows: int,
    progress: Progress,
) -> Written:
    """Writes the events and withdrawals of kept users and songs, split by time, sorted by user, then timestamp.

    Equal (user, timestamp) keep the order listens, likes, dislikes (unlikes, undislikes), then that of the file.
    Interactions of `held_out` songs, bool [I], are written apart, those of all times; their withdrawals are dropped.
    """
    events = {s: ShardWriter(writer, f"{s}/", Events._fields, EVENT_TYPES, chunk_size=chunk_size) for s in SPLITS}
    withdrawn = {
        s: ShardWriter(writer, f"{s}/withdrawn_", Withdrawals._fields, WITHDRAWAL_TYPES, chunk_size=chunk_size)
        for s in SPLITS
    }
    apart = None
    if held_out.any():
        apart = ShardWriter(writer, "held_out/", Events._fields, EVENT_TYPES, chunk_size=chunk_size)
    track_seconds = np.zeros(len(items), np.float32)
    train_end = None
    with progress("write shards", sum(t.num_rows for t in tables.values()), "row") as advance:
        for chunk in user_chunks(dict(tables), batch_rows=batch_rows):
            rows = _merge(chunk, INTERACTIONS, KINDS, users, items)
            split, hidden = cutoffs.assign(rows["timestamp"]), held_out[rows["item"]]
            for at, name in enumerate(SPLITS):
                here = (split == at) & ~hidden
                columns = [rows[column][here] for column in Events._fields]
                events[name].append(columns)
                if name == "train" and here.any():
                    _see_track_seconds(track_seconds, rows["item"][here], rows["track_length_seconds"][here])
                    train_end = max(train_end or 0, int(rows["timestamp"][here].max()))
            if apart is not None:
                apart.append([rows[column][hidden] for column in Events._fields])
            rows = _merge(chunk, tuple(WITHDRAWN_KINDS), WITHDRAWN_KINDS, users, items)
            split, hidden = cutoffs.assign(rows["timestamp"]), held_out[rows["item"]]
            for at, name in enumerate(SPLITS):
                here = (split == at) & ~hidden
                withdrawn[name].append([rows[column][here] for column in Withdrawals._fields])
            advance(sum(len(columns["uid"]) for columns in chunk.values()))
    return Written(
        {name: shards.finish() for name, shards in events.items()},
        {name: shards.finish() for name, shards in withdrawn.items()},
        {name: shards.num_rows for name, shards in events.items()},
        apart.finish() if apart else 0,
        apart.num_rows if apart else 0,
        sum(shards.num_rows for shards in withdrawn.values()),
        track_seconds,
        train_end,
    )


# Columns of a merged chunk: those of Events, and the length of the track, 0 where the file has no such column.
_MERGED_TYPES = EVENT_TYPES._asdict() | {"track_length_seconds": np.uint32}
_RAW_NAMES = {"played_pct": "played_ratio_pct"}


def _merge(
    chunk: Mapping[str, Columns], names: tuple[str, ...], kinds: Mapping[str, int], users: IdIndex, items: IdIndex
) -> Columns:
    """Rows of kept users and songs of several files, with indices for ids, sorted by user, then timestamp (stable)."""
    parts: dict[str, list[np.ndarray]] = {name: [np.empty(0, t)] for name, t in _MERGED_TYPES.items()}
    for name in names:
        if name not in chunk:
            continue
        columns = chunk[name]
        user, item = users.lookup(columns["uid"]), items.lookup(columns["item_id"])
        stays = (user >= 0) & (item >= 0)
        count = int(stays.sum())
        for column, dtype in _MERGED_TYPES.items():
            if column == "user":
                values = user[stays]
            elif column == "item":
                values = item[stays]
            elif column == "kind":
                values = np.full(count, kinds[name], dtype)
            else:
                raw = columns.get(_RAW_NAMES.get(column, column))
                values = np.zeros(count, dtype) if raw is None else raw[stays]
            parts[column].append(values)
    rows = {column: np.concatenate(values) for column, values in parts.items()}
    # User and timestamp in one key: sorting runs that are sorted already is close to a merge.
    order = np.argsort(rows["user"].astype(np.int64) << 32 | rows["timestamp"], kind="stable")
    return {column: values[order] for column, values in rows.items()}


def _see_track_seconds(track_seconds: np.ndarray, item: np.ndarray, seconds: np.ndarray) -> None:
    """Notes the lengths of songs that had none yet, in place: the first row of a song that states one."""
    new = np.flatnonzero((seconds > 0) & (track_seconds[item] == 0))[::-1]
    # Of several values assigned to one place NumPy keeps the last, so the first row of the song wins.
    track_seconds[item[new]] = seconds[new]
