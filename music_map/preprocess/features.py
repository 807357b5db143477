"""Item features of the kept songs: audio embeddings, artists and albums, streamed from the item files."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from music_map.errors import UserError
from music_map.preprocess.ids import IdIndex
from music_map.raw.reader import BATCH_ROWS, Table, open_parquet, record_batches
from music_map.raw.schema import AUDIO_DIM, EMBEDDINGS
from music_map.reporter import Progress
from music_map.rows import offsets_of
from music_map.storage import ArrayWriter, npy_header

# 128 floats a row: 8,192 rows are 4 MiB of float32.
_AUDIO_BATCH_ROWS = 8_192


def write_audio(writer: ArrayWriter, path: Path | None, items: IdIndex, *, progress: Progress) -> int:
    """Writes `audio` and `audio_row` (see ItemFeatures) for the kept songs.

    A first pass over the ids finds the rows to keep. A second pass reads embeddings by row group and skips groups
    without such rows. The column is normalized_embed if the file has it, else embed; either way rows are scaled to unit
    length. Rows of songs that are not kept are not checked.

    Args:
      path: the embeddings file, None if there is none.
      items: the kept songs.
    Returns:
      The number of songs with audio.
    Raises:
      UserError: a missing column, a wrong type, a song that occurs twice, or, for a kept song, a null, a value that is
        not finite, a length other than 128, or a row of zeros.
    """
    if path is None:
        writer.write("audio", np.zeros((0, AUDIO_DIM), np.float32))
        writer.write("audio_row", np.full(len(items), -1, np.int32))
        return 0
    column = _embedding_column(path)
    item_of_row = _kept_rows(path, items)
    has_audio = np.zeros(len(items), bool)
    has_audio[item_of_row[item_of_row >= 0]] = True
    count = int(has_audio.sum())
    # Rows ascend by song, so the array does not depend on the order of the file.
    audio_row = np.where(has_audio, np.cumsum(has_audio) - 1, -1).astype(np.int32)
    if count == 0:
        writer.write("audio", np.zeros((0, AUDIO_DIM), np.float32))
    else:
        # Rows (512 bytes a song) are written by file offset: a memory map's pages would count as memory of the process.
        header = npy_header(np.dtype(np.float32), (count, AUDIO_DIM))
        (writer.folder / "audio.npy").write_bytes(header)
        with (
            progress("audio embeddings", count, "song") as advance,
            open(writer.folder / "audio.npy", "r+b", buffering=0) as file,
        ):
            first = 0
            for group, size in enumerate(_group_sizes(path)):
                kept = item_of_row[first : first + size]
                if (kept >= 0).any():
                    row = first
                    stream = record_batches(path, [column], batch_rows=_AUDIO_BATCH_ROWS, row_groups=[group])
                    for batch in stream:
                        songs = item_of_row[row : row + batch.num_rows]
                        at = np.flatnonzero(songs >= 0)
                        if len(at):
                            values = _unit_rows(batch.column(column), at, path, column, row)
                            _write_rows(file, len(header), audio_row[songs[at]], values)
                            advance(len(at))
                        row += batch.num_rows
                first += size
        writer.register("audio")
    writer.write("audio_row", audio_row)
    return count


def _write_rows(file: io.RawIOBase, start: int, rows: np.ndarray, values: np.ndarray) -> None:
    """Writes rows of a matrix that begins at offset `start` of the file; adjacent rows are written together."""
    order = np.argsort(rows)
    rows, values = rows[order], values[order]
    ends = np.append(np.flatnonzero(np.diff(rows) != 1) + 1, len(rows)).tolist()
    for first, end in itertools.pairwise([0, *ends]):
        file.seek(start + int(rows[first]) * values[0].nbytes)
        left = memoryview(values[first:end]).cast("B")
        while left:  # one call may write a part, as on a disk that fills up; the next one tells why
            left = left[file.write(left) :]


def _group_sizes(path: Path) -> list[int]:
    with open_parquet(path) as file:
        return [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]


def _embedding_column(path: Path) -> str:
    with open_parquet(path) as file:
        found = file.schema_arrow
    for name in ("normalized_embed", "embed"):
        if name in found.names:
            kind = found.field(name).type
            is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
            if not (is_list and (pa.types.is_float32(kind.value_type) or pa.types.is_float64(kind.value_type))):
                raise UserError(f"{path}: column {name} is {kind}; it must be a list of float or double; cast it")
            return name
    raise UserError(f"{path}: has no column normalized_embed or embed (list of {AUDIO_DIM} floats); add one")


def _kept_rows(path: Path, items: IdIndex) -> np.ndarray:
    """For each row of the file, the index of its song among the kept songs, or -1: int32 [rows]."""
    table = Table.open(path, pa.schema([EMBEDDINGS.field("item_id")]))
    batches = [items.lookup(batch["item_id"]) for batch in table.batches(["item_id"], batch_rows=BATCH_ROWS)]
    item_of_row = np.concatenate([np.empty(0, np.int32), *batches])
    songs, counts = np.unique(item_of_row[item_of_row >= 0], return_counts=True)
    if (counts > 1).any():
        song = songs[counts.argmax()]
        rows = np.flatnonzero(item_of_row == song)
        raise UserError(
            f"{path}: column item_id, rows {rows[0]} and {rows[1]}: song {items.ids[song]} occurs twice; keep one row "
            "a song"
        )
    return item_of_row


def _unit_rows(column: pa.Array, at: np.ndarray, path: Path, name: str, first_row: int) -> np.ndarray:
    """Rows `at` of a list column, checked and scaled to unit length: float32 [len(at), 128]."""
    kept = column.take(pa.array(at))

    def fail(which: int, problem: str) -> None:
        raise UserError(
            f"{path}: column {name}, row {first_row + at[which]}: {problem}; correct the row or drop it: a song "
            "without a row counts as a song without audio"
        )

    if kept.null_count:
        fail(int(kept.is_null().to_numpy(zero_copy_only=False).argmax()), "null")
    lengths = pc.list_value_length(kept).to_numpy(zero_copy_only=False)
    if (lengths != AUDIO_DIM).any():
        which = int((lengths != AUDIO_DIM).argmax())
        fail(which, f"{lengths[which]} values where {AUDIO_DIM} are expected")
    flat = kept.flatten()
    if flat.null_count:
        fail(int(flat.is_null().to_numpy(zero_copy_only=False).argmax()) // AUDIO_DIM, "a null among its values")
    values = flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, AUDIO_DIM)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        fail(int((~finite).argmax()), "a value that is NaN or infinite")
    # Scale by the largest value first: squares of very large or small values would exceed the range of a double.
    largest = np.abs(values).max(axis=1, keepdims=True)
    if (largest == 0).any():
        fail(int((largest == 0).argmax()), "all zero, so it has no direction")
    values /= largest
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def write_mapping(
    writer: ArrayWriter, name: str, table: Table | None, items: IdIndex, *, progress: Progress
) -> np.ndarray:
    """Writes `NAME_offsets` and `NAMEs` (see ItemFeatures) for the kept songs.

    Args:
      name: "artist" or "album"; the table's columns are NAME_id and item_id.
      table: the mapping, None if there is none.
    Returns:
      The ids of the artists (albums) of kept songs, uint32, ascending; the caller writes them as `NAME_ids`.
    """
    pairs = [(np.empty(0, np.uint32), np.empty(0, np.int32))]
    if table is not None:
        with progress(f"{name}s", table.num_rows, "row") as advance:
            for batch in table.batches([f"{name}_id", "item_id"]):
                item = items.lookup(batch["item_id"])
                pairs.append((batch[f"{name}_id"][item >= 0], item[item >= 0]))
                advance(len(item))
    groups, songs = (np.concatenate(column) for column in zip(*pairs, strict=True))
    ids, group = np.unique(groups, return_inverse=True)
    # A repeated pair counts once.
    pair = np.unique(songs.astype(np.int64) * max(len(ids), 1) + group)
    song, group = np.divmod(pair, max(len(ids), 1))
    writer.write(f"{name}_offsets", offsets_of(np.bincount(song, minlength=len(items))))
    writer.write(f"{name}s", group.astype(np.int32))
    return ids
