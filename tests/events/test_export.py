"""The store as logs: with the logs of before and alone, numbered as they are, without those who were deleted."""

import pyarrow.parquet as pq
import pytest
from raw_logs import write_logs

from music_map.errors import UserError
from music_map.events import export as exports
from music_map.events.event import Event
from music_map.events.export import Logs, export_events
from music_map.events.store import EventStore
from music_map.raw.layout import item_file
from music_map.raw.reader import open_events

LISTENS = [
    (1, 100, 10, 1, 100, 200), (1, 100, 11, 0, 50, 180), (1, 300, 10, 1, 90, 200), (4, 50, 12, 1, 20, 90),
    (4, 50, 12, 1, 20, 90), (4, 60, 10, 1, 100, 200), (9, 10, 11, 1, 100, 180),
]  # fmt: skip


@pytest.fixture
def store(tmp_path):
    found = EventStore.open(tmp_path / "events.sqlite")
    yield found
    found.close()


def rows_of(path):
    return list(zip(*pq.read_table(path).to_pydict().values(), strict=True))


def raw_logs(folder, **more):
    return Logs(
        write_logs(folder, size="own", listens=LISTENS, embeddings={10: [1.0] * 128, 77: [0.5] * 128}, **more), "own"
    )


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 100])
def test_joined_with_the_logs_of_before(store, tmp_path, monkeypatch, batch_rows):
    before = raw_logs(tmp_path / "raw", likes=[(1, 100, 10, 1)], artists=[(5, 10)])
    batches = exports._batches
    monkeypatch.setattr(
        exports, "_batches", lambda table: table.batches(table.schema.names, batch_rows=batch_rows) if table else []
    )
    assert list(batches(None)) == []
    store.append([[
        Event("a", "1", "10", "listen", 200, 0.345), Event("b", "4", "12", "listen", 50),
        Event("c", "2", "13", "listen", 7), Event("d", "1", "11", "listen", 100),
        Event("e", "1", "12", "listen", 100, 0.0), Event("f", "9", "10", "dislike", 5),
        Event("g", "12", "10", "listen", 3), Event("h", "1", "10", "unlike", 101),
    ]])  # fmt: skip
    done = export_events(store, Logs(tmp_path / "out", "own"), before=before)
    folder = tmp_path / "out/flat/own"
    mine = [(1, 100, 12, 1, 0, 0), (1, 200, 10, 1, 34, 0), (2, 7, 13, 1, 100, 0), (12, 3, 10, 1, 100, 0)]
    assert rows_of(folder / "listens.parquet") == sorted(LISTENS + mine, key=lambda row: row[:2])
    assert rows_of(folder / "likes.parquet") == [(1, 100, 10, 1)]
    assert rows_of(folder / "dislikes.parquet") == [(9, 5, 10, 1)] and rows_of(folder / "unlikes.parquet") == [
        (1, 101, 10, 1)
    ]
    assert (done.new_users, done.new_songs, done.repeated, done.forgotten) == (2, 1, 2, 0)
    assert not (folder / "user_ids.parquet").exists() and not (folder / "undislikes.parquet").exists()
    for name in ("embeddings", "artist_item_mapping"):
        assert rows_of(item_file(tmp_path / "out", "own", name)) == rows_of(item_file(before.raw_dir, "own", name))
    list(open_events(tmp_path / "out", "own")["listens"].batches(["uid", "timestamp"]))  # the order is checked


def test_texts_are_numbered_after_the_numbers(store, tmp_path):
    """77 is a song that only the audio has; 80 one that only the store has."""
    before = raw_logs(tmp_path / "raw")
    store.append([[
        Event("a", "zoë", "new song", "listen", 200), Event("b", "adam", "80", "listen", 50),
        Event("c", "07", "10", "listen", 7),
    ]])  # fmt: skip
    export_events(store, Logs(tmp_path / "out", "own"), before=before)
    folder = tmp_path / "out/flat/own"
    assert rows_of(folder / "user_ids.parquet") == [(1, "1"), (4, "4"), (9, "9"), (10, "07"), (11, "adam"), (12, "zoë")]
    assert rows_of(folder / "song_ids.parquet") == [(n, str(n)) for n in (10, 11, 12, 77, 80)] + [(81, "new song")]
    assert [row[:3] for row in rows_of(folder / "listens.parquet")[-3:]] == [(10, 7, 10), (11, 50, 80), (12, 200, 81)]
    # The next export begins from this one, with tables.
    store.append([[Event("d", "adam", "second song", "listen", 60), Event("e", "eve", "10", "listen", 8)]])
    done = export_events(store, Logs(tmp_path / "next", "own"), before=Logs(tmp_path / "out", "own"))
    assert (done.new_users, done.new_songs, done.repeated) == (1, 1, 3)
    assert rows_of(tmp_path / "next/flat/own/user_ids.parquet")[-1] == (13, "eve")
    assert rows_of(tmp_path / "next/flat/own/song_ids.parquet")[-1] == (82, "second song")
    assert len(rows_of(tmp_path / "next/flat/own/listens.parquet")) == len(LISTENS) + 5


def test_alone(store, tmp_path):
    store.append([[Event("a", "7", "b side", "listen", 20), Event("b", "3", "a side", "like", 10)]])
    export_events(store, Logs(tmp_path / "out", "alone"))
    folder = tmp_path / "out/flat/alone"
    assert rows_of(folder / "listens.parquet") == [(7, 20, 1, 1, 100, 0)] and rows_of(folder / "likes.parquet") == [
        (3, 10, 0, 1)
    ]
    assert rows_of(folder / "song_ids.parquet") == [(0, "a side"), (1, "b side")]
    with pytest.raises(UserError, match="is there already"):
        export_events(store, Logs(tmp_path / "out", "alone"))
    export_events(store, Logs(tmp_path / "out", "alone"), overwrite=True)


def test_deleted_users_are_left_out(store, tmp_path):
    store.append([[Event("a", "4", "10", "listen", 200)]])
    store.forget("4")
    done = export_events(store, Logs(tmp_path / "out", "own"), before=raw_logs(tmp_path / "raw"))
    assert {row[0] for row in rows_of(tmp_path / "out/flat/own/listens.parquet")} == {1, 9} and done.forgotten == 3


def test_what_cannot_be_exported(store, tmp_path):
    before = raw_logs(tmp_path / "raw")
    with pytest.raises(UserError, match="no listens"):
        export_events(store, Logs(tmp_path / "out", "own"))
    with pytest.raises(UserError, match="to be joined"):
        export_events(store, before, before=before, overwrite=True)
    store.epoch = 1_000
    store.append([[Event("a", "4", "10", "listen", 200)]])
    with pytest.raises(UserError, match="before the logs begin"):
        export_events(store, Logs(tmp_path / "out", "own"), before=before)
    assert not (tmp_path / "out/flat/own").exists()


def test_shared_files_of_the_hub_stay(store, tmp_path):
    """Logs in the same folder: the audio is that of all logs, and no link takes its place."""
    before = raw_logs(tmp_path / "raw")
    store.append([[Event("a", "4", "10", "listen", 200)]])
    export_events(store, Logs(before.raw_dir, "next"), before=before)
    assert not (before.raw_dir / "embeddings.parquet").is_symlink()
    files = [item_file(before.raw_dir, size, "embeddings") for size in ("own", "next")]
    assert files[0].read_bytes() == files[1].read_bytes()
