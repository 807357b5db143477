"""launch/serve.py as a process, and what it refuses."""

import contextlib
import functools
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from commands import ENV, ROOT, fails, launch

pytest.importorskip("fastapi")


@pytest.fixture
def taken():
    """A port that something listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        yield s.getsockname()[1]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask(port, body=None, **headers):
    """Status, headers and parsed body."""
    data = None if body is None else json.dumps(body).encode()
    path = "health" if body is None else "recommend"
    headers = {"content-type": "application/json"} | headers
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data, headers), timeout=10
        ) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.headers, json.load(e)


def ask_worker(port, token, is_wanted, method, path, body=None):
    """Status and body of a request to a worker of which `is_wanted` its process: the system chooses who accepts."""
    headers, deadline = {"content-type": "application/json", "authorization": f"Bearer {token}"}, time.time() + 60
    while time.time() < deadline:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            # A connection stays with the worker that has accepted it.
            connection.request("GET", "/health")
            process = json.load(connection.getresponse())["process"]
            if is_wanted(process):
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                answer = connection.getresponse()
                return answer.status, json.load(answer)
        time.sleep(0.05)
    raise TimeoutError("no such worker")


def wait_until(is_so, seconds=60):
    deadline = time.time() + seconds
    while not is_so():
        assert time.time() < deadline
        time.sleep(0.1)


def test_workers_serve_one_port_and_end_at_a_signal_with_status_0(trained):
    port, token = free_port(), "s" * 32
    command = [sys.executable, "launch/serve.py", f"--workdir={trained[0]}/work", f"--port={port}", "--host=0.0.0.0",
               "--workers=2"]  # fmt: skip
    env = ENV | {"PYTHONUNBUFFERED": "1", "MUSIC_MAP_TOKEN": token}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.time() + 120
            while True:
                try:
                    status, headers, body = ask(port)
                    break
                except OSError:
                    assert process.poll() is None and time.time() < deadline
                    time.sleep(0.2)
            assert status == 200 and body["status"] == "ok" and "server" not in headers
            assert ask(port, {"songs": ["no such song"]})[0] == 401
            bearer = {"authorization": f"Bearer {token}"}
            assert ask(port, {"songs": ["no such song"]}, **bearer)[0] == 422
            assert ask(port, {"songs": []}, host="attacker.example", **bearer)[0] == 400
            first = body["process"]
            one = functools.partial(ask_worker, port, token, lambda process: process == first)
            other = functools.partial(ask_worker, port, token, lambda process: process != first)
            # What a user did at one counts at the other at once.
            song = int(np.load(f"{trained[0]}/work/embeddings/item_ids.npy")[0])
            event = {"id": "e1", "user": "new", "song": song, "time": int(time.time())}
            assert other("POST", "/recommend", {"user": "new"})[0] == 422
            assert one("POST", "/events", {"events": [event]})[0] == 200
            status, found = other("POST", "/recommend", {"user": "new"})
            assert status == 200 and one("POST", "/recommend", {"user": "new"}) == (200, found)
            # So do new songs and a reload that one of them was told.
            artists = [artist for song in found["recommendations"] for artist in song["artist_ids"]]
            new = {"songs": [{"id": 4_000_000_000, "artist": artists}]}
            assert one("POST", "/songs", new)[0] == 200
            wait_until(lambda: other("POST", "/similar", {"song": 4_000_000_000})[0] == 200)

            def since():
                return [worker("GET", "/health")[1]["since"] for worker in (one, other)]

            before = since()
            assert one("POST", "/reload")[0] == 200
            wait_until(lambda: all(a > b for a, b in zip(since(), before, strict=True)))
            # A signal to the parent reaches all.
            before = since()
            os.kill(process.pid, signal.SIGHUP)
            wait_until(lambda: all(a > b for a, b in zip(since(), before, strict=True)))
            assert all(worker("POST", "/similar", {"song": 4_000_000_000})[0] == 200 for worker in (one, other))
            os.kill(process.pid, signal.SIGTERM)
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0 and err == "" and out.count(f"http://0.0.0.0:{port}/docs") == 2
        finally:
            process.kill()


def test_serve_names_what_is_wrong(tmp_path, trained, taken, monkeypatch):
    fails("serve", f"--workdir={tmp_path}", f"--port={free_port()}", says=["no config.json"])
    run = f"--workdir={trained[0]}/work"
    done = launch("serve", run, f"--port={taken}", check=False)
    assert done.returncode == 2 and "http" not in done.stdout
    assert f"127.0.0.1:{taken}: Address already in use" in done.stderr and done.stderr.count("\n") == 1
    fails("serve", run, "--host=", says=["--host", "empty"])
    fails("serve", run, "--host=0.0.0.0", says=["--host=0.0.0.0", "MUSIC_MAP_TOKEN"])
    fails("serve", run, "--host=no.such.host.invalid", says=["no.such.host.invalid"])


def test_evaluate_retrieval(tmp_path, trained):
    output = tmp_path / "rows.json"
    done = launch("evaluate_retrieval", f"--workdir={trained[0]}/work", f"--output={output}", "--num_queries=60",
                  "--recall_targets=0.9", "--k=20")  # fmt: skip
    assert "queries_per_second" in done.stdout
    rows = json.loads(output.read_text())["rows"]
    assert rows[0]["recall@20"] == pytest.approx(1.0) and np.isfinite(rows[0]["p99_ms"])
    fails("evaluate_retrieval", f"--workdir={trained[0]}/work", f"--output={output}", "--recall_targets=high",
          says=["--recall_targets=high"])  # fmt: skip
