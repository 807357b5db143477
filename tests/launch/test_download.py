"""launch/download.py as a user runs it, against a loopback hub."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_hub
import numpy as np
import pytest

from music_map.raw.schema import pipeline_files

ROOT = Path(__file__).parents[2]
PATHS = pipeline_files("50m")


@pytest.fixture
def server():
    rng = np.random.default_rng(0)
    with fake_hub.serve({path: rng.bytes(100_000) for path in [*PATHS, "flat/50m/multi_event.parquet"]}) as server:
        yield server


def start(endpoint, *flags):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment = {**kept, "PYTHONPATH": str(ROOT), "NO_PROXY": "*", "HF_ENDPOINT": endpoint}
    command = [sys.executable, "launch/download.py", *flags]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(endpoint, *flags):
    process = start(endpoint, *flags)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return process.returncode, out, err


def test_lists_then_fetches_only_what_the_pipeline_reads(server, tmp_path):
    server.cuts["embeddings.parquet"] = [40_000]
    output = tmp_path / "raw"
    status, out, err = run(server.endpoint, "--size=50m", f"--output={output}", "--dry_run")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].split() == ["0.1", "MB", f"{output}/flat/50m/listens.parquet"]
    assert "0.8 MB  in total" in out
    assert not output.exists()

    status, out, err = run(server.endpoint, "--size=50m", f"--output={output}")
    assert status == 0, err
    assert "8 files fetched, 0 were there; hashes verified" in out
    files = [p for p in output.rglob("*.parquet") if p.is_file()]
    assert sorted(str(p.relative_to(output)) for p in files) == sorted(PATHS)
    assert all(p.read_bytes() == server.files[str(p.relative_to(output))] for p in files)
    assert [r.first_byte for r in server.transfers("embeddings.parquet")] == [None, 40_000]
    # Nothing of the hub library's own; our bar is for terminals, and for what takes longer.
    assert err == ""

    count = len(server.transfers())
    status, out, err = run(server.endpoint, "--size=50m", f"--output={output}")
    assert status == 0 and "0 files fetched, 8 were there" in out
    assert len(server.transfers()) == count


def test_without_network_says_which_files_to_put_where(tmp_path):
    endpoint = f"http://127.0.0.1:{fake_hub.closed_port()}"
    status, _, err = run(endpoint, "--size=500m", f"--output={tmp_path}")
    first, _, *lines = err.splitlines()
    assert status == 2
    assert first.startswith(f"error: {endpoint}: flat/500m/listens.parquet: the connection failed")
    assert lines == [
        f"  {endpoint}/datasets/yandex/yambda/resolve/main/{path} -> {tmp_path / path}"
        for path in pipeline_files("500m")
    ]


def test_without_network_but_with_all_files_says_so(server, tmp_path):
    for path in PATHS:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    status, _, err = run(f"http://127.0.0.1:{fake_hub.closed_port()}", f"--output={tmp_path}")
    assert status == 2 and "all files are in place; only their hashes could not be verified" in err


def test_an_interrupt_says_how_to_go_on(server, tmp_path):
    path = PATHS[0]
    server.stall[path] = 50_000
    process = start(server.endpoint, f"--output={tmp_path}")
    assert server.stalled.wait(60)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for p in tmp_path.glob(".download/*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "what has arrived is kept; the same command goes on from there" in err and "Traceback" not in err

    [part] = tmp_path.glob(".download/*.part")
    arrived = part.stat().st_size
    assert 0 < arrived <= 50_000
    server.stall.clear()
    status, _, err = run(server.endpoint, f"--output={tmp_path}")
    assert status == 0, err
    assert server.transfers(path)[-1].first_byte == arrived
    assert (tmp_path / path).read_bytes() == server.files[path]


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--size=50", "size"), ("--outptu=x", "unknown flag --outptu; did you mean --output?"), ("--output=", "--output")],
)
def test_wrong_flags_are_one_line(flag, message):
    status, out, err = run("http://127.0.0.1:9", flag)
    assert status == 2 and out == ""
    assert len(err.splitlines()) == 1 and err.startswith("error: ") and message in err
