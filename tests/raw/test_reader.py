"""Reading Parquet: every way in which a file can be wrong, named."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from music_map.errors import UserError
from music_map.raw.reader import open_parquet, read_embeddings, read_events, read_table

GOOD = pa.table(
    {
        "uid": pa.array([1, 1, 2, 2], pa.uint32()),
        "timestamp": pa.array([0, 5, 0, 0], pa.uint32()),
        "item_id": pa.array([9, 8, 9, 7], pa.uint32()),
        "is_organic": pa.array([1, 0, 1, 1], pa.uint8()),
    }
)
COLUMNS = ["uid", "timestamp", "item_id"]


def saved(tmp_path, table, name="likes.parquet"):
    path = tmp_path / name
    pq.write_table(table, path, row_group_size=2)
    return path


def everything(batches):
    return {name: np.concatenate(parts) for name, *parts in zip(COLUMNS, *(b.values() for b in batches), strict=True)}


@pytest.mark.parametrize("batch_rows", [1, 3, 100])
def test_reads_all_rows_in_order(tmp_path, batch_rows):
    got = everything(read_events(saved(tmp_path, GOOD), "likes", COLUMNS, batch_rows=batch_rows))
    for name in COLUMNS:
        assert got[name].dtype == np.uint32 and got[name].tolist() == GOOD[name].to_pylist()


def test_accepts_other_integers_that_fit(tmp_path):
    table = GOOD.set_column(0, "uid", pa.array([1, 1, 2, 2], pa.int64()))
    assert everything(read_events(saved(tmp_path, table), "likes", COLUMNS))["uid"].dtype == np.uint32


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("uid", pa.array([1, 1, 2, None], pa.uint32()), "'uid' is null in row 3"),
        ("uid", pa.array([1, 1, 2, -5], pa.int64()), "'uid' is -5 in row 3"),
        ("uid", pa.array([1, 1, 2, 2**32], pa.int64()), "'uid' is 4294967296 in row 3"),
        ("timestamp", pa.array(["a", "b", "c", "d"]), "'timestamp' is string, should be uint32"),
        ("timestamp", pa.array([0.0, 5.0, 0.0, 0.0]), "'timestamp' is double"),
        ("timestamp", pa.array([5, 0, 0, 0], pa.uint32()), "row 1 is out of order"),
        ("uid", pa.array([1, 2, 1, 2], pa.uint32()), "row 2 is out of order"),
    ],
)
@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_bad_columns(tmp_path, column, values, says, batch_rows):
    path = saved(tmp_path, GOOD.set_column(GOOD.column_names.index(column), column, values))
    with pytest.raises(UserError, match=says) as e:
        list(read_events(path, "likes", COLUMNS, batch_rows=batch_rows))
    assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_missing_column(tmp_path):
    path = saved(tmp_path, GOOD.drop_columns(["item_id"]))
    with pytest.raises(UserError, match="lacks the column 'item_id'; it has uid, timestamp, is_organic"):
        list(read_table(path, "likes", COLUMNS))


def test_missing_empty_truncated_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        open_parquet(tmp_path / "none.parquet")
    path = saved(tmp_path, GOOD)
    whole = path.read_bytes()
    for content, says in (
        (b"", "is empty"),
        (whole[:-20], "not a whole Parquet file"),
        (b"hello, world", "not a whole"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=says):
            open_parquet(path)
    # The footer is whole, a page before it is not.
    path.write_bytes(whole[:4] + b"\xff" * 60 + whole[64:])
    with pytest.raises(UserError, match="cannot be read to its end"):
        list(read_table(path, "likes", COLUMNS))


def embeddings(tmp_path, vectors, dtype=None, ids=(3, 5, 9), column="normalized_embed"):
    kind = dtype or pa.list_(pa.float64())
    table = pa.table({"item_id": pa.array(ids, pa.uint32()), column: pa.array(vectors, kind)})
    return saved(tmp_path, table, "embeddings.parquet")


V = [[float(n + 1)] * 128 for n in range(3)]


@pytest.mark.parametrize(
    "dtype", [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 128)]
)
@pytest.mark.parametrize("column", ["embed", "normalized_embed"])
def test_embeddings_of_wanted_songs_only(tmp_path, dtype, column):
    path = embeddings(tmp_path, V, dtype, column=column)
    got = list(read_embeddings(path, np.array([4, 5, 9], np.uint32), batch_rows=2))
    assert sum(rows for rows, _, _ in got) == 3
    assert np.concatenate([at for _, at, _ in got]).tolist() == [1, 2]
    vectors = np.concatenate([v for _, _, v in got])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, 128**-0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        (None, "is null for item_id 5"),
        ([1.0] * 127, "does not have 128 numbers for item_id 5"),
        ([], "does not have 128 numbers"),
        ([float("nan")] + [1.0] * 127, "not finite for item_id 5"),
        ([float("inf")] * 128, "not finite"),
        ([None] + [1.0] * 127, "not finite"),
        ([0.0] * 128, "all zeros"),
    ],
)
def test_bad_embeddings(tmp_path, vector, says):
    path = embeddings(tmp_path, [V[0], vector, V[2]])
    with pytest.raises(UserError, match=says) as e:
        list(read_embeddings(path, np.array([3, 5, 9], np.uint32)))
    assert str(path) in str(e.value)
    # A song that is not kept may be as it likes.
    list(read_embeddings(path, np.array([3, 9], np.uint32)))


def test_embeddings_of_the_wrong_type(tmp_path):
    path = embeddings(tmp_path, ["a", "b", "c"], pa.string())
    with pytest.raises(UserError, match="'normalized_embed' is string"):
        list(read_embeddings(path, np.array([3], np.uint32)))
