"""The names and places of Yambda's files, as published (https://huggingface.co/datasets/yandex/yambda)."""

from __future__ import annotations

import contextlib
from pathlib import Path

SIZES = ("50m", "500m", "5b")
# Interactions, then the events that withdraw one.
EVENTS = ("listens", "likes", "dislikes", "unlikes", "undislikes")
ITEMS = ("embeddings", "artist_item_mapping", "album_item_mapping")

# Tables of the logs' own ids. convert writes them beside the events if the ids of a log are not whole numbers.
ID_TABLES: dict[str, str] = {"user": "user_ids", "item": "song_ids", "artist": "artist_ids", "album": "album_ids"}


def event_path(raw_dir: Path, size: str, name: str) -> Path:
    """Path of an event file in the hub's layout, e.g. `data/raw/flat/50m/listens.parquet`."""
    return raw_dir / "flat" / size / f"{name}.parquet"


def item_path(raw_dir: Path, name: str) -> Path:
    """Path of an item file in the hub's layout, e.g. `data/raw/embeddings.parquet`."""
    return raw_dir / f"{name}.parquet"


def item_file(raw_dir: Path, size: str, name: str) -> Path:
    """Path of the item file to read: the log's own (`flat/SIZE/NAME.parquet`) if it exists, else the shared one."""
    own, shared = event_path(raw_dir, size, name), item_path(raw_dir, name)
    # A link leads to another log's own file: see link_item_files.
    linked = shared.is_symlink() and shared.readlink().parts[0] == "flat"
    return own if own.is_file() or linked else shared


def link_item_files(raw_dir: Path, size: str) -> None:
    """Links a log's own item files at the hub's places too, if the system supports links.

    A link follows the content of the log's folder, so it does not have to appear together with the folder.
    """
    for name in ITEMS:
        own, path = event_path(raw_dir, size, name), item_path(raw_dir, name)
        with contextlib.suppress(OSError):
            if own.is_file():
                path.unlink(missing_ok=True)
                path.symlink_to(own.relative_to(raw_dir))
            elif path.is_symlink() and not path.exists():
                path.unlink()


def id_table_path(raw_dir: Path, size: str, kind: str) -> Path:
    """Path of a table of own ids, e.g. `data/own/flat/own/song_ids.parquet` for the kind "item"; see ID_TABLES."""
    return raw_dir / "flat" / size / f"{ID_TABLES[kind]}.parquet"


def pipeline_files(size: str, raw_dir: Path | None = None) -> list[str]:
    """The files that the pipeline reads, relative to the raw folder.

    Args:
      size: name of the log.
      raw_dir: the raw folder; the log may have own item files there (see `item_file`). None: the hub's layout.
    """
    events = [f"flat/{size}/{name}.parquet" for name in EVENTS]
    base = raw_dir or Path()
    items = [item_path(base, name) if raw_dir is None else item_file(base, size, name) for name in ITEMS]
    return events + [str(path.relative_to(base)) for path in items]
