"""The application: answers, limits, host names and tokens, batches under concurrency."""

import asyncio
import json
import time
from html.parser import HTMLParser

import pytest
from generated_recommender import generated

fastapi = pytest.importorskip("fastapi")
testclient = pytest.importorskip("fastapi.testclient")

from music_map.errors import UserError  # noqa: E402
from music_map.retrieval.filters import Filters  # noqa: E402
from music_map.retrieval.recommender import Query  # noqa: E402
from music_map.serving.batcher import MOST_HEAVY, Ask, Batcher, Overloaded  # noqa: E402
from music_map.serving.bodies import MOST_DIVERSE_K, MOST_K  # noqa: E402
from music_map.serving.service import create_app  # noqa: E402

HOST = "http://localhost:8000"


@pytest.fixture(scope="module")
def recommender():
    return generated()


@pytest.fixture(scope="module")
def client(recommender):
    with testclient.TestClient(create_app(recommender), base_url=HOST) as client:
        yield client


def test_recommend_equals_the_library(client, recommender):
    songs = recommender.export.item_ids[:3].tolist()
    found = client.post("/recommend", json={"songs": [*songs, 4_294_967_295], "k": 5})
    assert found.status_code == 200
    wanted = recommender.recommend(songs, k=5)
    answer = found.json()
    assert [r["item_id"] for r in answer["recommendations"]] == [r.item_id for r in wanted.recommendations]
    assert "unknown song 4294967295" in answer["warnings"][0]
    similar = client.post("/similar", json={"song": songs[0], "k": 3}).json()
    assert [r["item_id"] for r in similar["recommendations"]] == [
        r.item_id for r in recommender.similar(songs[0], k=3).recommendations
    ]


def test_filters_of_a_request(client, recommender):
    songs = recommender.export.item_ids[:2].tolist()
    body = {"songs": songs, "k": 5, "filters": {"deny": recommender.export.item_ids[2:10].tolist(), "diversity": 0.2}}
    found = client.post("/recommend", json=body).json()["recommendations"]
    assert len(found) == 5 and not {r["item_id"] for r in found} & set(body["filters"]["deny"])


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 422, "empty playlist"),
        ({"songs": [4_294_967_295]}, 422, "unknown song"),
        ({"songs": [1], "k": 0}, 422, "k"),
        ({"songs": [1], "k": MOST_K + 1}, 422, "k"),
        ({"songs": list(range(2000))}, 422, "songs"),
        ({"user": -1}, 422, "unknown user -1"),
        ({"songs": ["x"]}, 422, "unknown song 'x'"),
        ({"songs": [None]}, 422, "songs.0"),
        ({"songs": [1.5]}, 422, "songs.0"),
        ({"songs": ["x" * 2000]}, 422, "songs.0"),
        ({"user": {}}, 422, "user"),
        ({"songs": [True]}, 422, "songs.0"),
        ({"songs": [2**32]}, 422, "unknown song 4294967296"),
        ({"songs": [9_999], "dislikes": [2**70]}, 422, "unknown disliked song 1180591620717411303424"),
        ({"songs": [1], "filters": {"deny": [[]]}}, 422, "filters.deny.0"),
        ({"songs": [1], "filters": {"diversity": float("nan")}}, 422, "filters.diversity"),
        ({"songs": [1], "reasons": 11}, 422, "reasons"),
        ({"songs": [1], "typo": 1}, 422, "typo"),
        ({"songs": [1], "filters": {"min_listeners": 10**9}}, 422, "min_listeners"),
    ],
)
def test_bad_requests_say_what_is_wrong(client, body, status, says):
    # By hand: the client's own encoder refuses NaN, which others send.
    found = client.post("/recommend", content=json.dumps(body), headers={"content-type": "application/json"})
    assert found.status_code == status and says in found.json()["detail"]


def test_a_large_request_is_refused(client):
    found = client.post("/recommend", content=b" " * 70_000, headers={"content-type": "application/json"})
    assert found.status_code == 413


def test_health_metrics_and_openapi(client):
    assert client.get("/health").json()["status"] == "ok"
    assert 'music_map_requests_total{path="/health",status="200"}' in client.get("/metrics").text
    assert 'status="422"' in client.get("/metrics").text and 'status="500"' not in client.get("/metrics").text
    assert {"/recommend", "/similar", "/health"} <= client.get("/openapi.json").json()["paths"].keys()
    assert client.get("/nothing").status_code == 404


def test_unknown_ids_are_named_and_the_rest_is_answered(client):
    answer = client.post("/recommend", json={"songs": [1, "nobody\x1b[31m"], "user": 99, "dislikes": [777]}).json()
    assert len(answer["recommendations"]) == 10
    told = "; ".join(answer["warnings"])
    assert "unknown song 'nobody\\x1b[31m'" in told and "\x1b" not in told
    assert "unknown user 99" in told and "unknown disliked song 777" in told


def test_own_ids_are_texts():
    with testclient.TestClient(create_app(generated(own=True)), base_url=HOST) as client:
        answer = client.post("/recommend", json={"songs": ["song \x1b[2J 3", 3], "user": "user 1"}).json()
        assert len(answer["recommendations"]) == 10 and "unknown song 3" in answer["warnings"][0]
        assert all(r["item_id"].startswith("song \x1b[2J ") for r in answer["recommendations"])
        assert client.post("/recommend", json={"user": "user 1"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8000", 200), ("LocalHost:1", 200), ("127.0.0.1:8000", 200), ("[::1]", 200),
        ("[::1]:8000", 200), ("attacker.example", 400), ("localhost.attacker.example", 400), ("", 400),
        ("127.0.0.2", 400), ("localhost:8000:evil", 400), ("attacker.example:localhost", 400),
    ],
)  # fmt: skip
def test_only_names_of_this_service_are_answered(client, host, status):
    for path in ("/health", "/docs", "/metrics"):
        assert client.get(path, headers={"host": host}).status_code == status


def test_more_names_can_be_allowed(recommender):
    app = create_app(recommender, allowed_hosts=("music.example",), any_address=True)
    with testclient.TestClient(app) as client:
        for host, status in (("music.example:80", 200), ("10.1.2.3", 200), ("[fe80::1]:80", 200), ("localhost", 400)):
            assert client.get("/health", headers={"host": host}).status_code == status


def test_a_token_is_asked_for(recommender):
    with testclient.TestClient(create_app(recommender, token="a" * 20), base_url=HOST) as client:
        for given in ({}, {"authorization": "Bearer b"}, {"authorization": "a" * 20}, {"authorization": "Bearer"}):
            for answer in (client.post("/recommend", json={"songs": [1]}, headers=given), client.get("/metrics")):
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        good = {"authorization": "bearer " + "a" * 20}
        assert client.post("/recommend", json={"songs": [1]}, headers=good).status_code == 200
        assert client.get("/health").status_code == 200 and client.get("/docs").status_code == 200


@pytest.mark.parametrize(
    "body",
    [b'{"songs": [' * 5_000, b'{"songs": [' + b"9" * 6_000 + b"]}", b'{"songs": ["\\ud800"]}', b"\xff", b"", b"null"],
)
def test_strange_bodies_are_refused(client, body):
    answer = client.post("/recommend", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["detail"]


def test_sizes_are_bounded(client):
    assert client.get("/health", headers={"x-large": "x" * 17_000}).status_code == 431
    assert client.get("/health", headers={"content-length": "9" * 5_000}).status_code in (413, 431)
    assert client.post("/recommend", content=iter([b"{}"])).status_code == 413  # chunked
    body = {"songs": [1], "k": MOST_DIVERSE_K + 1, "filters": {"diversity": 0.1}}
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 422 and f"at most {MOST_DIVERSE_K}" in answer.json()["detail"]


class _References(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.inline = [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.found += [given[name] for name in ("src", "href") if name in given]
        self.inline += tag == "style" or (tag == "script" and "src" not in given) or "style" in given


def test_the_page_of_the_schema_needs_no_other_host(client):
    page = client.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    references = _References(page.text)
    assert references.found and not references.inline
    for path in references.found:
        assert path.startswith("/") and not path.startswith("//")
        part = client.get(path)
        assert part.status_code == 200 and "http://" not in part.text and "https://" not in part.text


def answer_numbers(queries, k, filters, reasons):
    time.sleep(0.02)
    if k == 13:
        raise RuntimeError("broken")
    return [UserError("no") if q.songs == (0,) else q.songs for q in queries]


def run(ask, answer=answer_numbers):
    """What `ask(batcher)` returns, with a Batcher that runs."""

    async def running():
        batcher = Batcher(answer)
        batcher.start()
        try:
            return await ask(batcher)
        finally:
            await batcher.stop()

    return asyncio.run(running())


def light(n, k=10, **more):
    return Ask(Query((n,)), k, Filters(), 3, **more)


def test_concurrent_requests_share_batches_and_errors_stay_apart():
    sizes = []

    def answer(queries, *shared):
        sizes.append(len(queries))
        return answer_numbers(queries, *shared)

    async def ask(batcher):
        asked = [batcher.ask(light(n, 13 if n == 99 else 10)) for n in range(100)]
        return await asyncio.gather(*asked, return_exceptions=True)

    found = run(ask, answer)
    assert found[1:99] == [(n,) for n in range(1, 99)]
    assert isinstance(found[0], UserError) and isinstance(found[99], RuntimeError)
    assert len(sizes) < 10 and sum(sizes) == 100


def test_what_is_heavy():
    assert not light(1).heavy and not light(1, k=100).heavy
    assert light(1, k=101).heavy and Ask(Query(tuple(range(200))), 10, Filters(), 3).heavy
    assert Ask(Query((1,)), 50, Filters(diversity=0.1), 3).heavy
    assert Ask(Query((1,)), 10, Filters(deny=tuple(range(2_000))), 3).heavy


def test_light_requests_do_not_wait_for_heavy_ones_which_are_bounded():
    ended = []

    def answer(queries, k, filters, reasons):
        time.sleep(0.2 if k > 100 else 0.001)
        return [k] * len(queries)

    async def ask(batcher):
        async def one(n, k):
            await batcher.ask(light(n, k))
            ended.append(k)

        heavy = [asyncio.create_task(one(n, 1_000)) for n in range(3)]
        await asyncio.sleep(0)
        for n in range(10):
            await one(n, 10)
        await asyncio.gather(*heavy)
        many = [batcher.ask(light(n, 1_000, gone=lambda: True)) for n in range(MOST_HEAVY + 40)]
        return await asyncio.gather(*many, return_exceptions=True)

    found = run(ask, answer)
    assert ended == [10] * 10 + [1_000] * 3
    assert sum("wait already" in str(e) for e in found) == 40


def test_no_work_for_clients_that_have_left_and_none_after_the_grace():
    worked = []

    def answer(queries, *shared):
        worked.extend(q.songs[0] for q in queries)
        time.sleep(0.1)
        return [q.songs for q in queries]

    async def ask(batcher):
        first = asyncio.create_task(batcher.ask(light(0)))
        await asyncio.sleep(0.05)
        left = asyncio.create_task(batcher.ask(light(1, gone=lambda: True)))
        assert await first == (0,)
        second = asyncio.create_task(batcher.ask(light(2)))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(batcher.ask(light(3)))
        await asyncio.sleep(0)
        batcher.close()
        return await asyncio.gather(left, second, waiting, batcher.ask(light(4)), return_exceptions=True)

    left, second, waiting, late = run(ask, answer)
    assert second == (2,) and all(isinstance(e, Overloaded) for e in (left, waiting, late))
    assert worked == [0, 2]
