"""Raw logs to a processed folder: count, filter, index, cut time, write shards. Events are streamed, never held."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from music_map.errors import UserError
from music_map.preprocess import items as item_stage
from music_map.preprocess.counting import IdCounter, IdIndex
from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN, SPLITS, Dataset
from music_map.preprocess.inputs import identify
from music_map.preprocess.settings import PreprocessSettings
from music_map.preprocess.shards import EVENT_DTYPES, ShardWriter
from music_map.preprocess.split import Boundaries, boundaries, check_sizes
from music_map.preprocess.text_format import read_pairs
from music_map.preprocess.walk import walk_users
from music_map.progress import Progress, silent
from music_map.raw.reader import BATCH_ROWS, Columns, open_parquet, read_events, read_table
from music_map.raw.schema import EVENT_SCHEMAS, ITEM_SCHEMAS, event_path, item_path
from music_map.storage import ArrayWriter, fingerprint, new_folder, write_json

# Part of the fingerprint: a change of the format makes old folders stale.
FORMAT_VERSION = 1

# Files whose rows are interactions, and those that withdraw one, with the kind of event.
INTERACTIONS = {"listens": LISTEN, "likes": LIKE, "dislikes": DISLIKE}
WITHDRAWALS = {"unlikes": LIKE, "undislikes": DISLIKE}
_IDS = ["uid", "timestamp", "item_id"]
_WITHDRAWN = {"user": np.int32, "item": np.int32, "timestamp": np.uint32, "kind": np.uint8}


def folder_name(identity: str) -> str:
    """Name of the processed folder of a fingerprint."""
    return f"events-{identity[:12]}"


def raw_files(raw_dir: Path, size: str) -> dict[str, Path]:
    """The files of a raw folder by name; listens are required, the others may be absent.

    Raises:
      UserError: there are no listens.
    """
    paths = {name: event_path(raw_dir, size, name) for name in EVENT_SCHEMAS}
    paths |= {name: item_path(raw_dir, name) for name in ITEM_SCHEMAS}
    if not paths["listens"].is_file():
        raise UserError(
            f"{paths['listens']}: no such file; download or generate logs (launch/download.py, launch/generate.py), "
            "or set config.data.raw_dir and config.data.size"
        )
    return {name: path for name, path in paths.items() if path.is_file()}


def preprocess(
    files: Mapping[str, Path],
    settings: PreprocessSettings,
    processed_dir: Path,
    *,
    force: bool = False,
    progress: Progress = silent,
    batch_rows: int = BATCH_ROWS,
) -> tuple[Dataset, bool]:
    """Makes (or finds) the processed folder of these files and settings, PROCESSED_DIR/events-FINGERPRINT.

    Args:
      files: from `raw_files`, or `text_format.text_files` for the text format.
      settings: what to do.
      processed_dir: parent of the processed folders; other configurations lie beside this one.
      force: make it anew even where it is there.
      progress: bars.
      batch_rows: rows read at a time.

    Returns:
      The data set, and whether it was made now.

    Raises:
      UserError: a file, column or value is wrong, or filter or split leave nothing.
    """
    inputs = identify(files, processed_dir / "inputs.json", progress=progress)
    described = {"version": FORMAT_VERSION, "settings": dataclasses.asdict(settings), "inputs": inputs}
    identity = fingerprint(described)
    folder = processed_dir / folder_name(identity)
    if folder.exists() and not force:
        dataset = Dataset.open(folder)
        if dataset.fingerprint == identity:
            return dataset, False
    with new_folder(folder) as temporary:
        writer = ArrayWriter(temporary)
        if settings.format == "text":
            meta = _write_text(writer, files, settings)
        else:
            meta = _write_logs(writer, files, settings, progress, batch_rows)
        write_json(temporary / "stats.json", meta["stats"])
        schema = {name: np.dtype(dtype).str for name, dtype in EVENT_DTYPES.items()}
        writer.finish(fingerprint=identity, meta={**meta, **described, "schema": schema})
    return Dataset.open(folder), True


def _rows(files: Mapping[str, Path], names: Mapping[str, int]) -> dict[str, int]:
    return {name: open_parquet(files[name]).metadata.num_rows if name in files else 0 for name in names}


def _stream(
    files: Mapping[str, Path], names: Mapping[str, int], columns: list[str], batch_rows: int
) -> Iterator[Columns]:
    for name in names:
        if name in files:
            yield from read_table(files[name], name, columns, batch_rows=batch_rows)


def _kept_ids(
    files: Mapping[str, Path], settings: PreprocessSettings, progress: Progress, batch_rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users and songs that stay and still have a row, and the histogram of their rows' timestamps.

    Returns:
      user ids, song ids, timestamps (int64, ascending) and rows of each timestamp (int64).
    """
    rows = sum(_rows(files, INTERACTIONS).values())
    users, songs = IdCounter(), IdCounter()
    with progress("counting", rows, "row") as advance:
        for name in [*INTERACTIONS, *WITHDRAWALS]:
            if name not in files:
                continue
            # The one pass that checks the order of the rows, withdrawals' too.
            for batch in read_events(files[name], name, _IDS, batch_rows=batch_rows):
                if name in INTERACTIONS:
                    users.add(batch["uid"])
                    songs.add(batch["item_id"])
                    advance(len(batch["uid"]))
    minimum = settings.min_interactions
    keep_users, keep_songs = users.at_least(minimum), songs.at_least(minimum)
    while True:
        users, songs, times = IdCounter(), IdCounter(), IdCounter()
        user_index, song_index = IdIndex(keep_users), IdIndex(keep_songs)
        with progress("filtering", rows, "row") as advance:
            for batch in _stream(files, INTERACTIONS, _IDS, batch_rows):
                keep = (user_index(batch["uid"]) >= 0) & (song_index(batch["item_id"]) >= 0)
                users.add(batch["uid"][keep])
                songs.add(batch["item_id"][keep])
                times.add(batch["timestamp"][keep])
                advance(len(keep))
        needed = minimum if settings.filter == "k_core" else 1
        next_users, next_songs = users.at_least(needed), songs.at_least(needed)
        if not len(next_users):
            raise UserError(
                f"config.data.min_interactions={minimum}: the filter leaves nothing of {rows} rows; "
                "lower it or bring more logs"
            )
        done = settings.filter == "once" or (len(next_users), len(next_songs)) == (len(keep_users), len(keep_songs))
        keep_users, keep_songs = next_users, next_songs
        if done:
            return keep_users, keep_songs, *times.counts()


def _write_logs(
    writer: ArrayWriter, files: Mapping[str, Path], settings: PreprocessSettings, progress: Progress, batch_rows: int
) -> dict[str, Any]:
    raw_rows = _rows(files, {**INTERACTIONS, **WITHDRAWALS})
    if raw_rows["listens"] == 0:
        raise UserError(f"{files['listens']}: has no rows; download it again or bring logs")
    user_ids, item_ids, times, counts = _kept_ids(files, settings, progress, batch_rows)
    cut = boundaries(times, counts, settings)
    split = cut.split_of(times)
    check_sizes({name: int(counts[split == s].sum()) for s, name in enumerate(SPLITS)}, settings)

    shards = [ShardWriter(writer, name, settings.chunk_size) for name in SPLITS]
    withdrawn: list[dict[str, list[np.ndarray]]] = [{column: [] for column in _WITHDRAWN} for _ in SPLITS]
    track_seconds = np.zeros(len(item_ids), np.float32)
    user_index, song_index = IdIndex(user_ids), IdIndex(item_ids)
    batches = {
        name: read_table(files[name], name, EVENT_SCHEMAS[name].names, batch_rows=batch_rows)
        for name in [*INTERACTIONS, *WITHDRAWALS]
        if name in files
    }
    with progress("writing shards", sum(raw_rows[name] for name in INTERACTIONS), "row") as advance:
        for part in walk_users(batches):
            events = _merge(part.files, INTERACTIONS, user_index, song_index)
            if events is not None:
                which = cut.split_of(events["timestamp"])
                for s, shard in enumerate(shards):
                    shard.append({name: events[name][which == s] for name in EVENT_DTYPES})
                _note_lengths(track_seconds, events, which == 0)
            taken = _merge(part.files, WITHDRAWALS, user_index, song_index)
            if taken is not None:
                which = cut.split_of(taken["timestamp"])
                for s, columns in enumerate(withdrawn):
                    for name, parts in columns.items():
                        parts.append(taken[name][which == s])
            advance(sum(len(part.files[n]["uid"]) for n in INTERACTIONS if part.files.get(n) is not None))
    for shard in shards:
        shard.finish()
    num_withdrawn = {}
    for name, columns in zip(SPLITS, withdrawn, strict=True):
        for column, parts in columns.items():
            joined = np.concatenate([np.zeros(0, _WITHDRAWN[column]), *parts]).astype(_WITHDRAWN[column])
            writer.write(f"{name}/withdrawn_{column}", joined)
            num_withdrawn[name] = len(joined)
    writer.write("user_ids", user_ids.astype(np.uint32))
    writer.write("item_ids", item_ids.astype(np.uint32))
    writer.write("track_seconds", track_seconds)
    item_ids = item_ids.astype(np.uint32)
    with_audio = item_stage.write_audio(writer, files.get("embeddings"), item_ids, progress)
    artists = item_stage.write_groups(writer, files.get("artist_item_mapping"), "artist", item_ids, progress)
    albums = item_stage.write_groups(writer, files.get("album_item_mapping"), "album", item_ids, progress)
    extra = {
        "raw_rows": raw_rows,
        "withdrawals": num_withdrawn,
        "items_with_audio": with_audio,
        "num_artists": artists,
        "num_albums": albums,
    }
    return _meta(settings, user_ids, item_ids, shards, cut, train_end=int(times[split == 0][-1]), extra=extra)


def _merge(
    files: Mapping[str, Columns | None], kinds: Mapping[str, int], user_index: IdIndex, song_index: IdIndex
) -> Columns | None:
    """Joins the kept rows of several files, sorted by user, then timestamp; ties in the order of `kinds`."""
    parts = []
    for name, kind in kinds.items():
        columns = files.get(name)
        if columns is None:
            continue
        user, item = user_index(columns["uid"]), song_index(columns["item_id"])
        keep = (user >= 0) & (item >= 0)
        rows = int(keep.sum())
        if not rows:
            continue
        none = np.zeros(rows, np.uint16)
        parts.append(
            {
                "user": user[keep],
                "item": item[keep],
                "timestamp": columns["timestamp"][keep],
                "kind": np.full(rows, kind, np.uint8),
                "is_organic": columns["is_organic"][keep],
                "played_pct": columns["played_ratio_pct"][keep] if kind == LISTEN else none,
                "track_length": columns["track_length_seconds"][keep] if kind == LISTEN else none.astype(np.uint32),
            }
        )
    if not parts:
        return None
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    # Each part is sorted already: a stable (merging) sort of three runs is nearly linear.
    order = np.argsort((joined["user"].astype(np.int64) << 32) | joined["timestamp"], kind="stable")
    return {name: column[order] for name, column in joined.items()}


def _note_lengths(track_seconds: np.ndarray, events: Columns, train: np.ndarray) -> None:
    """Sets the length of songs first seen in these train listens."""
    new = train & (events["track_length"] > 0) & (track_seconds[events["item"]] == 0)
    # Reversed: of several assignments to a song the last one stays, which is then the first listen.
    track_seconds[events["item"][new][::-1]] = events["track_length"][new][::-1]


def _meta(
    settings: PreprocessSettings,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
    shards: list[ShardWriter],
    cut: Boundaries | None,
    *,
    train_end: int,
    extra: dict[str, Any],
) -> dict[str, Any]:
    sizes = {name: shard.size for name, shard in zip(SPLITS, shards, strict=True)}
    stats = {
        "total_interactions": sum(sizes.values()),
        "num_users": len(user_ids),
        "num_items": len(item_ids),
        **{f"{name}_size": size for name, size in sizes.items()},
        "min_interactions": settings.min_interactions,
        "chunk_size": settings.chunk_size,
        **extra,
    }
    if cut is not None:
        stats["boundaries"] = {
            name: getattr(cut, name) for name in ("train_stop", "val_start", "val_stop", "test_start")
        }
        stats["rows_moved_by_ties"] = list(cut.moved)
    return {
        "stats": stats,
        "train_end": train_end,
        "num_shards": {name: shard.num_shards for name, shard in zip(SPLITS, shards, strict=True)},
    }


def _write_text(writer: ArrayWriter, files: Mapping[str, Path], settings: PreprocessSettings) -> dict[str, Any]:
    """The text format as events: whole organic listens at time 0 (train), 1 (val) and 2 (test), without a filter."""
    pairs = {split: read_pairs(path) for split, path in files.items()}
    if settings.train_on_val:
        both = np.concatenate([np.stack(pairs[s], 1) for s in ("train", "val")])
        both = np.unique(both, axis=0)
        empty = np.zeros(0, np.uint32)
        pairs |= {"train": (both[:, 0], both[:, 1]), "val": (empty, empty)}
    user_ids = np.unique(np.concatenate([users for users, _ in pairs.values()]))
    item_ids = np.unique(np.concatenate([items for _, items in pairs.values()]))
    shards = []
    for time, split in enumerate(SPLITS):
        users, items = pairs[split]
        shard = ShardWriter(writer, split, settings.chunk_size)
        one = np.ones(len(users), np.uint8)
        shard.append(
            {
                "user": np.searchsorted(user_ids, users),
                "item": np.searchsorted(item_ids, items),
                "timestamp": one * time,
                "kind": one * LISTEN,
                "is_organic": one,
                "played_pct": one * 100,
            }
        )
        shard.finish()
        shards.append(shard)
        for column, dtype in _WITHDRAWN.items():
            writer.write(f"{split}/withdrawn_{column}", np.zeros(0, dtype))
    check_sizes({name: shard.size for name, shard in zip(SPLITS, shards, strict=True)}, settings)
    writer.write("user_ids", user_ids)
    writer.write("item_ids", item_ids)
    writer.write("track_seconds", np.zeros(len(item_ids), np.float32))
    item_stage.write_audio(writer, None, item_ids, silent)
    for kind in ("artist", "album"):
        item_stage.write_groups(writer, None, kind, item_ids, silent)
    return _meta(settings, user_ids, item_ids, shards, None, train_end=0, extra={})
