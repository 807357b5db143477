"""The service with a store of events: what it takes in, refuses, answers and forgets; a new model beside the old."""

import gc
import json
import threading
import time
import weakref

import pytest
from generated_recommender import generated

testclient = pytest.importorskip("fastapi.testclient")

from music_map.errors import DamagedFileError, UserError  # noqa: E402
from music_map.events.store import EventStore, StoreUnavailable  # noqa: E402
from music_map.map.page import block_of  # noqa: E402
from music_map.map.payload import unpack  # noqa: E402
from music_map.serving.bodies import MOST_EVENTS  # noqa: E402
from music_map.serving.service import create_app  # noqa: E402

HOST = "http://localhost:8000"
NOW = int(time.time())


@pytest.fixture(scope="module")
def recommender():
    return generated()


@pytest.fixture
def store(tmp_path):
    found = EventStore.open(tmp_path / "events.sqlite")
    yield found
    found.close()


@pytest.fixture
def client(recommender, store):
    with testclient.TestClient(create_app(recommender, store=store), base_url=HOST) as client:
        yield client


def event(number=1, **changes):
    return {"id": f"e{number}", "user": "new", "song": 5, "kind": "listen", "time": NOW, "played": 0.9} | changes


def songs_of(client, **body):
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return [song["item_id"] for song in answer.json()["recommendations"]]


def test_what_a_user_does_counts_at_once(client):
    assert client.post("/recommend", json={"user": "new"}).status_code == 422
    batch = {
        "events": [event(1), event(2, song="9", time="2026-01-31T12:00:00+01:00"), event(3, kind="like", played=None)]
    }
    assert client.post("/events", json=batch).json() == {"stored": 3, "repeated": 0, "forgotten": 0}
    assert client.post("/events", json=batch).json() == {"stored": 0, "repeated": 3, "forgotten": 0}
    first = songs_of(client, user="new")
    assert len(first) == 10
    client.post("/events", json={"events": [event(n, song=n, time=NOW - n) for n in range(10, 20)]})
    assert songs_of(client, user="new") != first
    found = client.get("/users/new").json()
    assert found["events"] == {"listen": 12, "like": 1} and found["songs"] == 12 and not found["in_model"]
    assert client.get("/users/7").json() == {
        "user": "7", "in_model": True, "events": {}, "songs": 0, "first": None, "last": None, "latest": []
    }  # fmt: skip
    assert client.get("/users/new", params={"latest": 4}).json()["latest"] == [5, 10, 11, 12]
    assert client.get("/users/new", params={"latest": -1}).status_code == 422
    assert client.get("/users/nobody%2Felse").status_code == 404
    assert 'music_map_events_total{outcome="stored"} 13.0' in client.get("/metrics").text
    assert 'path="/users"' in client.get("/metrics").text


def test_a_deleted_user_is_unknown(client):
    plain = songs_of(client, user=7)
    dislike = event(2, user="7", song=plain[0], kind="dislike", played=None)
    client.post("/events", json={"events": [event(1, user=7), dislike]})
    assert plain[0] not in songs_of(client, user=7)
    assert client.delete("/users/7").json() == {"deleted": 2}
    answer = client.post("/recommend", json={"user": 7})
    assert answer.status_code == 422 and "unknown user 7" in answer.json()["detail"]
    assert client.get("/users/7").status_code == 404
    answer = client.post("/recommend", json={"user": 7, "songs": [1]}).json()
    assert "unknown user 7" in answer["warnings"][0]
    assert songs_of(client, user=7, songs=[1]) == songs_of(client, songs=[1])
    # Devices send again what they did before; the user may begin anew.
    assert client.post("/events", json={"events": [event(1, user=7)]}).json()["forgotten"] == 1
    client.post("/events", json={"events": [event(9, user=7, time=time.time() + 5)]})
    client.post("/events", json={"events": [event(10, user="other", time=time.time() + 5)]})
    assert songs_of(client, user=7) == songs_of(client, user="other")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"time": NOW + 1_000}, "events.1.time: lies in the future"),
        ({"time": 1000 * NOW}, "are these milliseconds?"),
        ({"time": -1}, "events.1.time: lies before 1970"),
        ({"time": float("nan")}, "events.1.time: must be seconds"),
        ({"time": 10**400}, "events.1.time: must be seconds"),
        ({"time": True}, "events.1.time: must be seconds"),
        ({"time": "yesterday"}, "events.1.time: must be seconds"),
        ({"time": "2026-01-31T12:00:00"}, "with a zone"),
        ({"time": None}, "events.1.time: must be seconds"),
        ({"played": -0.1}, "events.1.played: Input should be greater than or equal to 0"),
        ({"played": 90}, "events.1.played: Input should be less than or equal to 1"),
        ({"played": float("inf")}, "events.1.played"),
        ({"played": "0.5"}, "events.1.played"),
        ({"kind": "like"}, "played: only a listen has a share, not a like"),
        ({"kind": "skip"}, "events.1.kind"),
        ({"id": "x" * 129}, "events.1.id: must have 1 to 128 characters, not 129"),
        ({"id": ""}, "events.1.id: must have 1 to 128"),
        ({"id": "a\x00b"}, "events.1.id: has a control character"),
        ({"user": "\ud800"}, "events.1.user: has a control character or half of a surrogate pair"),
        ({"song": "x" * 1_025}, "events.1.song: must have 1 to 1024"),
        ({"song": 1.5}, "events.1.song: must be an id"),
        ({"song": 10**1_000}, "events.1.song: must have"),
        ({"user": True}, "events.1.user: must be an id"),
        ({"user": None}, "events.1.user: must be an id"),
        ({"more": 1}, "events.1.more"),
    ],
)
def test_bad_events_are_named_and_nothing_is_stored(client, store, wrong, says):
    body = json.dumps({"events": [event(1), event(2, **wrong), event(3)]})
    found = client.post("/events", content=body, headers={"content-type": "application/json"})
    assert found.status_code == 422 and says in found.json()["detail"], found.text
    assert "\n" not in found.json()["detail"] and len(found.json()["detail"]) < 300
    assert store.count() == 0


def test_bad_batches(client, store):
    many = client.post("/events", json={"events": [event(n) for n in range(MOST_EVENTS + 1)]})
    assert many.status_code == 422 and f"at most {MOST_EVENTS}" in many.json()["detail"]
    client.post("/events", json={"events": [event(1)]})
    other = client.post("/events", json={"events": [event(2), event(1, song=6)]})
    assert other.status_code == 409 and "events.1.id: 'e1' is another event" in other.json()["detail"]
    deep = client.post("/events", content=b'{"events": ' + b"[" * 100_000, headers={"content-type": "application/json"})
    assert deep.status_code in (400, 422)
    assert client.post("/events", content=b"x" * 2**20 + b"x").status_code == 413
    assert store.count() == 1
    assert client.post("/events", json={"events": []}).json()["stored"] == 0


def test_pages_of_other_hosts_may_not_write(client):
    for origin, status in (("http://attacker.example", 403), ("null", 403), (HOST, 200)):
        answer = client.post("/events", json={"events": [event(1)]}, headers={"origin": origin})
        assert answer.status_code == status


def test_a_database_that_is_away_is_503_and_songs_are_answered(client, store, monkeypatch):
    def away(*args):
        raise StoreUnavailable("events.sqlite: the server is away")

    for name in ("append", "histories", "profile", "forget"):
        monkeypatch.setattr(store, name, away)
    answers = [
        client.get("/users/7"),
        client.delete("/users/7"),
    ]
    monkeypatch.undo()
    for answer in answers:
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert answer.json()["detail"] == "events.sqlite: the server is away"


def test_a_store_that_cannot_be_written(recommender, tmp_path):
    """Lines hold the store's methods: the database itself is taken away."""
    store = EventStore.open(tmp_path / "events.sqlite")
    with testclient.TestClient(create_app(recommender, store=store), base_url=HOST) as client:
        client.post("/events", json={"events": [event(1)]})
        with store._writing() as connection:
            connection.exec_driver_sql("alter table music_map_events rename to hidden")
        for answer in (
            client.post("/events", json={"events": [event(2)]}),
            client.post("/recommend", json={"user": 7}),
        ):
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            assert "events.sqlite: no such table" in answer.json()["detail"]
        assert len(songs_of(client, songs=[1])) == 10
        with store._writing() as connection:
            connection.exec_driver_sql("alter table hidden rename to music_map_events")
        assert client.post("/events", json={"events": [event(2)]}).json()["stored"] == 1
    store.close()


def test_two_services_on_one_database(recommender, tmp_path):
    stores = [EventStore.open(tmp_path / "events.sqlite") for _ in range(2)]
    apps = [create_app(recommender, store=store) for store in stores]
    with testclient.TestClient(apps[0], base_url=HOST) as one, testclient.TestClient(apps[1], base_url=HOST) as other:
        one.post("/events", json={"events": [event(1)]})
        assert songs_of(other, user="new") == songs_of(one, user="new")
        other.delete("/users/new")
        assert one.post("/recommend", json={"user": "new"}).status_code == 422
    for store in stores:
        store.close()


def test_a_new_model_takes_the_place_of_the_old_under_load(store):
    """Every request is answered; a broken run leaves the old one; the old one is freed."""
    old, new = generated(), generated(own=True)
    new.warm = old.warm = lambda: None  # compiling is not what is tested
    waiting, broken = [new], [DamagedFileError("embeddings/users.npy: damaged")]

    def load():
        if broken:
            raise broken.pop()
        return waiting.pop()

    app = create_app(old, store=store, load=load)
    gone = weakref.ref(old)
    del old
    statuses, end = [], threading.Event()

    def ask(client):
        while not end.is_set():
            statuses.append(client.post("/similar", json={"song": 1}).status_code)

    with testclient.TestClient(app, base_url=HOST) as client:
        answer = client.post("/reload")
        assert answer.status_code == 422 and "still answers: embeddings/users.npy: damaged" in answer.json()["detail"]
        asking = threading.Thread(target=ask, args=(client,))
        asking.start()
        while len(statuses) < 20:
            time.sleep(0.01)
        before = len(statuses)
        answer = client.post("/reload")
        assert answer.status_code == 200 and answer.json()["songs"] == 300
        end.set()
        asking.join()
        assert set(statuses[:before]) == {200} and set(statuses) <= {200, 422}  # 1 is no song of the new model
        assert songs_of(client, songs=["song \x1b[2J 3"])
    del new
    gc.collect()
    assert gone() is None


def test_the_token_is_the_password_of_a_page(recommender):
    with testclient.TestClient(create_app(recommender, token="a" * 20), base_url=HOST) as client:
        assert client.get("/").headers["www-authenticate"].startswith("Basic")
        assert client.get("/metrics", auth=("anybody", "a" * 20)).status_code == 200
        assert client.get("/metrics", auth=("a" * 20, "anybody")).status_code == 401
        assert client.get("/metrics", headers={"authorization": "Basic ?"}).status_code == 401


def test_the_map_asks_the_service_and_is_drawn_again_for_a_new_model(tmp_path):
    old, new = generated(), generated(own=True)
    new.warm = lambda: None
    with testclient.TestClient(create_app(old, load=lambda: new), base_url=HOST) as client:
        page = client.get("/")
        assert page.headers["content-security-policy"] == "frame-ancestors 'none'"
        arrays, meta = unpack(block_of(page.text, source="/"), source="/")
        assert meta["service"] and "codes" not in arrays and "connect-src 'self'" in page.text
        assert client.get("/").text == page.text
        client.post("/reload")
        assert "song " in str(unpack(block_of(client.get("/").text, source="/"), source="/")[1])
    (tmp_path / "map.html").write_text("<html>")
    for path, says in ((tmp_path / "map.html", "map.html"), (tmp_path / "no.html", "no such file")):
        with pytest.raises(UserError, match=says):
            create_app(old, map_page=path)
