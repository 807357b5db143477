"""Raw logs for tests: rows of tuples to Parquet files in the hub's layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from music_map.raw.schema import ALBUMS, ARTISTS, AUDIO_DIM, EMBEDDINGS, EVENT_SCHEMAS, event_path, item_path

# Rows of listens are (uid, timestamp, item_id, is_organic, played_ratio_pct, track_length_seconds), those of the other
# event files (uid, timestamp, item_id, is_organic), those of mappings (artist_id or album_id, item_id).
Rows = Sequence[tuple[int, ...]]


def table(rows: Rows, schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def write_table(path: Path, contents: pa.Table, *, row_group_size: int | None = None) -> Path:
    """Writes a Parquet file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(contents, path, row_group_size=row_group_size)
    return path


def write_logs(
    root: Path,
    *,
    size: str = "50m",
    row_group_size: int | None = None,
    sort: bool = True,
    embeddings: Mapping[int, Sequence[float]] | None = None,
    artists: Rows | None = None,
    albums: Rows | None = None,
    **events: Rows | None,
) -> Path:
    """Writes a log: `write_logs(tmp_path, listens=[...], likes=[...], embeddings={item: vector})`.

    Args:
      root: the raw folder, e.g. a tmp_path.
      size: name of the folder below flat/.
      row_group_size: rows per row group.
      sort: sorts event rows by uid, then timestamp (stable), as published.
      embeddings: audio vectors by song; both embed and normalized_embed are written.
      artists, albums: pairs (artist_id, item_id), (album_id, item_id).
      **events: rows of listens, likes, dislikes, unlikes, undislikes; a file that is None or not given is not written.
    Returns:
      `root`.
    """
    for name, rows in events.items():
        if rows is not None:
            rows = sorted(rows, key=lambda row: row[:2]) if sort else rows
            write_table(event_path(root, size, name), table(rows, EVENT_SCHEMAS[name]), row_group_size=row_group_size)
    if embeddings is not None:
        vectors = {item: np.asarray(vector, np.float64) for item, vector in embeddings.items()}
        contents = pa.table(
            [
                pa.array(list(vectors), pa.uint32()),
                pa.array([v.tolist() for v in vectors.values()], pa.list_(pa.float32())),
                pa.array([(v / np.linalg.norm(v)).tolist() for v in vectors.values()], pa.list_(pa.float32())),
            ],
            schema=EMBEDDINGS,
        )
        write_table(item_path(root, "embeddings"), contents, row_group_size=row_group_size)
    for name, rows, schema in (("artist", artists, ARTISTS), ("album", albums, ALBUMS)):
        if rows is not None:
            write_table(item_path(root, f"{name}_item_mapping"), table(rows, schema), row_group_size=row_group_size)
    return root


def random_log(
    seed: int = 0, *, num_users: int = 30, num_items: int = 40, num_listens: int = 2_000, seconds: int = 20 * 86_400
) -> dict[str, object]:
    """Arguments of write_logs for a random log with every file: ids are sparse, timestamps multiples of 5 with ties."""
    rng = np.random.default_rng(seed)
    uids = np.sort(rng.choice(10 * num_users, num_users, replace=False))
    items = np.sort(rng.choice(10 * num_items, num_items, replace=False))

    def marks(count: int) -> list[tuple[int, ...]]:
        columns = (
            rng.choice(uids, count),
            5 * rng.integers(0, seconds // 5, count),
            rng.choice(items, count),
            rng.integers(0, 2, count),
        )
        return [tuple(map(int, row)) for row in zip(*columns, strict=True)]

    lengths = {int(item): int(5 * rng.integers(20, 80)) for item in items}
    played = rng.integers(0, 160, num_listens) * (rng.random(num_listens) > 0.1)
    listens = [(*row, int(pct), lengths[row[2]]) for row, pct in zip(marks(num_listens), played, strict=True)]
    likes, dislikes = marks(num_listens // 10), marks(num_listens // 20)
    later = [(u, t + 5 * int(rng.integers(0, seconds // 20)), i, o) for u, t, i, o in likes[::3]]
    return {
        "listens": listens,
        "likes": likes,
        "dislikes": dislikes,
        "unlikes": later,
        "undislikes": [(u, t + 5, i, o) for u, t, i, o in dislikes[::4]],
        "embeddings": {int(item): rng.standard_normal(AUDIO_DIM) for item in items[::2]},
        "artists": [(int(rng.integers(0, 9)) * 7, int(item)) for item in np.repeat(items, 2)],
        "albums": [(int(item) // 3, int(item)) for item in items[1:]],
    }
