"""launch/generate.py as a command."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import launch

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    return launch("generate", *arguments, check=False)


def one_line_error(result):
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def test_generates_then_is_up_to_date_then_refuses_then_overwrites(tmp_path):
    flags = ["--size=tiny", f"--output={tmp_path / 'raw'}"]
    first = run(*flags)
    assert first.returncode == 0, first.stderr
    for text in ("listens per user median", "recommended share of listens", "a second", "peak memory"):
        assert text in first.stdout
    listens = tmp_path / "raw" / "flat" / "tiny" / "listens.parquet"
    assert pq.read_metadata(listens).num_rows == 12_000
    before = listens.read_bytes(), listens.stat().st_mtime_ns

    second = run(*flags)
    assert second.returncode == 0 and "up to date" in second.stdout
    assert (listens.read_bytes(), listens.stat().st_mtime_ns) == before

    assert "--overwrite" in one_line_error(run(*flags, "--seed=7"))
    assert listens.read_bytes() == before[0]

    third = run(*flags, "--seed=7", "--num_listens=20000", "--overwrite")
    assert third.returncode == 0, third.stderr
    assert pq.read_metadata(listens).num_rows == 20_000


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--size=60m", "size"),
        ("--num_users=1", "--num_users=1"),
        ("--num_listens=many", "num_listens"),
        ("--seed=-2", "--seed=-2"),
        ("--output=", "--output"),
        ("--ouput=x", "--output"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, flag, named):
    assert named in one_line_error(run("--size=tiny", f"--output={tmp_path}", flag))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_generation_leaves_no_file_and_the_next_one_cleans_up(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "launch/generate.py", "--size=demo", "--num_listens=20000000", f"--output={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/flat/demo/listens.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    left = list(tmp_path.iterdir())
    assert all(path.name.startswith(".") for path in left) and len(left) == 2  # the files so far, and the lock
    assert run("--size=tiny", f"--output={tmp_path}").returncode == 0
    assert not any(path.exists() for path in left) and (tmp_path / "embeddings.parquet").exists()


def test_an_output_that_is_no_folder_is_one_line(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    assert str(path) in one_line_error(run("--size=tiny", f"--output={path}"))
