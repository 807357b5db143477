"""launch/sweep.py as a user runs it: stopped, killed, gone on with; its best repeated; no look at the test split."""

import csv
import json
import shlex
import signal
import subprocess
import sys
import time

import optuna
import pytest
from commands import ENV, ROOT, fails
from optuna.trial import TrialState

from configs import lightgcnpp
from music_map.run import stages
from music_map.run.config import from_dict
from music_map.sweep import study
from music_map.sweep.search_space import Axis

START = {"cwd": ROOT, "env": ENV, "text": True}


def command(raw, base, *more):
    # The two learning rates: one that trains, one after which nothing is finite.
    return [
        sys.executable, "launch/sweep.py", "--config=configs/test.py", f"--config.data.raw_dir={raw}",
        f"--config.data.processed_dir={base}/processed", "--config.model.num_layers=1", "--config.model.score=dot",
        "--config.train.clip_norm=0.0", "--config.train.warmup_steps=0", "--config.train.num_epochs=2",
        "--config.train.checkpoint_every_seconds=60.0", "--config.recency.enabled=False",
        f"--output={base}/sweep", "--search=train.learning_rate=3e-3,1e30", "--search=train.seed=0:1000", *more,
    ]  # fmt: skip


def finish(args):
    done = subprocess.run(args, capture_output=True, timeout=300, **START)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def when(condition, process):
    """Waits until `condition()` holds or the process has ended."""
    while not condition() and process.poll() is None:
        time.sleep(0.02)


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def finished(folder):
    loaded = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/study.db")
    return {t.number: (t.state, t.value, t.params) for t in loaded.get_trials() if t.state != TrialState.RUNNING}


def test_stop_kill_and_go_on(raw, tmp_path):
    folder = tmp_path / "sweep"
    first = folder / "trials/000"
    process = subprocess.Popen(command(raw, tmp_path, "--trials=3"), stdout=subprocess.PIPE, **START)
    when(lambda: any((first / "checkpoints").glob("[0-9]*")), process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "stopped by a signal" in said and "running" in said

    process = subprocess.Popen(command(raw, tmp_path, "--trials=3"), stdout=subprocess.DEVNULL, **START)
    when(lambda: (folder / "trials/001/metrics.jsonl").exists(), process)
    process.kill()
    process.wait()
    kept = finished(folder)
    assert 0 in kept

    said = finish(command(raw, tmp_path, "--trials=4"))
    assert {n: t for n, t in finished(folder).items() if n in kept} == kept
    with open(folder / "trials.csv") as f:
        rows = list(csv.DictReader(f))
    assert sorted(int(row["trial"]) for row in rows) == [0, 1, 2, 3]
    complete = [row for row in rows if row["state"] == "complete"]
    failed = [row for row in rows if row["state"] == "failed"]
    assert rows == complete + failed and len(complete) >= 2 and failed
    assert all(row["train.learning_rate"] == "1e+30" and "not finite at step" in row["error"] for row in failed)
    values = [float(row["ndcg@20"]) for row in complete]
    assert values == sorted(values, reverse=True)
    for row in complete:
        lines = metrics(folder / f"trials/{int(row['trial']):03d}")
        validation = [line for line in lines if "val/ndcg@20" in line]
        assert [line["epoch"] for line in validation] == [1.0, 2.0]  # stopped or not, each epoch once
        assert max(line["val/ndcg@20"] for line in validation) == float(row["ndcg@20"])
    best = int(rows[0]["trial"])
    assert [path.parent.name for path in folder.glob("trials/*/checkpoints")] == [f"{best:03d}"]
    assert (folder / "parallel_coordinates.png").read_bytes().startswith(b"\x89PNG")
    # One graph and one data set serve all trials.
    assert len(list(tmp_path.glob("processed/graph-*"))) == len(list(tmp_path.glob("processed/events-*"))) == 1

    again = next(line for line in said.splitlines() if line.startswith("python launch/train.py"))
    finish([sys.executable, *shlex.split(again)[1:]])
    validation = [line["val/ndcg@20"] for line in metrics(folder / "best") if "val/ndcg@20" in line]
    assert max(validation) == pytest.approx(values[0], rel=1e-6)
    assert f"launch/evaluate.py --workdir={folder}/trials/{best:03d} --output={folder}/test.json --split=test" in said


TRAIN = "\n".join(f"{u} " + " ".join(str(i) for i in range(u % 2, 12, 2) if i != u % 12) for u in range(12)) + "\n"


def text_sweep(folder, test):
    folder.mkdir()
    (folder / "train.txt").write_text(TRAIN)
    (folder / "valid.txt").write_text("".join(f"{u} {u % 12}\n" for u in range(0, 12, 3)))
    (folder / "test.txt").write_text(test)
    config = lightgcnpp.get_config("lastfm")
    config.data.path, config.data.processed_dir = str(folder), str(folder / "processed")
    config.train.num_epochs, config.train.learning_rate = 4, 0.02
    config.train.eval_every_epochs, config.train.steps_per_dispatch = 1, 1
    config = from_dict(config.to_dict())
    axes = (Axis("model.alpha", low=0.0, high=1.0), Axis("model.gamma", low=0.0, high=1.0))
    dataset = stages.ensure_dataset(config)
    sweep = study.open_sweep(folder / "sweep", config, axes, dataset, seed=0, pruner="median", keep_checkpoints=False)
    study.run(sweep, total=2, should_stop=lambda: False)
    return [(r.state, r.value, r.values) for r in sweep.results()]


def test_the_test_split_changes_nothing(tmp_path):
    one = text_sweep(tmp_path / "one", "".join(f"{u} {u % 12}\n" for u in range(1, 12, 3)))
    other = text_sweep(tmp_path / "other", "".join(f"{u} {(5 * u + 3) % 12}\n" for u in range(2, 12, 2)))
    assert one == other and all(state == "complete" for state, *_ in one)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--search=model.alhpa=0:1"], "the configuration has no such field; did you mean model.alpha?"),
        (["--search=loss.name=bpr,sotfmax"], "--search=loss.name: config.loss.name='sotfmax': must be one of bpr"),
        (["--search=model.alpha=0:1", "--config.data.train_on_val=True"], "leaves no validation split to choose by"),
        (["--search=model.alpha=0:1", "--config.data.raw_dir=/nowhere"], "/nowhere/flat/tiny/listens.parquet"),
    ],
)
def test_wrong_flags(tmp_path, flags, says):
    fails("sweep", "--config=configs/test.py", f"--output={tmp_path}/sweep", *flags, says=[says])
    assert not (tmp_path / "sweep").exists()
