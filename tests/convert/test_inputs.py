"""Inputs that have gone wrong elsewhere: quotes, broken rows, encodings, times, ids, types, files of many kinds."""

import csv
import datetime
import gzip
import io
import json
import os
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.convert import delimited
from music_map.convert.build import convert_logs
from music_map.convert.settings import ColumnMapping
from music_map.convert.sources import ROW, Source
from music_map.errors import UserError

COLUMNS = {"user": "u", "item": "i", "time": "t"}


def convert(folder, content, name="plays.csv", *, source=None, files=None, **columns):
    """The summary, and per listen (user, song, second), users and songs as in the log."""
    folder.mkdir(parents=True, exist_ok=True)
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    inputs = files or {"listens": [folder / name]}
    summary = convert_logs(inputs, folder / "raw", ColumnMapping(**COLUMNS | columns), source=source, overwrite=True)

    def ids(role):
        path = summary.tables.get(role)
        return {row["number"]: row["id"] for row in pq.read_table(path).to_pylist()} if path else {}

    users, songs = ids("user"), ids("item")
    rows = pq.read_table(folder / "raw/flat/own/listens.parquet").to_pylist()
    return summary, [
        (users.get(r["uid"], r["uid"]), songs.get(r["item_id"], r["item_id"]), r["timestamp"]) for r in rows
    ]


def rows(*args, **kwargs):
    return convert(*args, **kwargs)[1]


def refused(*args, **kwargs):
    with pytest.raises(UserError) as caught:
        convert(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Quotes ---------------------------------------------------------------------------------------------------------------


def test_titles_that_open_with_a_quote_swallow_no_row_of_a_tsv(tmp_path):
    titles = ["Plain", '"Quoted" Song (live)', '"Open, never closed', "Plain", '12" mix', '"Another" one', '"Whole"']
    text = "".join(f"u{n}\t{title}\t160000000{n}\n" for n, title in enumerate(titles))
    found = rows(tmp_path, text, "plays.tsv", source={"header": ["u", "i", "t"]})
    assert [song for _, song, _ in found] == [*titles[:-1], "Whole"]


@pytest.mark.parametrize("last", [True, False])
def test_titles_that_open_with_a_quote_swallow_no_row_of_a_csv(tmp_path, last):
    titles = ["Plain", '"Open title', "Plain", 'Closing" elsewhere', '"Closed" x', '12"']
    order = ["u", "t", "i"] if last else ["u", "i", "t"]
    lines = [dict(u=str(n), i=title, t=f"160000000{n}") for n, title in enumerate(titles)]
    text = "\n".join([",".join(order), *(",".join(line[name] for name in order) for line in lines)])
    assert [song for _, song, _ in rows(tmp_path, text)] == titles


def test_quotes_of_a_csv_by_the_book(tmp_path):
    text = 'u,i,t\n1,"a, ""b""",1600000000\n2,"two\nlines",1600000001\n"3",c,"1600000002"\n'
    assert rows(tmp_path, text) == [(1, 'a, "b"', 1600000000), (2, "two\nlines", 1600000001), (3, "c", 1600000002)]


def test_a_quote_that_cannot_be_told_names_its_row_and_column(tmp_path):
    text = 'u,i,t\n1,a,1600000000\n2,"open, with a comma,1600000001\n3,c,1600000002\n'
    assert "plays.csv, row 1: column i: opens with a quote that is not closed" in refused(tmp_path, text)
    summary, found = convert(tmp_path, text, bad_rows="skip")
    assert [user for user, *_ in found] == [1, 3] and summary.skipped == 1


def test_a_tab_inside_quotes_of_a_tsv(tmp_path):
    text = 'u\ti\tt\n1\t"a\tb"\t1600000000\n'
    assert rows(tmp_path, text, "plays.tsv") == [(1, "a\tb", 1600000000)]
    assert "4 columns where 3 are expected" in refused(tmp_path, text.replace('"', ""), "plays.tsv")


field = st.text(st.sampled_from('ab",;\n é'), max_size=6).map(lambda text: f"x{text}x")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(field, field), min_size=1, max_size=12), st.sampled_from([30, 64, 1 << 20]), st.booleans())
def test_what_csv_writers_write_is_read_in_blocks_of_any_size(tmp_path_factory, values, block, everything):
    # A line of a field that is a whole row by itself is ambiguous.
    values = [(a.replace("\n", " "), b.replace(",", ";")) for a, b in values]
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL if everything else csv.QUOTE_MINIMAL, lineterminator="\n")
    writer.writerows([("other", "i", "t", "u"), *((a, b, n, n) for n, (a, b) in enumerate(values))])
    path = tmp_path_factory.mktemp("csv") / "plays.csv"
    path.write_text(text.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "_BLOCK_BYTES", block)
        batches = list(delimited.read_csv(Source(path, [("item", "i"), ("user", "u")], pytest.fail)))
    table = pa.Table.from_batches(batches)
    assert table["i"].to_pylist() == [b for _, b in values]
    assert table["u"].to_pylist() == [str(n) for n in range(len(values))] and table[ROW].to_pylist() == [
        *range(len(values))
    ]


# Broken rows, encodings, files ----------------------------------------------------------------------------------------


def test_ragged_rows_are_skipped_and_counted(tmp_path):
    text = "u,i,title,t\n1,10,Plain,1600000000\n1,11,Hello, Goodbye,1600000100\n2,12,Short\n3,11,Ok,1600000300\n"
    assert "row 1: 5 columns where 4 are expected" in refused(tmp_path, text)
    summary, found = convert(tmp_path, text, bad_rows="skip")
    assert [user for user, *_ in found] == [1, 3] and summary.skipped == 2 and len(summary.reasons) == 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"u":1,"i":11,"t":16000001', "row 1: not valid JSON"),
        ('{"u":2,"i":{"id":3},"t":1600000300}', "column i, row 1: an object; name a field in it"),
        ('{"u":2,"i":[3],"t":1600000300}', "column i, row 1: a list"),
        ("[1,2]", "row 1: is no JSON object"),
        ('{"u":"a","i":"cut off \\ud83d","t":1600000100}', "row 1: holds what is no character"),
        (b'{"u":"a","i":"\xff","t":1600000100}', "row 1: holds what is no character"),
        ('{"u":1,"i":2,"t":1600000000,"x":' + "[" * 100_000 + "]" * 100_000 + "}", "row 1: JSON nested too deep"),
        ('{"u":' + "9" * 5000 + ',"i":2,"t":1600000000}', "column u, row 1: '999"),
        ('{"u":NaN,"i":2,"t":1600000000}', "column u, row 1: 'NaN'; it must be an id"),
        ('{"u":null,"i":2,"t":1600000000}', "column u, row 1: empty; it must be an id"),
    ],
)  # fmt: skip
def test_a_bad_line_of_json_is_one_line_or_skipped(tmp_path, line, says):
    good = b'{"u":1,"i":10,"t":1600000000}\n'
    content = good + (line if isinstance(line, bytes) else line.encode()) + b"\n" + good
    assert says in refused(tmp_path, content, "plays.jsonl")
    summary, found = convert(tmp_path, content, "plays.jsonl", bad_rows="skip")
    assert found == [(1, 10, 1600000000)] * 2 and summary.skipped == 1


@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_of_json_are_streamed(tmp_path, indent, monkeypatch):
    monkeypatch.setattr("music_map.convert.json_rows._CHUNK", 100)
    plays = [{"u": n % 3, "i": n, "t": 1600000000 + n, "more": {"x": ["y" * n]}} for n in range(50)]
    text = " \n" + json.dumps(plays, indent=indent)
    found = rows(tmp_path, text, "plays.json")
    assert sorted(found, key=lambda row: row[1]) == [(n % 3, n, 1600000000 + n) for n in range(50)]
    assert "row 49: not valid JSON" in refused(tmp_path, text[:-20], "plays.json")


def test_nested_fields_and_lists_of_json(tmp_path):
    event = {"u": 1, "t": 1600000000, "track": {"name": "Song", "artists": [{"id": "A"}, {"id": "B"}]}, "a.b": 7}
    content = json.dumps(event)
    assert rows(tmp_path, content, "plays.jsonl", item="track.name") == [(1, "Song", 1600000000)]
    assert rows(tmp_path, content, "plays.jsonl", item="track.artists.1.id") == [(1, "B", 1600000000)]
    assert rows(tmp_path, content, "plays.jsonl", item="a.b") == [(1, 7, 1600000000)]
    assert "has no column 'track.title'" in refused(tmp_path, content, "plays.jsonl", item="track.title")


def test_encodings(tmp_path):
    latin = "u,i,t,other\n1,{},1600000000,é\n"
    assert rows(tmp_path, latin.format("a").encode("latin-1")) == [(1, "a", 1600000000)]
    assert "column i, row 0: 'é' is not UTF-8" in refused(tmp_path, latin.format("é").encode("latin-1"))
    source = {"encoding": "latin-1"}
    assert rows(tmp_path, latin.format("é").encode("latin-1"), source=source) == [(1, "é", 1600000000)]
    for encoding in ("utf-8-sig", "utf-16"):
        assert rows(tmp_path, latin.format("é").encode(encoding)) == [(1, "é", 1600000000)]
    assert rows(tmp_path, '\ufeff{"u":1,"i":"a","t":5}', "plays.jsonl") == [(1, "a", 5)]
    other = b'{"u":1,"i":"a","t":5,"other":"\xe9"}'
    assert rows(tmp_path, other, "plays.jsonl") == [(1, "a", 5)]


def test_lines_end_at_newlines_only(tmp_path):
    text = "u,i,t\r\n1,a\u2028b,1600000000\r\n1,c\x85d,1600000001\r\n1,e\rf,1600000002\r\n"
    assert [song for _, song, _ in rows(tmp_path, text)] == ["a\u2028b", "c\x85d", "e\rf"]
    lines = '{"u":1,"i":"a\u2028b","t":5}\n{"u":1,"i":"c","t":6}\n'
    assert [song for _, song, _ in rows(tmp_path, lines, "plays.jsonl")] == ["a\u2028b", "c"]


def test_compressed_files_and_standard_input(tmp_path):
    text = b"u,i,t\n1,2,1600000000\n"
    wanted = [(1, 2, 1600000000)]
    for name in ("PLAYS.CSV.GZ", "plays.csv"):
        assert rows(tmp_path, gzip.compress(text), name) == wanted
    assert "cannot be read as gzip" in refused(tmp_path, gzip.compress(text * 9999)[:-20], "plays.csv.gz")
    read, write = os.pipe()
    threading.Thread(target=lambda: (os.write(write, text), os.close(write))).start()
    files = {"listens": [f"/dev/fd/{read}"]}
    assert rows(tmp_path, None, files=files, source={"file_format": "csv"}) == wanted
    os.close(read)


def test_patterns_and_folders_of_parts(tmp_path):
    parts = tmp_path / "log.parquet"
    for n in range(3):
        (parts / f"year=202{n}").mkdir(parents=True)
        pq.write_table(pa.table({"u": [n], "i": ["x"], "t": [1600000000 + n]}), parts / f"year=202{n}/part-0.parquet")
        (tmp_path / f"plays{n}.csv").write_text(f"u,i,t\n{n},x,{1600000000 + n}\n")
    (parts / "_SUCCESS").write_text("")
    wanted = [(n, "x", 1600000000 + n) for n in range(3)]
    for paths in (parts, tmp_path / "plays*.csv"):
        assert rows(tmp_path, None, files={"listens": [paths]}) == wanted
    assert "no such file" in refused(tmp_path, None, files={"listens": [tmp_path / "*.tsv"]})
    (tmp_path / "empty").mkdir()
    assert "holds no file that ends in .parquet" in refused(tmp_path, None, files={"listens": [tmp_path / "empty"]})


def test_names_of_columns_are_no_sql_and_no_paths(tmp_path):
    name = "it's; drop table rows; --"
    assert rows(tmp_path, f'"{name}",i,t\n1,2,1600000000\n', user=name) == [(1, 2, 1600000000)]
    folder = tmp_path / "it's \"a\" 'folder'"
    types = {"li'sten": "listens", "x": "ignore"}
    text = "u,i,t,k\n1,2,1600000000,li'sten\n1,3,never,x\n"
    assert rows(folder, text, type="k", types=types, missing=("'", "--")) == [(1, 2, 1600000000)]


# Times ----------------------------------------------------------------------------------------------------------------


def times(folder, *values, **columns):
    text = "u,i,t\n" + "".join(f'{n},1,"{value}"\n' for n, value in enumerate(values))
    summary, found = convert(folder, text, **columns)
    days = [datetime.datetime.fromtimestamp(at, datetime.UTC).replace(tzinfo=None).isoformat(" ") for *_, at in found]
    return days, summary.notes


@pytest.mark.parametrize(
    ("value", "columns", "wanted"),
    [
        ("20200201", {}, "2020-02-01 00:00:00"),
        ("2020020112", {}, "2020-02-01 12:00:00"),
        ("202002011230", {}, "2020-02-01 12:30:00"),
        ("20200201123005", {}, "2020-02-01 12:30:05"),
        ("43862.5", {"time_unit": "excel"}, "2020-02-01 12:00:00"),
        ("2020", {"time_format": "%Y"}, "2020-01-01 00:00:00"),
        ("01/03/2020 10:00:00.123", {"time_format": "%d/%m/%Y %H:%M:%S.%f"}, "2020-03-01 10:00:00"),
        ("31 Dec 2023 10:30 PM", {"time_format": "%d %b %Y %I:%M %p"}, "2023-12-31 22:30:00"),
        ("2020-07-01 10:00 PST", {"time_format": "%Y-%m-%d %H:%M %Z"}, "2020-07-01 18:00:00"),
        ("2020-07-01 10:00 CET", {"time_format": "%Y-%m-%d %H:%M %Z"}, "2020-07-01 09:00:00"),
        ("2020-07-01 10:00 Europe/Berlin", {"time_format": "%Y-%m-%d %H:%M %Z"}, "2020-07-01 08:00:00"),
        ("Thu Feb 06 10:00:00 PST 2020", {"time_format": "%a %b %d %H:%M:%S %Z %Y"}, "2020-02-06 18:00:00"),
        ("2020-07-01 10:00 +0200", {"time_format": "%Y-%m-%d %H:%M %z"}, "2020-07-01 08:00:00"),
        ("2020-07-01 10:00", {"time_zone": "Europe/Berlin"}, "2020-07-01 08:00:00"),
        ("2020-07-01 10:00Z", {"time_zone": "Europe/Berlin"}, "2020-07-01 10:00:00"),
        ("2020-07-01 10:00:00 UTC", {}, "2020-07-01 10:00:00"),
        ("2020-07-01T10:00:00,25+02", {}, "2020-07-01 08:00:00"),
        ("1.6e9", {}, "2020-09-13 12:26:40"),
    ],
)  # fmt: skip
def test_a_time_is_read_right(tmp_path, value, columns, wanted):
    assert times(tmp_path, value, **columns)[0] == [wanted]


@pytest.mark.parametrize(
    ("values", "columns", "says"),
    [
        (["2020-02-30"], {}, "row 0: '2020-02-30'; it must be a time such as"),
        (["30/02/2020"], {"time_format": "%d/%m/%Y"}, "row 0: '30/02/2020'; it must be a time written as"),
        (["20200201"] * 12 + ["20200230"], {}, "row 12: '20200230'; it must be a date as %Y%m%d"),
        (["2020", "2021"], {}, "may be years or seconds; give --time_format=%Y or --time_unit=s"),
        (["202002", "202103"], {}, "may be months or seconds; give --time_format=%Y%m or --time_unit=s"),
        (["43862", "43863"], {}, "may be Excel's days since 1900 or seconds; give --time_unit=excel"),
        (["1600000000000"] + ["1600000000"] * 5, {}, "row 0: '1600000000000'; it must be a time in s"),
        (["1600000000"] + ["1600000000000"] * 5, {}, "row 0: '1600000000'; it must be a time in ms"),
        (["2020-07-01 10:00 IST"], {"time_format": "%Y-%m-%d %H:%M %Z"}, "the zone IST has no one meaning"),
        (["x"], {"time_format": "%Q"}, "--time_format=%Q: is no format of times"),
        (["2020-07-01"], {"time_zone": "Berlin"}, "--time_zone=Berlin: no such IANA zone; Europe/Berlin"),
        (["01/02/2020"], {}, "(--time_format reads others)"),
        (["-5"], {}, "row 0: '-5'; it must be a time in s"),
        (["inf"], {}, "row 0: 'inf'"),
        (["2107-01-01"], {}, "from 1970 to 2106"),
    ],
)  # fmt: skip
def test_a_time_that_can_mean_several_things_is_refused_with_a_way_on(tmp_path, values, columns, says):
    with pytest.raises(UserError) as caught:
        times(tmp_path, *values, **columns)
    assert says in str(caught.value)


def test_times_far_from_all_others_are_told_with_an_example(tmp_path):
    _, notes = times(tmp_path, "0", *range(1_600_000_000, 1_600_000_000 + 3600 * 2000, 3600), "4102444800")
    assert len(notes) == 2
    assert "1 of 2,002 times lie far before all others" in notes[0] and "such as '0' in" in notes[0]
    assert "1 of 2,002 times lie far after all others" in notes[1] and "row 2001" in notes[1]


# Ids ------------------------------------------------------------------------------------------------------------------


def test_whole_numbers_written_as_floats_are_the_integers(tmp_path):
    summary, found = convert(tmp_path, "u,i,t\n1,5,1600000000\n1.0,5.0,1600000001\n2.,6,1600000002\n")
    assert [row[:2] for row in found] == [(1, 5), (1, 5), (2, 6)] and "tables" not in summary.tables
    assert any("--user" in note for note in summary.notes)
    named = [("1", "a"), ("1.0", "b"), ("x", "c"), ("y", "c")]
    text = "u,i,t\n" + "".join(f"{user},{song},1600000000\n" for user, song in named)
    assert [row[:2] for row in rows(tmp_path, text)] == sorted(named)


@pytest.mark.parametrize("word", ["", "NULL", "null", "\\N", "NaN", "nan", "None", "<NA>"])
def test_missing_ids_are_no_users(tmp_path, word):
    text = f"u,i,t\n{word},5,1600000000\n1,5,1600000001\n"
    assert "column u, row 0:" in refused(tmp_path, text)
    summary, found = convert(tmp_path, text, bad_rows="skip")
    assert found == [(1, 5, 1600000001)] and summary.skipped == 1
    assert len(rows(tmp_path, text.replace(word + ",5", "nobody,5"), missing=())) == 2


def test_ids_of_several_columns_and_no_user(tmp_path):
    text = "a,b,t\nA,B,1600000000\nA,,1600000001\nA,C,1600000002\n"
    summary, found = convert(tmp_path, text, user=None, item="a,b", bad_rows="skip")
    assert [row[:2] for row in found] == [("me", "A - B"), ("me", "A - C")] and summary.skipped == 1
    with pytest.raises(UserError, match="--user_value"):
        ColumnMapping(user=None, item="a", time="t", user_value="")


# Types of Parquet -----------------------------------------------------------------------------------------------------


def parquet(folder, column, values, **columns):
    folder.mkdir(parents=True, exist_ok=True)
    table = {"u": ["a", "b"], "i": ["x", "y"], "t": [1600000000, 1600000100], column: values}
    pq.write_table(pa.table(table), folder / "plays.parquet")
    return convert(folder, None, "plays.parquet", **columns)


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a", "b"], pa.string_view()),
        pa.array(["a", "b"], pa.large_string()),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array([b"a", b"b"]),
        pa.array([b"a", b"b"], pa.large_binary()),
    ],
)
def test_texts_of_every_type_are_ids(tmp_path, values):
    assert [row[0] for row in parquet(tmp_path, "u", values)[1]] == ["a", "b"]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2], pa.decimal128(38, 0)),
        pa.array([1, 2], pa.decimal128(10, 2)),
        pa.array([1.0, 2.0]),
        pa.array([1.0, 2.0], pa.float32()),
        pa.array([1, 2], pa.uint64()),
        pa.array([1, 2]).dictionary_encode(),
    ],
)
def test_numbers_of_every_type_are_ids(tmp_path, values):
    assert [row[0] for row in parquet(tmp_path, "u", values)[1]] == [1, 2]


def test_large_numbers_and_uuids(tmp_path):
    assert [row[0] for row in parquet(tmp_path, "u", pa.array([1.6e15, 2e16]))[1]] == [
        "1600000000000000",
        "2" + "0" * 16,
    ]
    assert [row[0] for row in parquet(tmp_path, "u", pa.array([2**63 + 1, 5], pa.uint64()))[1]] == ["5", str(2**63 + 1)]
    found = parquet(tmp_path, "u", pa.array([bytes(16), bytes(15) + b"\1"], pa.binary(16)))[1]
    assert found[1][0] == "00000000-0000-0000-0000-000000000001"


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1600000000, 1600000100], pa.decimal128(38, 0)),
        pa.array([1600000000, 1600000100], pa.timestamp("s")),
        pa.array([1600000000, 1600000100], pa.timestamp("s")).cast(pa.timestamp("ns", "America/New_York")),
        pa.array([1600000000.5, 1600000100.25]),
        pa.array([1600000000, 1600000100], pa.duration("s")),
    ],
)
def test_times_of_every_type(tmp_path, values):
    assert [row[2] for row in parquet(tmp_path, "t", values)[1]] == [1600000000, 1600000100]


def test_days_lengths_and_columns_without_a_value(tmp_path):
    assert [row[2] for row in parquet(tmp_path, "t", pa.array([18262, 18263], pa.date32()))[1]] == [
        1577836800,
        1577923200,
    ]
    played = pa.array([30_000, 60_000], pa.duration("ms"))
    length = pa.array([datetime.time(0, 2), datetime.time(0, 2)], pa.time64("us"))
    parquet(tmp_path, "p", played, played="p", played_unit="seconds", played_threshold=45.0)
    listens = pq.read_table(tmp_path / "raw/flat/own/listens.parquet")
    assert listens["played_ratio_pct"].to_pylist() == [0, 100]
    parquet(tmp_path, "d", length, duration="d")
    assert pq.read_table(tmp_path / "raw/flat/own/listens.parquet")["track_length_seconds"].to_pylist() == [120, 120]
    parquet(tmp_path, "artist", pa.nulls(2), artist="artist")
    assert len(pq.read_table(tmp_path / "raw/flat/own/artist_item_mapping.parquet")) == 0
    # Who chose the song is unknown: as without the column.
    parquet(tmp_path, "o", pa.array([0.0, None]), organic="o")
    assert pq.read_table(tmp_path / "raw/flat/own/listens.parquet")["is_organic"].to_pylist() == [0, 1]


def test_lists_of_artists(tmp_path):
    artists = pa.array([["Nico", "Cale"], None])
    summary, _ = parquet(tmp_path, "artists", artists, artist="artists")
    names = {row["number"]: row["id"] for row in pq.read_table(summary.tables["artist"]).to_pylist()}
    pairs = pq.read_table(tmp_path / "raw/flat/own/artist_item_mapping.parquet").to_pylist()
    assert {(row["item_id"], names[row["artist_id"]]) for row in pairs} == {(0, "Nico"), (0, "Cale")}
    summary, _ = parquet(tmp_path, "artists", pa.array([[], [7, 8]], pa.large_list(pa.int32())), artist="artists")
    assert pq.read_table(tmp_path / "raw/flat/own/artist_item_mapping.parquet").to_pylist() == [
        {"artist_id": 7, "item_id": 1},
        {"artist_id": 8, "item_id": 1},
    ]


def test_structs_and_what_has_no_clear_meaning(tmp_path):
    tracks = pa.array([{"id": "x", "more": {"n": 1}}, {"id": "y", "more": {"n": 2}}])
    assert [row[1] for row in parquet(tmp_path, "track", tracks, item="track.more.n")[1]] == [1, 2]
    for values, role, says in (
        (tracks, "item", "name a field of it, as in COLUMN.id"),
        (pa.array([["a"], ["b"]]), "item", "one row for each value"),
        (pa.array([datetime.time(1), datetime.time(2)]), "time", "a time of day has no day"),
        (pa.array([1, 2], pa.duration("s")), "played", "give --played_unit=seconds"),
        (pa.array([b"\xff", b"b"]), "item", "bytes that are not UTF-8"),
    ):
        with pytest.raises(UserError, match=says):
            parquet(tmp_path, "x", values, **{role: "x"})


def test_memory_of_a_large_text_file_is_a_block(tmp_path):
    line = b"1,2,1600000000," + b"x" * 985 + b"\n"
    (tmp_path / "plays.csv").write_bytes(b"u,i,t,x\n" + line * 60_000)
    most = 0
    for batch in delimited.read_csv(Source(tmp_path / "plays.csv", [("user", "u")], pytest.fail)):
        most = max(most, pa.total_allocated_bytes())
        np.testing.assert_equal(batch.num_columns, 2)
    assert most < 40 << 20
