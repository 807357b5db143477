"""The store: on SQLite and PostgreSQL the same."""

import sqlite3
import threading
import time

import pytest
import sqlalchemy as sa
from killed_writer import kill

from music_map.errors import UserError
from music_map.events import store as stores
from music_map.events.event import Event, digest, id_of
from music_map.events.schema import EVENTS, METADATA
from music_map.events.store import Conflict, EventStore, History, Stored, StoreUnavailable

NOW = 1_790_000_000


def event(number, user="7", song="1", kind="listen", time=NOW, played=1.0):
    return Event(f"e{number}", user, song, kind, time, played)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """Of an empty database."""
    return (
        tmp_path / "events.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres").new_database()
    )


@pytest.fixture
def store(url):
    found = EventStore.open(url)
    yield found
    found.close()


def test_events_come_back_by_user_and_time(store):
    batch = [event(1, time=NOW + 5, song="é\u2003東", played=0.1 + 0.2), event(2, kind="like"), event(3, "8", time=NOW)]
    assert store.append([batch, []]) == [Stored(3, 0, 0), Stored(0, 0, 0)]
    found = store.histories({"7": None, "8": None, "9": None})
    assert found["7"] == History([batch[1], batch[0]], False)
    assert found["8"].events == [batch[2]] and found["9"] == History([], False)
    assert store.histories({"7": NOW, "8": NOW})["7"].events == [batch[0]]
    assert [one for part in store.all(2) for one in part] == batch
    profile = store.profile("7")
    assert (profile.events, profile.songs, profile.first, profile.last) == ({"listen": 1, "like": 1}, 2, NOW, NOW + 5)
    assert store.profile("nobody").events == {} and store.count() == 3


def test_an_event_counts_once(store):
    assert store.append([[event(1), event(1)], [event(1)]]) == [Stored(1, 1, 0), Stored(0, 1, 0)]
    assert store.append([[event(1), event(2)]]) == [Stored(1, 1, 0)]
    [other, good] = store.append([[event(3), event(1, song="2", played=0.5)], [event(3)]])
    assert isinstance(other, Conflict) and other.entry == 1 and "'e1'" in str(other)
    assert "song and played" in str(other)
    # Of the batch that was refused nothing was kept.
    assert good == Stored(1, 0, 0) and store.count() == 3
    [twice] = store.append([[event(4), event(4, kind="like")]])
    assert isinstance(twice, Conflict) and store.count() == 3


def test_many_at_once_and_the_latest_of_them(store, monkeypatch):
    monkeypatch.setattr(stores, "MOST_HISTORY", 500)
    batch = [event(n, user=str(n % 3), time=NOW + n // 7) for n in range(5_000)]
    assert store.append([batch]) == [Stored(5_000, 0, 0)]
    assert store.append([batch[:4_500]]) == [Stored(0, 4_500, 0)]
    wanted = [one for one in batch if one.user == "1"][-500:]
    assert store.histories({"1": None, "2": NOW})["1"].events == wanted


def test_a_deleted_user_is_gone_and_does_not_come_back(store):
    store.append([[event(1), event(2, "8"), event(3)]])
    before = int(time.time())
    assert store.forget("7") == 2 and store.forget("nobody") == 0
    found = store.histories({"7": NOW + 100, "8": None})
    assert found["7"] == History([], True) and found["8"] == History([event(2, "8")], False)
    assert store.profile("7").forgotten >= before and store.forgotten() == {digest("7"), digest("nobody")}
    # What a device sends again, or had not sent yet, is left out; what comes later counts, whatever the model knows.
    late = event(4, time=int(time.time()) + 10)
    assert store.append([[event(1), event(5), late]]) == [Stored(1, 0, 2)]
    assert store.histories({"7": NOW + 10**9})["7"] == History([late], True)


def test_nothing_of_a_deleted_user_is_in_the_file(tmp_path):
    store = EventStore.open(tmp_path / "events.sqlite")
    store.append([[event(1, user="a-name-to-forget", song="a-song-to-forget"), event(2)]])
    files = [tmp_path / "events.sqlite", tmp_path / "events.sqlite-wal"]
    assert any(b"a-name-to-forget" in path.read_bytes() for path in files)
    store.forget("a-name-to-forget")
    assert not any(b"to-forget" in path.read_bytes() for path in files if path.exists())
    assert files[0].stat().st_mode & 0o077 == 0
    store.close()


def test_the_clock_of_logs_that_begin_at_0(url):
    first = EventStore.open(url, present=1_000)
    assert abs(first.epoch + 1_000 - time.time()) < 5
    second = EventStore.open(url, present=5_000_000)  # a run that was trained later
    assert second.epoch == first.epoch
    first.close()
    second.close()


def test_two_stores_see_the_same_and_agree_on_conflicts(url):
    one, other = EventStore.open(url), EventStore.open(url)
    results = {one: [], other: []}

    def write(store):
        for n in range(40):
            results[store] += store.append([[event(n, song="1"), event(n + 1_000_000, user=store.name)]])
            results[store] += store.append([[event(10_000 + n, song="1" if store is one else "2")]])

    threads = [threading.Thread(target=write, args=(store,)) for store in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [r.stored for found in results.values() for r in found if isinstance(r, Stored)]
    refused = sum(isinstance(r, Conflict) for found in results.values() for r in found)
    assert sum(kept) == one.count() == other.count() == 120 and refused == 40
    one.append([[event(77_777, user="new")]])
    assert other.histories({"new": None})["new"].events
    one.close()
    other.close()


def test_what_is_acknowledged_survives_a_kill(url, request):
    """Of the process; of PostgreSQL's server too."""
    server = request.getfixturevalue("postgres") if "://" in str(url) else None
    EventStore.open(url).close()
    for _ in range(1 if server else 2):
        acknowledged, there = kill(url, *([server.stop, server.start] if server else []))
        assert acknowledged <= there and len(there) % 5 == 0  # batches are whole


def test_a_locked_database_is_unavailable_and_then_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "_LOCK_SECONDS", 0.1)
    store = EventStore.open(tmp_path / "events.sqlite")
    other = sqlite3.connect(tmp_path / "events.sqlite", isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(StoreUnavailable, match="database is locked"):
        store.append([[event(1)]])
    assert store.histories({"7": None})["7"].events == []  # readers do not wait
    other.execute("rollback")
    other.close()
    assert store.append([[event(1)]]) == [Stored(1, 0, 0)]
    store.close()


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path):
    store = EventStore.open(tmp_path / "events.sqlite")

    @sa.event.listens_for(store._engine, "connect")
    def small(connection, record):
        connection.execute("pragma max_page_count=40").close()

    store._engine.dispose()
    kept = 0
    with pytest.raises(StoreUnavailable, match="no space left on the disk"):
        for n in range(1_000):
            store.append([[event(100 * n + m, song="s" * 500) for m in range(10)]])
            kept += 10
    assert kept and store.count() == kept
    store.close()


def test_a_server_that_goes_away(postgres):
    store = EventStore.open(postgres.new_database())
    store.append([[event(555_000)]])
    count = store.count()
    postgres.stop("fast")
    try:
        with pytest.raises(StoreUnavailable, match="postgresql:"):
            store.append([[event(555_001)]])
        with pytest.raises(StoreUnavailable):
            store.histories({"7": None})
    finally:
        postgres.start()
    assert store.append([[event(555_001)]]) == [Stored(1, 0, 0)] and store.count() == count + 1
    store.close()


def test_stores_that_cannot_be_opened(tmp_path):
    (tmp_path / "text.sqlite").write_text("this is no database, but text that is long enough to be read as one" * 20)
    (tmp_path / "old.sqlite").touch()
    old = EventStore.open(tmp_path / "old.sqlite")
    with old._writing() as connection:
        connection.exec_driver_sql("update music_map_facts set value = 99 where name = 'version'")
    old.close()
    for url, says in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "events.sqlite", "there is no folder"),
        (tmp_path / "text.sqlite", "not a database"),
        (tmp_path / "old.sqlite", "another version"),
        ("mysql://host/name", "mysql"),
        ("sqlite://", "names no file"),
        ("postgresql://a:b:c:d@@/", "URL"),
        ("postgresql://user:secret@127.0.0.1:1/name", r"user:\*\*\*@127.0.0.1:1/name"),
    ):
        with pytest.raises(UserError, match=says) as told:
            EventStore.open(url)
        assert "secret" not in str(told.value) and "\n" not in str(told.value)


def test_ids():
    assert id_of(7) == id_of("7") == "7"
    for bad, says in (("", "1 to"), ("x" * 1_025, "1025"), ("a\x00b", "control"), ("\ud800", "surrogate")):
        with pytest.raises(UserError, match=says):
            id_of(bad)


def test_one_schema():
    assert set(METADATA.tables) == {"music_map_events", "music_map_forgotten", "music_map_facts"}
    assert [column.name for column in EVENTS.columns][1:] == list(Event._fields)
