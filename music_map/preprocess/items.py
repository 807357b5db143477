"""Features of the kept songs: audio rows, artists, albums."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from music_map.preprocess.dataset import index_of
from music_map.progress import Progress
from music_map.raw.reader import open_parquet, read_embeddings, read_table
from music_map.raw.schema import AUDIO_DIM
from music_map.storage import ArrayWriter


def write_audio(writer: ArrayWriter, path: Path | None, item_ids: np.ndarray, progress: Progress) -> int:
    """Writes `audio` and `audio_row`; the table is streamed and only the kept songs' rows are held.

    Args:
      writer: of the processed folder.
      path: embeddings.parquet, or None where there is none.
      item_ids: uint32 [I], ascending.
      progress: bar over the table's rows.

    Returns:
      How many songs have audio.
    """
    row_of = np.full(len(item_ids), -1, np.int32)
    parts: list[np.ndarray] = [np.zeros((0, AUDIO_DIM), np.float32)]
    found = 0
    if path is not None:
        with progress("audio embeddings", open_parquet(path).metadata.num_rows, "song") as advance:
            for read, at, vectors in read_embeddings(path, item_ids):
                # A song listed twice keeps its first row.
                _, first = np.unique(at, return_index=True)
                first = np.sort(first[row_of[at[first]] < 0])
                row_of[at[first]] = np.arange(found, found + len(first), dtype=np.int32)
                parts.append(vectors[first])
                found += len(first)
                advance(read)
    writer.write("audio", np.concatenate(parts))
    writer.write("audio_row", row_of)
    return found


def write_groups(writer: ArrayWriter, path: Path | None, kind: str, item_ids: np.ndarray, progress: Progress) -> int:
    """Writes `KIND_offsets`, `KINDs` and `KIND_ids` ("artist" or "album"), restricted to the kept songs.

    Returns:
      How many artists or albums there are.
    """
    items: list[np.ndarray] = [np.zeros(0, np.int64)]
    groups: list[np.ndarray] = [np.zeros(0, np.uint32)]
    if path is not None:
        with progress(f"{kind}s", open_parquet(path).metadata.num_rows, "row") as advance:
            for batch in read_table(path, f"{kind}_item_mapping", [f"{kind}_id", "item_id"]):
                at = index_of(item_ids, batch["item_id"])
                items.append(at[at >= 0])
                groups.append(batch[f"{kind}_id"][at >= 0])
                advance(len(at))
    item, (ids, group) = np.concatenate(items), np.unique(np.concatenate(groups), return_inverse=True)
    pairs = np.unique(item * max(len(ids), 1) + group)
    item, group = np.divmod(pairs, max(len(ids), 1))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(item, minlength=len(item_ids)))])
    writer.write(f"{kind}_offsets", offsets.astype(np.int64))
    writer.write(f"{kind}s", group.astype(np.int32))
    writer.write(f"{kind}_ids", ids.astype(np.uint32))
    return len(ids)
