"""Streaming reader: batches, conversions, user-aligned chunks and every kind of bad file."""

import errno
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_logs import table, write_logs, write_table

from music_map.errors import UserError
from music_map.raw.reader import EventTable, Table, open_events, record_batches, user_chunks
from music_map.raw.schema import LISTENS, MARKS

ROWS = [(1, 0, 7, 1, 100, 200), (1, 5, 8, 0, 0, 180), (2, 0, 7, 1, 150, 200), (4, 10, 9, 0, 30, 90)]


def read_all(table_: Table, columns: list[str], batch_rows: int) -> dict[str, list[int]]:
    batches = list(table_.batches(columns, batch_rows=batch_rows))
    assert all(len(batch[columns[0]]) <= batch_rows for batch in batches)
    return {name: np.concatenate([batch[name] for batch in batches]).tolist() for name in columns}


@pytest.mark.parametrize("batch_rows", [1, 3, 100])
def test_batches_hold_every_row_in_order(tmp_path: Path, batch_rows: int) -> None:
    path = write_table(tmp_path / "listens.parquet", table(ROWS, LISTENS), row_group_size=2)
    read = read_all(EventTable.open(path, LISTENS), LISTENS.names, batch_rows)
    assert list(zip(*read.values(), strict=True)) == ROWS


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.uint64(), pa.uint32()])
def test_integer_types_that_fit_are_accepted(tmp_path: Path, kind: pa.DataType) -> None:
    loose = table(ROWS, pa.schema([(f.name, kind) for f in LISTENS]))
    opened = EventTable.open(write_table(tmp_path / "listens.parquet", loose), LISTENS)
    (batch,) = opened.batches(LISTENS.names)
    assert {name: values.dtype for name, values in batch.items()} == {
        f.name: np.dtype(f.type.to_pandas_dtype()) for f in LISTENS
    }
    assert batch["played_ratio_pct"].tolist() == [100, 0, 150, 30]


def test_boolean_is_organic_is_accepted(tmp_path: Path) -> None:
    schema = pa.schema([f if f.name != "is_organic" else pa.field("is_organic", pa.bool_()) for f in MARKS])
    rows = [(1, 0, 7, True), (1, 5, 7, False)]
    opened = EventTable.open(write_table(tmp_path / "likes.parquet", table(rows, schema)), MARKS)
    (batch,) = opened.batches(MARKS.names)
    assert batch["is_organic"].tolist() == [1, 0]
    assert batch["is_organic"].dtype == np.uint8


def error_of(path: Path, schema: pa.Schema = MARKS) -> str:
    with pytest.raises(UserError) as caught:
        list(EventTable.open(path, schema).batches(schema.names, batch_rows=2))
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file; fetch it with launch/download.py" in error_of(tmp_path / "likes.parquet")


def test_missing_column(tmp_path: Path) -> None:
    path = write_table(tmp_path / "likes.parquet", table([(1, 2, 3, 1)], MARKS).drop_columns(["item_id"]))
    assert "has no column item_id (uint32), only uid, timestamp, is_organic; add it" in error_of(path)


@pytest.mark.parametrize("kind", [pa.float64(), pa.string(), pa.timestamp("ms")])
def test_wrong_type(tmp_path: Path, kind: pa.DataType) -> None:
    contents = table([(1, 2, 3, 1)], MARKS).set_column(1, "timestamp", pa.nulls(1, kind))
    assert f"column timestamp is {kind}; cast it to uint32" in error_of(write_table(tmp_path / "x.parquet", contents))


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "likes.parquet"
    path.touch()
    assert "is empty (0 bytes); download or export it again" in error_of(path)


def test_truncated_file(tmp_path: Path) -> None:
    path = write_table(tmp_path / "likes.parquet", table([(1, 2, 3, 1)] * 100, MARKS))
    path.write_bytes(path.read_bytes()[:-20])
    assert "truncated or not Parquet" in error_of(path)


def test_damaged_pages(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(1, n, int(item), 1) for n, item in enumerate(rng.integers(0, 2**32, 5_000))]
    path = write_table(tmp_path / "likes.parquet", table(rows, MARKS))
    content = bytearray(path.read_bytes())
    content[4:2_000] = b"\xff" * 1_996
    path.write_bytes(content)
    assert "truncated or not Parquet" in error_of(path)


def test_null_is_named_by_column_and_row(tmp_path: Path) -> None:
    contents = table([(1, 2, 3, 1)] * 4, MARKS).set_column(2, "item_id", pa.array([3, 3, 3, None], pa.uint32()))
    assert "column item_id, row 3: null;" in error_of(write_table(tmp_path / "likes.parquet", contents))


@pytest.mark.parametrize("value", [-1, 2**32])
def test_value_that_does_not_fit(tmp_path: Path, value: int) -> None:
    contents = table([(1, 2, 3, 1)] * 3, MARKS).set_column(2, "item_id", pa.array([3, 3, value], pa.int64()))
    message = error_of(write_table(tmp_path / "likes.parquet", contents))
    assert f"column item_id, row 2: {value} does not fit uint32 (0..4294967295)" in message


def test_is_organic_is_zero_or_one(tmp_path: Path) -> None:
    path = write_table(tmp_path / "likes.parquet", table([(1, 2, 3, 1), (1, 2, 3, 0), (1, 2, 3, 2)], MARKS))
    assert "column is_organic, row 2: 2; it must be 1 (organic) or 0" in error_of(path)


@pytest.mark.parametrize(
    ("order", "row"), [([(1, 5), (1, 4)], 1), ([(2, 0), (1, 9)], 1), ([(1, 0), (1, 1), (0, 5)], 2)]
)
def test_rows_out_of_order_are_named(tmp_path: Path, order: list[tuple[int, int]], row: int) -> None:
    path = write_table(tmp_path / "likes.parquet", table([(u, t, 3, 1) for u, t in order], MARKS))
    uid, timestamp = order[row]
    problem = f"row {row} (uid {uid}, timestamp {timestamp}) comes before the row above it; sort the file"
    assert problem in error_of(path)


def test_only_listens_are_required(tmp_path: Path) -> None:
    write_logs(tmp_path, listens=ROWS)
    assert list(open_events(tmp_path, "50m")) == ["listens"]
    write_logs(tmp_path, likes=[(1, 2, 3, 1)], listens=[])
    with pytest.raises(UserError, match=r"listens.parquet: has no rows"):
        open_events(tmp_path, "50m")
    with pytest.raises(UserError, match=r"flat/5b/listens.parquet: no such file"):
        open_events(tmp_path, "5b")


uids = st.lists(st.integers(0, 6), max_size=25).map(sorted)


@given(listens=uids, likes=uids, batch_rows=st.integers(1, 8))
def test_chunks_hold_whole_users_in_order(
    tmp_path_factory: pytest.TempPathFactory, listens: list[int], likes: list[int], batch_rows: int
) -> None:
    folder = tmp_path_factory.mktemp("chunks")
    tables = {}
    for name, users in (("listens", listens), ("likes", likes)):
        rows = [(u, n, n, 1) for n, u in enumerate(users)]
        tables[name] = EventTable.open(write_table(folder / f"{name}.parquet", table(rows, MARKS)), MARKS)
    chunks = list(user_chunks(tables, batch_rows=batch_rows))
    seen: list[set[int]] = []
    for chunk in chunks:
        seen.append({int(u) for columns in chunk.values() for u in columns["uid"]})
        assert seen[-1]
    for before, after in itertools.pairwise(seen):
        assert max(before) < min(after)
    for name, users in (("listens", listens), ("likes", likes)):
        joined = [int(u) for chunk in chunks for u in chunk[name]["uid"]]
        items = [int(i) for chunk in chunks for i in chunk[name]["item_id"]]
        assert joined == users and items == list(range(len(users)))


def test_a_chunk_is_small_where_users_are(tmp_path: Path) -> None:
    rows = [(n // 3, n, n, 1) for n in range(3_000)]
    path = write_table(tmp_path / "likes.parquet", table(rows, MARKS), row_group_size=500)
    sizes = [len(c["likes"]["uid"]) for c in user_chunks({"likes": EventTable.open(path, MARKS)}, batch_rows=100)]
    assert sum(sizes) == 3_000 and max(sizes) <= 200


def test_a_row_group_is_never_whole_in_memory(tmp_path: Path) -> None:
    rows = 200_000
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.random.default_rng(0).random(rows * 32)), 32)
    path = write_table(tmp_path / "embeddings.parquet", pa.table({"embed": vectors}), row_group_size=rows)
    assert path.stat().st_size > 40 << 20
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() for _ in record_batches(path, ["embed"], batch_rows=1_000))
    assert most - before < 20 << 20


def test_a_column_that_stands_twice_is_told(tmp_path: Path) -> None:
    rows = table(ROWS, LISTENS)
    path = write_table(tmp_path / "listens.parquet", rows.append_column("uid", rows["uid"]))
    with pytest.raises(UserError, match="has the column 'uid' twice; rename or drop one of them"):
        EventTable.open(path, LISTENS)
    with pytest.raises(UserError, match="has the column 'uid' twice"):
        list(record_batches(path, ["uid"], batch_rows=9))


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = write_table(tmp_path / "listens.parquet", table(ROWS, LISTENS))
    monkeypatch.setattr("music_map.raw.reader.pq.ParquetFile", refuse)
    with pytest.raises(UserError, match=r"listens.parquet: no access \(Permission denied\)"):
        EventTable.open(path, LISTENS)
