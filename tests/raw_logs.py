"""Raw logs for tests, in the hub's layout; and a naive reading of them, one row at a time."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from music_map.raw.schema import EVENT_SCHEMAS, ITEM_SCHEMAS, event_path, item_path


def write_rows(path: Path, schema: pa.Schema, rows, **options):
    """Writes rows (tuples in the schema's order) to a Parquet file."""
    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in schema]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays, schema=schema), path, **options)


def write_logs(raw_dir: Path, *, size="tiny", embeddings=None, artists=None, albums=None, row_group_size=7, **events):
    """Writes event files from lists of rows; listens are (uid, timestamp, item, organic, pct, seconds).

    Rows are sorted by uid, then timestamp (stable). Files not given are not written, but for listens.
    """
    for name in {"listens": [], **events}:
        rows = sorted(events.get(name, []), key=lambda r: (r[0], r[1]))
        write_rows(event_path(raw_dir, size, name), EVENT_SCHEMAS[name], rows, row_group_size=row_group_size)
    items = {"embeddings": embeddings, "artist_item_mapping": artists, "album_item_mapping": albums}
    for name, rows in items.items():
        if rows is not None:
            write_rows(item_path(raw_dir, name), ITEM_SCHEMAS[name], rows)
    return raw_dir


def random_logs(seed, *, users=6, songs=8, listens=120, span=3000):
    """Random rows of every event file, with ties in time and all kinds of events."""
    rng = np.random.default_rng(seed)
    # Sparse ids, not in the order of their indices.
    uids, ids = rng.permutation(50)[:users] * 7 + 3, rng.permutation(90)[:songs] * 11 + 1
    when = lambda: int(rng.integers(0, span // 5)) * 5  # noqa: E731
    mark = lambda: (int(rng.choice(uids)), when(), int(rng.choice(ids)), int(rng.integers(0, 2)))  # noqa: E731
    listen = lambda: (*mark(), int(rng.choice([0, 1, 37, 50, 100, 159])), int(rng.choice([0, 60, 200])))  # noqa: E731
    return {
        "listens": [listen() for _ in range(listens)],
        "likes": [mark() for _ in range(listens // 4)],
        "dislikes": [mark() for _ in range(listens // 6)],
        "unlikes": [mark() for _ in range(listens // 8)],
        "undislikes": [mark() for _ in range(listens // 10)],
    }


def interactions(logs):
    """All interaction rows as (uid, timestamp, item, kind, organic, pct), kind 0 listen, 1 like, 2 dislike."""
    rows = [(u, t, i, 0, o, p) for u, t, i, o, p, _ in logs["listens"]]
    rows += [(u, t, i, 1, o, 0) for u, t, i, o in logs.get("likes", [])]
    rows += [(u, t, i, 2, o, 0) for u, t, i, o in logs.get("dislikes", [])]
    return rows


def naive_filter(rows, minimum, k_core):
    """The filter, by counting with dictionaries."""
    while True:
        users, songs = {}, {}
        for u, _, i, *_ in rows:
            users[u] = users.get(u, 0) + 1
            songs[i] = songs.get(i, 0) + 1
        kept = [r for r in rows if users[r[0]] >= minimum and songs[r[2]] >= minimum]
        if len(kept) == len(rows) or not k_core:
            return kept
        rows = kept
