"""The names and places of Yambda's files, as published (https://huggingface.co/datasets/yandex/yambda)."""

from __future__ import annotations

from pathlib import Path

SIZES = ("50m", "500m", "5b")
# Interactions, then the events that withdraw one.
EVENTS = ("listens", "likes", "dislikes", "unlikes", "undislikes")
ITEMS = ("embeddings", "artist_item_mapping", "album_item_mapping")

# Tables of the logs' own ids that convert writes beside the events of a log whose ids are no whole numbers.
ID_TABLES: dict[str, str] = {"user": "user_ids", "item": "song_ids", "artist": "artist_ids", "album": "album_ids"}


def event_path(raw_dir: Path, size: str, name: str) -> Path:
    """Path of an event file in the hub's layout, e.g. `data/raw/flat/50m/listens.parquet`."""
    return raw_dir / "flat" / size / f"{name}.parquet"


def item_path(raw_dir: Path, name: str) -> Path:
    """Path of an item file in the hub's layout, e.g. `data/raw/embeddings.parquet`."""
    return raw_dir / f"{name}.parquet"


def id_table_path(raw_dir: Path, size: str, kind: str) -> Path:
    """Path of a table of own ids, e.g. `data/own/flat/own/song_ids.parquet` of the kind "item"; see ID_TABLES."""
    return raw_dir / "flat" / size / f"{ID_TABLES[kind]}.parquet"


def pipeline_files(size: str) -> list[str]:
    """The files that the pipeline reads, relative to the raw folder, in the hub's layout."""
    events = [f"flat/{size}/{name}.parquet" for name in EVENTS]
    return events + [f"{name}.parquet" for name in ITEMS]
