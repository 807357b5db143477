"""The HTTP service: answers, limits, batches under concurrency, and the process itself."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from commands import ENV, ROOT, fails, launch

fastapi = pytest.importorskip("fastapi")
testclient = pytest.importorskip("fastapi.testclient")

from music_map.errors import UserError  # noqa: E402
from music_map.retrieval.filters import Filters  # noqa: E402
from music_map.retrieval.recommender import Query, Recommender  # noqa: E402
from music_map.serving.service import MOST_K, Ask, Batcher, create_app  # noqa: E402


@pytest.fixture(scope="module")
def recommender(trained):
    return Recommender.load(trained[0] / "work")


@pytest.fixture(scope="module")
def client(recommender):
    with testclient.TestClient(create_app(recommender)) as client:
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
        ({"songs": [1], "user": -1}, 422, "unknown user -1"),
        ({"songs": ["x"]}, 422, "unknown song 'x'"),
        ({"songs": [None]}, 422, "songs.0"),
        ({"songs": [1.5]}, 422, "songs.0"),
        ({"songs": ["x" * 2000]}, 422, "songs.0"),
        ({"user": {}}, 422, "user"),
        ({"songs": [True]}, 422, "songs.0"),
        ({"songs": [2**32]}, 422, "unknown song 4294967296"),
        ({"songs": [1], "dislikes": [2**70]}, 422, "unknown disliked song 1180591620717411303424"),
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


def test_concurrent_requests_share_batches_and_errors_stay_apart():
    sizes = []

    def answer(queries, k, filters, reasons):
        sizes.append(len(queries))
        time.sleep(0.02)
        if k == 13:
            raise RuntimeError("broken")
        return [UserError("no") if q.songs == (0,) else q.songs for q in queries]

    async def run():
        batcher = Batcher(answer)
        batcher.start()
        asked = [batcher.ask(Ask(Query((n,)), 13 if n == 99 else 10, Filters(), 3)) for n in range(100)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        await batcher.stop()
        return found

    found = asyncio.run(run())
    assert found[1:99] == [(n,) for n in range(1, 99)]
    assert isinstance(found[0], UserError) and isinstance(found[99], RuntimeError)
    assert len(sizes) < 10 and sum(sizes) == 100


def test_the_process_serves_on_loopback_and_stops_at_a_signal(trained):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "launch/serve.py", f"--workdir={trained[0]}/work", f"--port={port}"]
    process = subprocess.Popen(command, cwd=ROOT, env=ENV | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE)
    try:
        deadline = time.time() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
                    assert json.load(response)["status"] == "ok"
                break
            except OSError:
                assert process.poll() is None and time.time() < deadline
                time.sleep(0.3)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.stdout.close()


def test_serve_and_evaluate_retrieval_name_what_is_wrong(tmp_path, trained):
    fails("serve", f"--workdir={tmp_path}", says=["no config.json"])
    output = tmp_path / "rows.json"
    done = launch("evaluate_retrieval", f"--workdir={trained[0]}/work", f"--output={output}", "--num_queries=60",
                  "--recall_targets=0.9", "--k=20")  # fmt: skip
    assert "queries_per_second" in done.stdout
    rows = json.loads(output.read_text())["rows"]
    assert rows[0]["recall@20"] == pytest.approx(1.0) and np.isfinite(rows[0]["p99_ms"])
    fails("evaluate_retrieval", f"--workdir={trained[0]}/work", f"--output={output}", "--recall_targets=high",
          says=["--recall_targets=high"])  # fmt: skip
