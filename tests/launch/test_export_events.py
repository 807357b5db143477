"""Events in, a new model out: the service, the export of its events, training on them, and a reload."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from ask import ask
from commands import ENV, ROOT, fails, flags, heard, launch
from test_serve import free_port

pytest.importorskip("fastapi")


def until(found, process, seconds=120):
    """What `found()` returns, once it is something."""
    deadline = time.time() + seconds
    while True:
        try:
            if (result := found()) is not None:
                return result
        except OSError:
            pass
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.1)


def test_the_loop_closes(raw, trained, tmp_path):
    songs, table = heard(raw)
    link, port, base = tmp_path / "current", free_port(), trained[0]
    link.symlink_to(base / "work")
    command = [sys.executable, "launch/serve.py", f"--workdir={link}", f"--port={port}"]
    with subprocess.Popen(command, cwd=ROOT, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            health = until(lambda: ask(port, "GET", "/health")[1], process)
            assert ask(port, "POST", "/recommend", {"user": "zoë"})[0] == 422
            now = time.time()
            events = [
                {"id": f"z{n}", "user": "zoë", "song": songs[n % 6], "time": now - 60 * n, "played": 0.9}
                for n in range(20)
            ]
            assert ask(port, "POST", "/events", {"events": events}) == (
                200,
                {"stored": 20, "repeated": 0, "forgotten": 0},
            )
            recommended = ask(port, "POST", "/recommend", {"user": "zoë"})[1]["recommendations"]
            assert len(recommended) == 10
            artists = [artist for song in recommended for artist in song["artist_ids"]]
            new = {"songs": [{"id": 4_000_000_000, "artist": artists}]}
            assert [ask(port, "POST", "/songs", new)[0] for _ in range(2)] == [200, 200]
            assert ask(port, "POST", "/songs", {"songs": [{"id": 1, "audio": [float("nan")]}]})[0] == 422
            health |= {"songs": health["songs"] + 1}
            gone = table["uid"][0]
            assert ask(port, "DELETE", f"/users/{gone}") == (200, {"deleted": 0})
            assert ask(port, "POST", "/recommend", {"user": gone})[0] == 422

            done = launch("export_events", f"--workdir={link}", f"--output={tmp_path}/raw")
            assert "20 listens of the service and" in done.stdout and "1 new users, 0 new songs" in done.stdout
            users = pq.read_table(tmp_path / "raw/flat/tiny/user_ids.parquet").to_pydict()
            assert users["id"][-1] == "zoë"
            assert gone not in pq.read_table(tmp_path / "raw/flat/tiny/listens.parquet").to_pydict()["uid"]
            launch("train", *flags(tmp_path / "raw", tmp_path / "next", "--config.train.num_epochs=1"))
            told = launch("recommend", f"--workdir={tmp_path}/next/work", "--user=zoë", "--format=json").stdout
            assert len(json.loads(told)["recommendations"]) == 10

            # A broken run changes nothing; the good one takes the place of the old.
            link.unlink()
            link.symlink_to(tmp_path)
            status, body = ask(port, "POST", "/reload")
            assert status == 422 and "still answers" in body["detail"] and "config.json" in body["detail"]
            assert ask(port, "GET", "/health")[1] == health
            link.unlink()
            link.symlink_to(tmp_path / "next/work")
            os.kill(process.pid, signal.SIGHUP)
            until(lambda: ask(port, "GET", "/health")[1]["step"] != health["step"] or None, process)
            assert ask(port, "GET", "/users/zo%C3%AB")[1]["in_model"]
            assert len(ask(port, "POST", "/recommend", {"user": "zoë"})[1]["recommendations"]) == 10
            assert ask(port, "POST", "/recommend", {"user": gone})[0] == 422
            assert ask(port, "POST", "/similar", {"song": 4_000_000_000})[0] == 200
        finally:
            process.kill()
        assert b"Traceback" not in process.stderr.read()


def test_export_events_names_what_is_wrong(tmp_path, trained):
    run = f"--workdir={trained[0]}/work"
    fails("export_events", run, f"--output={tmp_path}/out", says=["work.events.sqlite", "no such file"])
    fails("export_events", run, f"--output={tmp_path}/out", "--events=mysql://x", says=["--events", "mysql"])
    fails("export_events", run, f"--output={tmp_path}/out", "--size=a/b", says=["--size=a/b"])
    fails("serve", run, "--port=1", "--events=", says=["--"])
