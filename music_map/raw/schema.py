"""The files and columns of Yambda, as published (https://huggingface.co/datasets/yandex/yambda, arXiv 2505.22238).

Timestamps are seconds since the first event of the data set, rounded to multiples of 5; a unit is one second.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

SIZES = ("50m", "500m", "5b")
AUDIO_DIM = 128

# Interactions, then the events that withdraw one: the physical column order is that of the published files.
_EVENT = [("uid", pa.uint32()), ("timestamp", pa.uint32()), ("item_id", pa.uint32()), ("is_organic", pa.uint8())]
LISTENS = pa.schema([*_EVENT, ("played_ratio_pct", pa.uint16()), ("track_length_seconds", pa.uint32())])
MARKS = pa.schema(_EVENT)

EVENT_SCHEMAS: dict[str, pa.Schema] = {
    "listens": LISTENS,
    "likes": MARKS,
    "dislikes": MARKS,
    "unlikes": MARKS,
    "undislikes": MARKS,
}

# The width of the published floats is not stated: readers accept float32 and float64.
EMBEDDINGS = pa.schema(
    [
        ("item_id", pa.uint32()),
        ("embed", pa.list_(pa.float32())),
        ("normalized_embed", pa.list_(pa.float32())),
    ]
)
ARTISTS = pa.schema([("artist_id", pa.uint32()), ("item_id", pa.uint32())])
ALBUMS = pa.schema([("album_id", pa.uint32()), ("item_id", pa.uint32())])

ITEM_SCHEMAS: dict[str, pa.Schema] = {
    "embeddings": EMBEDDINGS,
    "artist_item_mapping": ARTISTS,
    "album_item_mapping": ALBUMS,
}

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
    events = [f"flat/{size}/{name}.parquet" for name in EVENT_SCHEMAS]
    return events + [f"{name}.parquet" for name in ITEM_SCHEMAS]
