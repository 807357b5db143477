"""Own logs to Yambda's schema: formats, units, numbering, order, errors, and memory that does not grow with the log."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from id_table import IdTable

from music_map.convert.build import convert_logs
from music_map.convert.settings import ColumnMapping
from music_map.errors import UserError
from music_map.raw.layout import item_file
from music_map.raw.reader import open_events, user_chunks
from music_map.raw.schema import EVENT_SCHEMAS, LISTENS

COLUMNS = {"user": "user_id", "item": "track", "time": "played_at"}
CSV = """played_at,user_id,track,country
2026-05-01T12:00:00Z,bob,b-side,PT
2026-05-01T14:00:00+02:00,ann,"comma, song",NO
2026-05-01T11:00:00,bob,b-side,PT
"""


def convert(tmp_path, text, *, name="plays.csv", size="own", source=None, **columns):
    path = tmp_path / name
    if text is not None:
        path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    mapping = ColumnMapping(**{**COLUMNS, **columns})
    return convert_logs({"listens": [path]}, tmp_path / "raw", mapping, size=size, source=source)


def listens(tmp_path, name="listens"):
    return pq.read_table(tmp_path / f"raw/flat/own/{name}.parquet").to_pylist()


def test_a_csv_with_names_becomes_numbered_sorted_listens(tmp_path):
    summary = convert(tmp_path, CSV)
    table = pq.read_table(tmp_path / "raw/flat/own/listens.parquet")
    assert table.schema.equals(LISTENS)
    noon = 1_777_636_800
    # ann comes before bob, and bob's rows by time.
    assert [(r["uid"], r["timestamp"], r["item_id"]) for r in table.to_pylist()] == [
        (0, noon, 1),
        (1, noon - 3600, 0),
        (1, noon, 0),
    ]
    assert {(r["is_organic"], r["played_ratio_pct"], r["track_length_seconds"]) for r in table.to_pylist()} == {
        (1, 100, 0)
    }
    assert (summary.events, summary.num_users, summary.num_items) == ({"listens": 3}, 2, 2)
    assert (summary.first, summary.last) == (noon - 3600, noon)
    songs = IdTable.load(summary.tables["item"])
    assert songs.number_of == {"b-side": 0, "comma, song": 1} and songs.id_of[1] == "comma, song"
    assert IdTable.load(summary.tables["user"]).number_of == {"ann": 0, "bob": 1}
    assert not list((tmp_path / "raw").rglob("*.rows"))
    chunks = list(user_chunks(open_events(tmp_path / "raw", "own")))
    assert sum(len(chunk["listens"]["uid"]) for chunk in chunks) == 3


def test_whole_numbers_stay_as_they_are(tmp_path):
    summary = convert(tmp_path, "user_id,track,played_at\n7,4294967295,5\n3,0,10\n4294967295,1,2\n7,12,1\n")
    assert summary.tables == {}
    assert [(r["uid"], r["timestamp"], r["item_id"]) for r in listens(tmp_path)] == [
        (3, 10, 0),
        (7, 1, 12),
        (7, 5, 4294967295),
        (4294967295, 2, 1),
    ]


@pytest.mark.parametrize("own", ["007", "4294967296", "-1", "1.5", "x"])
def test_one_id_that_is_no_plain_number_numbers_all(tmp_path, own):
    summary = convert(tmp_path, f"user_id,track,played_at\n7,{own},5\n7,12,1\n")
    assert set(summary.tables) == {"item"}
    assert IdTable.load(summary.tables["item"]).number_of.keys() == {own, "12"}


def rows_of(kind):
    """Five events in a format: (file name, bytes)."""
    users, songs = ["u2", "u1", "u2", "u1", "u3"], [5, 6, 5, 7, 5]
    times = [100, 200, 300, 400, 500]
    if kind in ("csv", "tsv"):
        line = {"csv": ",", "tsv": "\t"}[kind].join
        text = "\n".join([line(["track", "user_id", "played_at"])] + [
            line(map(str, row)) for row in zip(songs, users, times, strict=True)
        ])  # fmt: skip
        return f"plays.{kind}", text.encode()
    if kind == "csv.gz":
        return "plays.csv.gz", gzip.compress(rows_of("csv")[1])
    if kind == "jsonl":
        events = [{"user_id": u, "track": s, "played_at": t} for u, s, t in zip(users, songs, times, strict=True)]
        return "plays.jsonl", "\n\n".join(map(json.dumps, events)).encode()
    columns = {"user_id": pa.array(users).dictionary_encode(), "track": pa.array(songs, pa.int64())}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({**columns, "played_at": pa.array(times).cast(pa.timestamp("s"))}), sink)
    return "plays.parquet", sink.getvalue().to_pybytes()


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "jsonl", "parquet"])
def test_every_format_gives_the_same(tmp_path, kind):
    name, content = rows_of(kind)
    summary = convert(tmp_path, content, name=name)
    assert IdTable.load(summary.tables["user"]).number_of == {"u1": 0, "u2": 1, "u3": 2}
    assert [(r["uid"], r["timestamp"], r["item_id"]) for r in listens(tmp_path)] == [
        (0, 200, 6), (0, 400, 7), (1, 100, 5), (1, 300, 5), (2, 500, 5),
    ]  # fmt: skip


def test_a_csv_without_header_and_with_its_own_delimiter(tmp_path):
    source = {"header": ["user_id", "track", "played_at"], "delimiter": ";"}
    convert(tmp_path, "1;2;3\n1;2;4\n", name="plays.txt", source=source | {"file_format": "csv"})
    assert [r["timestamp"] for r in listens(tmp_path)] == [3, 4]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1777636800", 1_777_636_800),
        ("1777636800.75", 1_777_636_800),
        ("1777636800999", 1_777_636_800),
        ("1777636800000001", 1_777_636_800),
        ("1777636800999999999", 1_777_636_800),
        ("25911800", 25_911_800),
        ("2026-05-01", 1_777_593_600),
        ("2026-05-01 12:00", 1_777_636_800),
        ("2026-05-01T12:00:00.999999999Z", 1_777_636_800),
        ("2026-05-01 09:30:00-02:30", 1_777_636_800),
    ],
)
def test_times(tmp_path, text, seconds):
    convert(tmp_path, f"user_id,track,played_at\n1,2,{text}\n")
    assert listens(tmp_path)[0]["timestamp"] == seconds


def test_times_in_a_format_or_unit_of_their_own(tmp_path):
    convert(tmp_path, "user_id,track,played_at\n1,2,01/05/2026 12:00\n", time_format="%d/%m/%Y %H:%M")
    assert listens(tmp_path)[0]["timestamp"] == 1_777_636_800
    convert(tmp_path / ".", "user_id,track,played_at\n1,2,5000\n", time_unit="ms", size="two")
    assert pq.read_table(tmp_path / "raw/flat/two/listens.parquet")["timestamp"].to_pylist() == [5]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_times(tmp_path, unit):
    kind = pa.timestamp(unit, "Europe/Lisbon")
    times = pa.array([1_777_636_800], pa.timestamp("s")).cast(kind)
    pq.write_table(pa.table({"user_id": [1], "track": [2], "played_at": times}), tmp_path / "plays.parquet")
    convert(tmp_path, None, name="plays.parquet")
    assert listens(tmp_path)[0]["timestamp"] == 1_777_636_800


@pytest.mark.parametrize(
    ("unit", "played", "length", "percent"),
    [("percent", "55", "", 55), ("percent", "159", "", 159), ("fraction", "0.5", "", 50), ("seconds", "90", "180", 50),
     ("milliseconds", "45000", "180", 25), ("percent", "99999", "", 65535)],
)  # fmt: skip
def test_how_much_was_played(tmp_path, unit, played, length, percent):
    text = f"user_id,track,played_at,ms,len\n1,2,3,{played},{length}\n"
    convert(tmp_path, text, played="ms", played_unit=unit, duration="len")
    assert (listens(tmp_path)[0]["played_ratio_pct"], listens(tmp_path)[0]["track_length_seconds"]) == (
        percent,
        int(length or 0),
    )


def test_fractions_read_as_percent_are_told(tmp_path):
    summary = convert(tmp_path, "user_id,track,played_at,p\n1,2,3,0.9\n1,2,4,1\n", played="p")
    assert "--played_unit=fraction" in summary.notes[0]
    assert convert(tmp_path, "user_id,track,played_at,p\n1,2,3,90\n1,2,4,1\n", played="p", size="two").notes == []


def test_types_organic_artists_and_albums(tmp_path):
    text = (
        "user_id,track,played_at,what,who,artist,album\n"
        "1,10,1,play,true,Nico,7\n1,10,2,Love,0,Nico,7\n1,11,3,ban,no,,8\n1,11,4,unban,yes,,8\n"
        "1,12,5,heart,1,Abba,7\n1,12,6,view,x,Abba,\n1,12,7,listen,f,Nico,\n"
    )
    types = {"play": "listens", "listen": "listens", "love": "likes", "ban": "dislikes", "unban": "undislikes"}
    summary = convert(
        tmp_path, text, type="what", types=types | {"heart": "likes", "view": "ignore"}, organic="who",
        artist="artist", album="album",
    )  # fmt: skip
    assert summary.events == {"listens": 2, "likes": 2, "dislikes": 1, "undislikes": 1} and summary.ignored == 1
    assert [(r["item_id"], r["is_organic"]) for r in listens(tmp_path)] == [(10, 1), (12, 0)]
    assert [(r["item_id"], r["is_organic"]) for r in listens(tmp_path, "likes")] == [(10, 0), (12, 1)]
    for name, tables in (("likes", 1), ("dislikes", 1), ("undislikes", 1), ("unlikes", 0)):
        assert (tmp_path / f"raw/flat/own/{name}.parquet").exists() == bool(tables)
        if tables:
            table = pq.read_table(tmp_path / f"raw/flat/own/{name}.parquet")
            assert table.schema.equals(EVENT_SCHEMAS[name])
    artists = pq.read_table(tmp_path / "raw/artist_item_mapping.parquet").to_pylist()
    names = IdTable.load(summary.tables["artist"]).id_of
    assert {(names[r["artist_id"]], r["item_id"]) for r in artists} == {("Nico", 10), ("Abba", 12), ("Nico", 12)}
    albums = pq.read_table(tmp_path / "raw/album_item_mapping.parquet").to_pylist()
    assert {(r["album_id"], r["item_id"]) for r in albums} == {(7, 10), (8, 11), (7, 12)}
    assert "album" not in summary.tables


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("user_id,track,played_at\n1,2,3\n1,2,soon\n", {}, "column played_at, row 1: 'soon'; it must be a time in s"),
        ("user_id,track,played_at\n1,2,2026-05-01\n1,2,soon\n", {}, "played_at, row 1: 'soon'; it must be a time"),
        ("user_id,track,played_at\n1,2,2026-05-01\n1,2,99\n", {}, "column played_at, row 1: '99'"),
        ("user_id,track,played_at\n1,2,1777636800000\n1,2,1777636800\n", {}, "'1777636800'; it must be a time in ms"),
        ("user_id,track,played_at\n1,2,-5\n", {}, "row 0: '-5'"),
        ("user_id,track,played_at\n1,2,5\n1,2,\n", {}, "column played_at, row 1: empty"),
        ("user_id,track,played_at\n1,2,5\n,2,5\n", {}, "column user_id, row 1: empty; it must be an id"),
        ("user_id,track,played_at,p\n1,2,5,-1\n", {"played": "p"}, "column p, row 0: '-1'; it must be a number"),
        ("user_id,track,played_at,p\n1,2,5,nan\n", {"played": "p"}, "column p, row 0: 'nan'"),
        ("user_id,track,played_at,o\n1,2,5,maybe\n", {"organic": "o"}, "column o, row 0: 'maybe'; it must be one of 1"),
        ("user_id,track,played_at,e\n1,2,5,kiss\n", {"type": "e"}, "column e, row 0: 'kiss'; it must be one of listen"),
        ("user_id,track,played_at,p,d\n1,2,5,9,\n", {"played": "p", "played_unit": "seconds", "duration": "d"},
         "column d, row 0: empty; it must be above 0"),
        ("user_id,trak,played_at\n1,2,5\n", {}, "has no column 'track', only user_id, trak, played_at; set --item"),
        ("user_id,track,played_at\n1,2\n", {}, "row 0: 2 columns where 3 are expected; check --delimiter"),
        ("user_id,track,played_at\n1,2,3\n1,2,3,4\n", {}, "row 1: 4 columns where 3 are expected"),
        ("user_id,user_id,track,played_at\n1,1,2,3\n", {}, "has the column 'user_id' twice"),
        ("", {}, "is empty (0 bytes)"),
        (b"user_id,track,played_at\n1,\xff\xfe,5\n", {}, "UTF-8"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_column_and_row(tmp_path, text, columns, says):
    with pytest.raises(UserError) as caught:
        convert(tmp_path, text, **columns)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "plays.csv")) and says in message and "\n" not in message, message
    assert not (tmp_path / "raw/flat/own").exists()


def test_other_mistakes(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        convert(tmp_path, None)
    with pytest.raises(UserError, match=r"plays.doc: its name tells no format"):
        convert(tmp_path, "x", name="plays.doc")
    with pytest.raises(UserError, match="no listens"):
        convert(tmp_path, "user_id,track,played_at,e\n1,2,5,like\n", type="e")
    with pytest.raises(UserError, match=r"plays.jsonl, row 1: not valid JSON"):
        convert(tmp_path, '{"user_id": 1, "track": 2, "played_at": 3}\n{', name="plays.jsonl")
    with pytest.raises(UserError, match=r"column track, row 0: a list"):
        convert(tmp_path, '{"user_id": 1, "track": [2], "played_at": 3}\n', name="plays.jsonl")
    with pytest.raises(UserError, match="--played_unit=seconds: a share needs"):
        ColumnMapping(**COLUMNS, played="p", played_unit="seconds")
    with pytest.raises(UserError, match="--types=heart:liked: 'liked' is no kind"):
        ColumnMapping(**COLUMNS, type="e", types={"heart": "liked"})
    convert(tmp_path, CSV)
    with pytest.raises(UserError, match=r"flat/own: is there already; give --overwrite"):
        convert(tmp_path, CSV)


def test_rows_that_cannot_be_read_are_skipped_and_counted_where_that_is_asked_for(tmp_path):
    text = "user_id,track,played_at\n1,2,3\n1,2,soon\n,2,5\n4,5,6\n"
    assert convert(tmp_path, text, bad_rows="skip").skipped == 2
    assert [r["uid"] for r in listens(tmp_path)] == [1, 4]


def test_likes_from_a_file_of_their_own_share_the_numbers(tmp_path):
    (tmp_path / "likes.csv").write_text("user_id,track,played_at\nzoe,new song,2026-05-02\n")
    (tmp_path / "plays.csv").write_text(CSV)
    files = {"listens": [tmp_path / "plays.csv"], "likes": [tmp_path / "likes.csv"]}
    summary = convert_logs(files, tmp_path / "raw", ColumnMapping(**COLUMNS))
    users = IdTable.load(summary.tables["user"]).id_of
    assert [users[r["uid"]] for r in listens(tmp_path, "likes")] == ["zoe"]
    assert summary.num_items == 3


events = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=60)


@settings(max_examples=20, deadline=None)
@given(events=events)
def test_rows_are_sorted_stably(tmp_path_factory, events):
    folder: Path = tmp_path_factory.mktemp("sorted")
    lines = [f"{user},{item},{time},{row}" for row, (user, time, item) in enumerate(events)]
    convert(folder, "\n".join(["user_id,track,played_at,p", *lines]), played="p", time_unit="s")
    found = [(r["uid"], r["timestamp"], r["item_id"], r["played_ratio_pct"]) for r in listens(folder)]
    assert found == sorted(
        ((user, time, item, row) for row, (user, time, item) in enumerate(events)), key=lambda row: row[:2]
    )


def test_what_does_not_fit_into_memory_goes_to_the_disk(tmp_path):
    rng = np.random.default_rng(0)
    rows = 1_500_000
    table = {"user_id": rng.integers(0, 5_000, rows), "track": rng.integers(0, 400_000, rows)}
    table["played_at"] = rng.integers(0, 10**6, rows)
    pq.write_table(pa.table(table), tmp_path / "plays.parquet", row_group_size=50_000)
    mapping = ColumnMapping(**COLUMNS)
    summary = convert_logs({"listens": [tmp_path / "plays.parquet"]}, tmp_path / "raw", mapping, memory="80MB")
    assert summary.events == {"listens": rows}
    found = pq.read_table(tmp_path / "raw/flat/own/listens.parquet")
    order = np.lexsort((table["played_at"], table["user_id"]))
    for name, column in (("uid", "user_id"), ("timestamp", "played_at"), ("item_id", "track")):
        np.testing.assert_array_equal(found[name].to_numpy(), table[column][order])
    assert sorted(path.name for path in (tmp_path / "raw/flat/own").iterdir()) == ["listens.parquet"]
    list(open_events(tmp_path / "raw", "own")["listens"].batches(LISTENS.names))


def artist_names(tmp_path):
    folder = tmp_path / "raw/flat/own"
    song, artist = (
        {row["number"]: row["id"] for row in pq.read_table(folder / f"{name}_ids.parquet").to_pylist()}
        for name in ("song", "artist")
    )
    pairs = pq.read_table(item_file(tmp_path / "raw", "own", "artist_item_mapping")).to_pylist()
    return {(song[row["item_id"]], artist[row["artist_id"]]) for row in pairs}


def test_overwriting_replaces_all_of_the_old_conversion(tmp_path):
    text = "user_id,track,played_at,who\n1,b,5,Nico\n1,c,6,Abba\n"
    convert(tmp_path, text, artist="who")
    assert artist_names(tmp_path) == {("b", "Nico"), ("c", "Abba")}
    # At the hub's place there is a link to it.
    shared = tmp_path / "raw/artist_item_mapping.parquet"
    assert shared.is_symlink() and pq.read_table(shared).num_rows == 2
    files = {"listens": [tmp_path / "plays.csv"]}
    (tmp_path / "plays.csv").write_text("user_id,track,played_at,who\n1,a,4,Cher\n1,b,5,Nico\n")
    with pytest.raises(UserError, match="is there already; give --overwrite"):
        convert_logs(files, tmp_path / "raw", ColumnMapping(**COLUMNS, artist="who"))
    convert_logs(files, tmp_path / "raw", ColumnMapping(**COLUMNS, artist="who"), overwrite=True)
    assert artist_names(tmp_path) == {("a", "Cher"), ("b", "Nico")} and pq.read_table(shared).num_rows == 2
    # Another log in the same folder keeps its own; this one, without artists now, has none.
    convert_logs(files, tmp_path / "raw", ColumnMapping(**COLUMNS, artist="who"), size="other")
    convert_logs(files, tmp_path / "raw", ColumnMapping(**COLUMNS), overwrite=True)
    assert not item_file(tmp_path / "raw", "own", "artist_item_mapping").exists()
    assert pq.read_table(item_file(tmp_path / "raw", "other", "artist_item_mapping")).num_rows == 2


def test_mappings_of_an_earlier_version_are_no_longer_read(tmp_path):
    text = "user_id,track,played_at,who\n1,b,5,Nico\n"
    shared = tmp_path / "raw/artist_item_mapping.parquet"
    shared.parent.mkdir()
    pq.write_table(pa.table({"artist_id": pa.array([9], pa.uint32()), "item_id": pa.array([0], pa.uint32())}), shared)
    with pytest.raises(UserError, match=r"artist_item_mapping.parquet: its songs may be numbered otherwise"):
        convert(tmp_path, text)
    convert_logs(
        {"listens": [tmp_path / "plays.csv"]}, tmp_path / "raw", ColumnMapping(**COLUMNS, artist="who"), overwrite=True
    )
    assert artist_names(tmp_path) == {("b", "Nico")} and pq.read_table(shared)["artist_id"].to_pylist() == [0]


def test_names_of_songs_artists_and_albums(tmp_path):
    text = (
        "user_id,track,played_at,name,band,record\n"
        "1,7,1,Blue,Nico,LP\n1,7,2,Blue (live),Nico,LP\n2,7,3,Blue,Nico,\n2,9,4,,Abba,LP\n"
    )
    summary = convert(tmp_path, text, title="name", artist_name="band", album_name="record")

    def table(role):
        return pq.read_table(summary.tables[role]).to_pylist()

    assert table("item") == [
        {"number": 7, "id": "7", "title": "Blue", "artist": "Nico", "album": "LP"},
        {"number": 9, "id": "9", "title": None, "artist": "Abba", "album": "LP"},
    ]
    assert table("artist") == [{"number": 0, "id": "Abba", "name": "Abba"}, {"number": 1, "id": "Nico", "name": "Nico"}]
    # Two records of one name are two.
    assert [row["id"] for row in table("album")] == ["Abba - LP", "Nico - LP"]
    assert summary.numbered == ["artist", "album"] and "user" not in summary.tables


def test_files_that_describe_songs(tmp_path):
    (tmp_path / "songs.csv").write_text("track,name,band\n9,Never played,Abba\n7,Blue,Nico\n")
    (tmp_path / "plays.csv").write_text("user_id,track,played_at\n1,7,1\n1,8,2\n")
    files = {"listens": [tmp_path / "plays.csv"], "songs": [tmp_path / "songs.csv"]}
    mapping = ColumnMapping(**COLUMNS, title="name", artist_name="band")
    summary = convert_logs(files, tmp_path / "raw", mapping)
    assert summary.num_items == 2
    assert pq.read_table(summary.tables["item"]).to_pylist() == [
        {"number": 7, "id": "7", "title": "Blue", "artist": "Nico"},
        {"number": 8, "id": "8", "title": None, "artist": None},
    ]
    pairs = pq.read_table(tmp_path / "raw/flat/own/artist_item_mapping.parquet")["item_id"].to_pylist()
    assert pairs == [7]


def test_ctrl_c_in_a_query_is_no_error(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise RuntimeError("Query interrupted")

    monkeypatch.setattr("music_map.convert.engine.judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path, CSV)
    assert list((tmp_path / "raw/flat").iterdir()) == []
