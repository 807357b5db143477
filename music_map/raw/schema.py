"""The columns of Yambda's files, as published (https://huggingface.co/datasets/yandex/yambda, arXiv 2505.22238).

Timestamps are seconds since the first event of the data set, rounded to multiples of 5; a unit is one second.
The names and places of the files are in layout.py, which imports no pyarrow.
"""

from __future__ import annotations

import pyarrow as pa

from music_map.raw.layout import EVENTS, ITEMS
from music_map.raw.layout import ID_TABLES as ID_TABLES
from music_map.raw.layout import event_path as event_path
from music_map.raw.layout import id_table_path as id_table_path
from music_map.raw.layout import item_path as item_path
from music_map.raw.layout import pipeline_files as pipeline_files

AUDIO_DIM = 128

# Interactions, then the events that withdraw them, with the columns in the published files' physical order.
_EVENT = [("uid", pa.uint32()), ("timestamp", pa.uint32()), ("item_id", pa.uint32()), ("is_organic", pa.uint8())]
LISTENS = pa.schema([*_EVENT, ("played_ratio_pct", pa.uint16()), ("track_length_seconds", pa.uint32())])
MARKS = pa.schema(_EVENT)

EVENT_SCHEMAS: dict[str, pa.Schema] = dict.fromkeys(EVENTS, MARKS) | {"listens": LISTENS}

# The documentation does not state the width of the floats, so readers accept float32 and float64.
EMBEDDINGS = pa.schema(
    [
        ("item_id", pa.uint32()),
        ("embed", pa.list_(pa.float32())),
        ("normalized_embed", pa.list_(pa.float32())),
    ]
)
ARTISTS = pa.schema([("artist_id", pa.uint32()), ("item_id", pa.uint32())])
ALBUMS = pa.schema([("album_id", pa.uint32()), ("item_id", pa.uint32())])

ITEM_SCHEMAS: dict[str, pa.Schema] = dict(zip(ITEMS, (EMBEDDINGS, ARTISTS, ALBUMS), strict=True))
