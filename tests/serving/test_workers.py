"""What workers of one port tell each other, and a service whose first worker cannot start."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from music_map.serving.workers import Notes, Worker

ROOT = Path(__file__).resolve().parents[2]


def test_notes_reach_the_others_in_order(tmp_path):
    path = tmp_path / "notes"
    path.write_text(json.dumps({"by": 1, "songs": [{"id": 7}]}) + "\n")
    notes = Notes(path)
    assert notes.earlier == [{"by": 1, "songs": [{"id": 7}]}] and notes.new() == []
    notes.post(reload=True)
    assert notes.new() == []  # its own
    assert Notes(path).earlier == notes.earlier
    with path.open("a") as file:
        file.write('{"by": 2, "reload": true}\n{"by": 3')
        file.flush()
        assert notes.new() == [{"by": 2, "reload": True}]  # a line is read when it is whole
        file.write("}\n")
    assert notes.new() == [{"by": 3}]


def test_a_process_without_a_parent_that_handed_over_is_no_worker():
    assert Worker.of_environment() is None


def test_where_the_first_worker_cannot_start_none_can(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "launch/serve.py", f"--workdir={tmp_path}", f"--port={port}", "--workers=3"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("error:") == 1 and "no config.json" in done.stderr
