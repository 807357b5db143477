"""The commands as a user runs them: processes of their own, from the repository's root."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
ENV = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}


@functools.cache
def _forks():
    """The process of forks.py."""
    command = [sys.executable, Path(__file__).with_name("forks.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, env=ENV, text=True, **pipes)
    atexit.register(process.terminate)
    return process


def launch(name, *args, check=True):
    """Runs a command to its end, in a fork of a process that has imported what commands import."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        asked = {"command": [f"launch/{name}.py", *map(str, args)], "out": str(out), "err": str(err)}
        print(json.dumps(asked), file=_forks().stdin, flush=True)
        status = int(_forks().stdout.readline())
        done = subprocess.CompletedProcess(asked["command"], status, out.read_text(), err.read_text())
    if check:
        assert done.returncode == 0, f"{name} {args}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


def fails(name, *args, says):
    """The command ends with status 2 and one line on stderr that says all of `says`; no traceback."""
    done = launch(name, *args, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    for text in says:
        assert text in errors[0], errors[0]


def flags(raw, base, *more):
    return [
        "--config=configs/test.py", f"--config.data.raw_dir={raw}", f"--config.data.processed_dir={base}/processed",
        f"--workdir={base}/work", *more,
    ]  # fmt: skip


def log_lines(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "seconds" not in k and k != "steps_per_second"} for line in lines]


def heard(raw):
    table = pq.read_table(raw / "flat/tiny/listens.parquet").to_pydict()
    songs = sorted(set(table["item_id"]), key=table["item_id"].count, reverse=True)
    return songs, table
