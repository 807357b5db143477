"""Real processes over loopback: they train what one device trains, and a run that loses one goes on without it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import GRAPH, STEP

from music_map.evaluation.ranking import embedding_scores, rank
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import adjacency
from music_map.parallel.runners import make_runner

ROOT = Path(__file__).resolve().parents[2]
# What a lost process may cost the others; see docs/scaling-devices.md.
SECONDS_TO_END = 60


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(command, *, devices):
    paths = [ROOT, ROOT / "tests", ROOT / "tests" / "parallel"]
    # Programs that run for a few steps: the less compilation, the better.
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"}
    env = os.environ | flags | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def work(folder, num, devices, *runs):
    port, worker = free_port(), Path(__file__).parent / "worker.py"
    started = [start([worker, port, num, i, folder, *runs], devices=devices) for i in range(num)]
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err


@pytest.fixture(scope="module")
def one():
    """Losses, embeddings and lists after 4 steps on one device."""
    inputs = EncoderInputs(adjacency(GRAPH, degree="weighted"), None)
    runner = make_runner("none", graph=GRAPH, inputs=inputs, users="uniform", items="weight", settings=STEP)
    state, _ = runner.advance(runner.create_state(0), 0, 4)
    users, items = runner.encode(state.params)
    topk = rank(embedding_scores(users, items), np.arange(90, dtype=np.int32), num_items=len(items), k=10)
    return {"users": users, "items": items, "topk": topk, "loss": float(state.metric_sums["loss"])}


def assert_same(found, one):
    assert float(found["loss"]) == pytest.approx(one["loss"], rel=1e-5)
    for name in ("users", "items"):
        np.testing.assert_allclose(found[name], one[name], rtol=1e-4, atol=1e-5)
    assert (found["topk"] == one["topk"]).mean() > 0.99  # near ties may swap


def test_four_processes_then_two_of_two_devices_train_what_one_device_trains(tmp_path, one):
    work(tmp_path, 4, 1, "sharded:0:2")
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == ["items", "manifest.json", "users"]
    work(tmp_path, 2, 2, "sharded:2:4", "pmap:0:4")
    for mode in ("sharded", "pmap"):
        assert_same(np.load(tmp_path / f"{mode}-4.npz"), one)


def ended(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return out


def test_the_others_end_when_a_process_is_killed_and_two_finish_the_command(tmp_path):
    raw, port = tmp_path / "raw", free_port()
    ended(start(["launch/generate.py", "--size=tiny", f"--output={raw}"], devices=1))
    train = [
        "launch/train.py", "--config=configs/test.py", f"--config.data.raw_dir={raw}", "--config.train.num_epochs=6",
        f"--config.data.processed_dir={tmp_path}/processed", f"--workdir={tmp_path}/work", "--config.parallel=sharded",
        "--config.eval.baselines=('most_pop',)", "--config.model.audio=False", "--config.model.metadata=False",
        "--config.recency.enabled=True", "--config.recency.num_users=40", "--config.recency.max_epochs=1",
    ]  # fmt: skip

    def both(port, devices):
        where = [f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2", "--heartbeat_timeout=10"]
        return [start([*train, *where, f"--process_id={i}"], devices=devices) for i in range(2)]

    first, second = both(port, 1)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "work" / "checkpoints" / "sha256").glob("*.json")) and time.monotonic() < deadline:
        assert first.poll() is None and second.poll() is None, first.communicate()[1] + second.communicate()[1]
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    out, err = first.communicate(timeout=SECONDS_TO_END)
    second.communicate()
    print(f"ended {time.monotonic() - killed:.1f} s after the kill with status {first.returncode}: {err[-600:]}")
    assert first.returncode == 3, out + err
    assert "error: process 0 of 2: another process of the run was lost" in err and "last checkpoint" in err

    # On four devices now, and to the end: recency, playlist query, export and the test split are theirs too.
    outs = [ended(process) for process in both(free_port(), 2)]
    assert "went on from step" in outs[0] and "trained to the end" in outs[0]
    work = tmp_path / "work"
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == sorted(set(steps)) and steps[0] == 7  # each step logged once
    assert (work / "playlist.json").exists() and (work / "embeddings" / "moment").is_dir()
    # One process on one device fits the same head and gets the same figures.
    together, head = (json.loads((work / name).read_text()) for name in ("results.json", "recency/temporal.json"))
    (work / "recency" / "temporal.json").unlink()
    ended(start(["launch/evaluate.py", f"--workdir={work}", f"--output={tmp_path}/alone.json"], devices=1))
    alone = json.loads((tmp_path / "alone.json").read_text())
    assert json.loads((work / "recency/temporal.json").read_text())["weights"] == pytest.approx(
        head["weights"], abs=0.01
    )
    for name in ("model", "model_without_recency"):
        assert together[name] == pytest.approx(alone[name], abs=0.01)  # near ties may swap
    assert jax.process_count() == 1
