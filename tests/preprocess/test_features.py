"""Item features: audio rows of kept songs, artists, albums."""

import errno
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from raw_logs import table, write_table

from music_map.errors import UserError
from music_map.preprocess.features import _write_rows, write_audio, write_mapping
from music_map.preprocess.ids import IdIndex
from music_map.raw.reader import Table
from music_map.raw.schema import ARTISTS
from music_map.reporter import silent
from music_map.storage import ArrayFolder, ArrayWriter

ITEMS = IdIndex(np.array([2, 5, 9], np.uint32))
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((4, 128)) * 3


def write_embeddings(
    folder: Path, ids: list[int], vectors: list, *, column: str = "normalized_embed", kind: pa.DataType | None = None
) -> Path:
    columns = [pa.array(ids, pa.uint32()), pa.array(vectors, kind or pa.list_(pa.float32()))]
    return write_table(folder / "embeddings.parquet", pa.table(columns, names=["item_id", column]), row_group_size=2)


def audio(folder: Path, path: Path | None) -> tuple[np.ndarray, np.ndarray]:
    writer = ArrayWriter(folder)
    count = write_audio(writer, path, ITEMS, progress=silent)
    writer.finish(fingerprint="", meta={})
    store = ArrayFolder.open(folder)
    assert store.load("audio").dtype == np.float32 and count == len(store.load("audio"))
    return store.load("audio"), store.load("audio_row")


@pytest.mark.parametrize("column", ["embed", "normalized_embed"])
@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 128)],
    ids=str,
)
def test_rows_of_kept_songs_at_unit_length(tmp_path: Path, column: str, kind: pa.DataType) -> None:
    # Song 9 comes first, 4 is not kept, 5 has no audio.
    path = write_embeddings(tmp_path, [9, 4, 7, 2], VECTORS.tolist(), column=column, kind=kind)
    rows, row_of = audio(tmp_path, path)
    assert row_of.tolist() == [0, -1, 1]
    expected = VECTORS[[3, 0]] / np.linalg.norm(VECTORS[[3, 0]], axis=1, keepdims=True)
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-7)


def test_normalized_column_is_preferred(tmp_path: Path) -> None:
    columns = [pa.array([2], pa.uint32())]
    columns += [pa.array([v.tolist()], pa.list_(pa.float32())) for v in VECTORS[:2]]
    contents = pa.table(columns, names=["item_id", "embed", "normalized_embed"])
    rows, _ = audio(tmp_path, write_table(tmp_path / "embeddings.parquet", contents))
    np.testing.assert_allclose(rows[0], VECTORS[1] / np.linalg.norm(VECTORS[1]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ids", [[], [4, 7]])
def test_no_song_with_audio(tmp_path: Path, ids: list[int]) -> None:
    rows, row_of = audio(tmp_path, write_embeddings(tmp_path, ids, VECTORS[: len(ids)].tolist()))
    assert rows.shape == (0, 128) and row_of.tolist() == [-1, -1, -1]


GOOD = VECTORS[0].tolist()


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (None, "null"),
        (GOOD[:127], "127 values where 128 are expected"),
        ([], "0 values where 128 are expected"),
        ([*GOOD[:127], None], "a null among its values"),
        ([*GOOD[:127], float("nan")], "a value that is NaN or infinite"),
        ([float("inf"), *GOOD[:127]], "a value that is NaN or infinite"),
        ([0.0] * 128, "all zero"),
    ],
)
def test_bad_embedding_is_named_by_column_and_row(tmp_path: Path, bad: list | None, problem: str) -> None:
    path = write_embeddings(tmp_path, [2, 4, 5, 9], [GOOD, None, GOOD, bad])
    message = rf"embeddings.parquet: column normalized_embed, row 3: {problem}.*; correct the row"
    with pytest.raises(UserError, match=message):
        audio(tmp_path, path)


def test_song_with_two_rows(tmp_path: Path) -> None:
    path = write_embeddings(tmp_path, [5, 2, 5], VECTORS[:3].tolist())
    with pytest.raises(UserError, match=r"column item_id, rows 0 and 2: song 5 occurs twice"):
        audio(tmp_path, path)


@pytest.mark.parametrize("kind", [pa.float32(), pa.list_(pa.int32()), pa.string()])
def test_wrong_type_of_embedding(tmp_path: Path, kind: pa.DataType) -> None:
    contents = pa.table([pa.array([2], pa.uint32()), pa.nulls(1, kind)], names=["item_id", "embed"])
    with pytest.raises(UserError, match=r"column embed is .*; it must be a list of float or double"):
        audio(tmp_path, write_table(tmp_path / "embeddings.parquet", contents))


def test_mapping_of_kept_songs(tmp_path: Path) -> None:
    # Song 2 has artists 70 (listed twice) and 30; song 9 has 70; song 4 is not kept, so artist 50 does not exist.
    pairs = [(70, 2), (50, 4), (70, 9), (30, 2), (70, 2)]
    opened = Table.open(write_table(tmp_path / "artist_item_mapping.parquet", table(pairs, ARTISTS)), ARTISTS)
    writer = ArrayWriter(tmp_path)
    ids = write_mapping(writer, "artist", opened, ITEMS, progress=silent)
    writer.finish(fingerprint="", meta={})
    store = ArrayFolder.open(tmp_path)
    assert ids.tolist() == [30, 70]
    assert store.load("artist_offsets").tolist() == [0, 2, 2, 3]
    assert store.load("artists").tolist() == [0, 1, 1]
    types = [ids.dtype, *(store.load(name).dtype for name in ("artist_offsets", "artists"))]
    assert types == [np.uint32, np.int64, np.int32]


class Parts(io.BytesIO):
    """A file that takes a few bytes at a time, as an unbuffered one may, and none once it is full."""

    def write(self, data):
        if self.tell() + len(data) > 40:
            data = data[: (40 - self.tell()) // 2]
        if not data:
            raise OSError(errno.ENOSPC, "full")
        return super().write(data[:7])


def test_rows_are_written_whole_or_an_error_is_raised():
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    file = Parts()
    _write_rows(file, 4, np.array([2, 0, 1]), rows)
    assert file.getvalue() == bytes(4) + rows[[1, 2, 0]].tobytes()
    with pytest.raises(OSError, match="full"):
        _write_rows(Parts(), 20, np.arange(3), rows)
