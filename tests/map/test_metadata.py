"""Names of songs from CSV, Parquet and JSON; bad files in one line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from music_map.errors import UserError
from music_map.ids import Ids, Texts
from music_map.map.metadata import joined, names_of_run, of_songs, read_metadata

IDS = Ids(np.array([3, 7, 9, 4_294_967_295], np.uint32))
ROWS = [
    {"item_id": 9, "title": "Nine", "artist": "B"},
    {"item_id": 3, "title": "Trois, fois", "artist": "A"},
    {"item_id": 3, "title": "a later row of the same song", "artist": "A"},
    {"item_id": 5, "title": "of another catalogue", "artist": "A"},
    {"item_id": 4_294_967_295, "title": "", "artist": "B"},
]


def write(path, rows=ROWS):
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", "jsonl"])
def test_every_kind_of_file(tmp_path, suffix):
    found = read_metadata(write(tmp_path / f"songs.{suffix}"), IDS)
    assert (found.num_rows, found.num_known) == (5, 3)
    cells = [[c.values[v] if v >= 0 else None for v in c.codes] for c in found.columns]
    assert [c.name for c in found.columns] == ["title", "artist"]
    assert cells == [["Trois, fois", None, "Nine", None], ["A", None, "B", "B"]]


def test_numbers_and_lists_become_texts(tmp_path):
    table = pa.table({"item_id": [3, 7], "year": [1999, None], "tags": [["a", "b"], None]})
    pq.write_table(table, tmp_path / "songs.parquet")
    year, tags = read_metadata(tmp_path / "songs.parquet", IDS).columns
    assert year.values == ["1999"] and year.codes.tolist() == [0, -1, -1, -1]
    assert tags.values == ["a, b"]


def test_the_names_of_a_run(tmp_path):
    own, title, genre = (
        Texts.of(texts) for texts in (["a", "b", "c", "d"], ["A", "", "C", "A"], ["x|y", "z", "x", ""])
    )
    songs = Ids(np.arange(4, dtype=np.uint32), own, fields={"title": title, "genre": genre})
    found = names_of_run(songs)
    cells = {c.name: [c.values[v] if v >= 0 else None for v in c.codes] for c in found.columns}
    assert cells["title"] == ["A", None, "C", "A"]
    assert found.num_known == 3 and cells["genre"] == ["x|y", "z", "x", None]
    (tmp_path / "more.csv").write_text("item_id,Title,year\nc,Sea,1999\n")
    both = joined(read_metadata(tmp_path / "more.csv", songs), found)
    assert [c.name for c in both.columns] == ["Title", "year", "genre"]
    assert of_songs(both, np.array([2])).columns[0].codes.tolist() == [0]
    assert names_of_run(IDS) == ([], 4, 0)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("songs.txt", "item_id,title\n1,a", "unknown kind of file"),
        ("songs.csv", "id,title\n1,a", "has no column item_id; its columns are id, title"),
        ("songs.csv", "item_id\n1", "no column besides item_id"),
        ("songs.csv", "item_id,title\nx,a", "column item_id: whole numbers wanted"),
        ("songs.csv", "item_id,title\n1,a,3", "cannot be read as csv"),
        ("songs.csv", "", "cannot be read as csv"),
        ("songs.json", "{}", "a list of objects wanted"),
        ("songs.json", "[", "cannot be read as json"),
        ("songs.parquet", "PAR", "cannot be read as parquet"),
        ("songs.csv", "item_id,title,title\n1,a,b", "has the column 'title' twice"),
        ("songs.csv", "item_id,item_id,title\n1,2,b", "has the column 'item_id' twice"),
        ("songs.json", "[" * 100_000, "cannot be read as json .nested too deep"),
        (
            "songs.jsonl",
            '{"item_id": 1, "title": ' + "[" * 5_000 + "]" * 5_000 + "}",
            "texts or numbers wanted, not nested",
        ),
        ("songs.json", '[{"item_id": ' + "9" * 5_000 + "}]", "cannot be read as json"),
        ("songs.json", '[{"item_id": ' + "9" * 25 + ', "title": "a"}]', "cannot be read as json"),
        ("songs.json", '[{"item_id": 1, "title": "\\ud800"}]', "cannot be read as json"),
        ("songs.json", '[{"item_id": 1, "year": NaN}]', "NaN is no JSON value"),
    ],
)
def test_bad_files(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        read_metadata(tmp_path / name, IDS)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        read_metadata(tmp_path / "none.csv", IDS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '\ufeff[{"item_id": 3, "title": "a\u2028b"}]'),
        ("a.jsonl", '\ufeff{"item_id": 3, "title": "a\u2028b"}\n'),
        ("a.csv", "\ufeffitem_id,title\n3,a\u2028b\n"),
    ],
)
def test_a_byte_order_mark_and_a_line_separator_are_text(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    (title,) = read_metadata(tmp_path / name, Ids(np.arange(5, dtype=np.uint32))).columns
    assert title.values == ["a\u2028b"]
