"""Two processes on one database see the same history: on one SQLite file, and on one PostgreSQL database."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ask import ask

pytest.importorskip("fastapi")

HERE = Path(__file__).resolve().parent
KINDS = ["sqlite", "postgres"]


@pytest.fixture(scope="module")
def services(request, tmp_path_factory):
    """The two ports of each kind of database."""
    urls = [str(tmp_path_factory.mktemp("events") / "events.sqlite")]
    with contextlib.suppress(pytest.skip.Exception):
        urls.append(request.getfixturevalue("postgres").new_database())
    env = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, HERE / "process.py", *urls]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=HERE, env=env, **pipes) for _ in range(2)]
    ports = [process.stdout.readline().split() for process in processes]
    yield dict(zip(KINDS, zip(*ports, strict=True), strict=False))
    for process in processes:
        process.communicate("")


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_share_a_database(services, kind):
    if kind not in services:
        pytest.skip("no PostgreSQL server on this machine")
    one, other = services[kind]
    now, stored = int(time.time()), []

    def event(number, song):
        return {"id": f"{kind}-{number}", "user": "new", "song": song % 300, "time": now}

    def post(port):
        """Each batch has five events that both send, and five of its own."""
        for n in range(0, 100, 5):
            mine = [event(m, m) for m in range(n, n + 5)] + [event(f"{port}-{m}", m) for m in range(n, n + 5)]
            status, body = ask(port, "POST", "/events", {"events": mine})
            stored.append((status, body["stored"] + body["repeated"], body["stored"]))

    threads = [threading.Thread(target=post, args=(port,)) for port in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(status, count) for status, count, _ in stored} == {(200, 10)}
    assert sum(new for *_, new in stored) == 300
    for port in (one, other):
        assert ask(port, "GET", "/users/new")[1]["events"] == {"listen": 300}
    asked = {"user": "new", "k": 5}
    before = ask(one, "POST", "/recommend", asked)
    assert before[0] == 200 and before == ask(other, "POST", "/recommend", asked)
    # What one takes in or forgets the other knows at the next request.
    more = [event(f"more-{n}", 250 + n) for n in range(50)]
    assert ask(one, "POST", "/events", {"events": more})[0] == 200
    assert ask(other, "POST", "/recommend", asked) != before
    assert ask(other, "DELETE", "/users/new") == (200, {"deleted": 350})
    assert ask(one, "POST", "/recommend", asked)[0] == 422
