"""Locks on folders: one writer, named; free again when its process ends, however it ends."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from music_map.convert.build import convert_logs
from music_map.convert.settings import ColumnMapping
from music_map.errors import UserError
from music_map.lock import writing, writing_file
from music_map.preprocess.build import plan_dataset
from music_map.preprocess.parts import run_part
from music_map.preprocess.settings import PreprocessSettings
from music_map.synthetic.settings import settings_for
from music_map.synthetic.writer import generate

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOLD = """
import os, sys, time; from pathlib import Path; from music_map.lock import writing
with writing(Path(sys.argv[1]), job="train"):
    print("held", flush=True); {then}
"""


@contextlib.contextmanager
def holder(folder, then="time.sleep(60)"):
    """Another process that holds the lock and does `then`; killed in the end."""
    env = {**os.environ, "PYTHONPATH": ROOT}
    command = [sys.executable, "-c", HOLD.format(then=then), str(folder)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline() == "held\n"
        finally:
            process.kill()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_second_writer_is_told_who_is_first_and_may_go_on_after_its_death(tmp_path):
    with holder(tmp_path / "run") as (process, held):
        assert held
        says = rf"run: train \(process {process.pid} on host .+, since 2.+\) is writing there; wait for it to end"
        with pytest.raises(UserError, match=says), writing(tmp_path / "run", job="recommend"):
            pass
    (tmp_path / "run" / f".a.json.tmp-{process.pid}").touch()
    with writing(tmp_path / "run", job="train"):
        assert names(tmp_path / "run") == [".lock"]  # what the killed one left is gone
    assert names(tmp_path / "run") == []


# The child prints, not its parent: a parent that dies at once can leave a child that has not yet run.
FORK = """
    if os.fork() == 0: print(os.getpid(), flush=True); time.sleep(20); os._exit(0)
    time.sleep(20)"""


def test_the_lock_ends_with_its_holder_and_not_with_a_child_of_it(tmp_path):
    """A forked child has the same open file, which would keep the lock."""
    with holder(tmp_path, then=FORK) as (process, held):
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            with writing(tmp_path, job="train"):
                os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)
    assert held


def test_the_same_process_may_take_it_again(tmp_path):
    with writing(tmp_path, job="sweep"):
        with writing(tmp_path, job="train"):
            pass
        assert names(tmp_path) == [".lock"]
        with holder(tmp_path) as (process, held):
            assert not held and "sweep (process" in process.stderr.read()
    assert names(tmp_path) == []
    with holder(tmp_path) as (_, held):
        assert held


def test_waiting_for_another_process(tmp_path):
    told = []
    with holder(tmp_path, then="time.sleep(1)") as (process, held), writing(tmp_path, wait=told.append):
        assert held and process.wait(10) == 0
    assert len(told) == 1 and f"waiting for train (process {process.pid}" in told[0]


def test_a_lock_of_one_file_leaves_its_neighbours_alone(tmp_path):
    with (
        writing_file(tmp_path / "new" / "a.jsonl", job="recommend"),
        writing_file(tmp_path / "new" / "b.jsonl", job="x"),
    ):
        assert names(tmp_path / "new") == [".a.jsonl.lock", ".b.jsonl.lock"]
    assert names(tmp_path / "new") == []


def test_a_path_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: File exists; choose another path"), writing(tmp_path / "file", job="x"):
        pass
    (tmp_path / "run" / ".lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"\.lock: Is a directory"), writing(tmp_path / "run", job="x"):
        pass


def test_each_job_that_writes_a_folder_is_refused_while_another_one_writes_there(tmp_path):
    """The jobs that take no lock elsewhere: generate, convert, and a part of preprocess; a part is locked by itself."""
    log = tmp_path / "a.csv"
    log.write_text("u,i,t\n" + "".join(f"{n % 5},{n % 7},{1_600_000_000 + n}\n" for n in range(100)))
    raw = tmp_path / "raw"

    def convert():
        convert_logs({"listens": [log]}, raw, ColumnMapping("u", "i", "t"))

    with holder(raw) as (process, held):
        assert held
        says = rf"raw: train \(process {process.pid} on host .+\) is writing there"
        for job in (convert, lambda: generate(raw, settings_for("tiny"))):
            with pytest.raises(UserError, match=says):
                job()
        assert names(raw) == [".lock"]
    convert()
    plan = plan_dataset(
        PreprocessSettings(size="own", min_interactions=1), source=raw, processed_dir=tmp_path / "processed"
    )
    steps = tmp_path / "processed" / f"parts-{plan.fingerprint[:12]}-of-2"
    with writing_file(steps / "part-1", "other"):
        assert run_part(plan, 2, 2) == "count-0"
        assert run_part(plan, 1, 2) == "count-0"  # the same process may take its lock again
        assert names(steps) == [".part-1.lock", "count-0"]
    assert names(steps) == ["count-0"]
