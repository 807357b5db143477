"""What is watched while training: TensorBoard's event files, and traces of steps."""

import contextlib
import gzip
import json
import struct

import jax
import numpy as np
import pytest
from small_training import LOOP, STEP, inputs_and_data, score

from music_map.training.checkpoint import CheckpointStore
from music_map.training.loop import fit
from music_map.training.metrics_log import MetricsLog
from music_map.training.profiling import StepProfile
from music_map.training.runner import OneDevice

pytest.importorskip("tensorboardX")
from tensorboardX.proto.event_pb2 import Event

from music_map.training.tensorboard import TensorBoardLog


def train(folder, log, *, profile=None, stop_at=None):
    """Trains in `folder`; stops before the dispatch after step `stop_at`."""
    inputs, data = inputs_and_data()
    lines = folder / "metrics.jsonl"

    def stop():
        return stop_at is not None and lines.exists() and f'"step": {stop_at},' in lines.read_text()

    with contextlib.closing(CheckpointStore(folder / "checkpoints")) as store:
        return fit(
            runner=OneDevice(inputs, data, STEP), settings=LOOP, store=store, log=log, evaluate=score,
            should_stop=stop, profile=profile,
        )  # fmt: skip


def scalars(folder):
    """{tag: {step: value}} of the event files: records of length, its checksum, the event, its checksum."""
    found = {}
    for path in sorted(folder.glob("events.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                steps = found.setdefault(value.tag, {})
                # Epoch and seconds are on the lines of training and of evaluation, which may share a step.
                assert event.step not in steps or value.tag == "epoch" or value.tag.startswith("seconds/")
                steps[event.step] = value.simple_value
    return found


def test_tensorboard_holds_what_metrics_jsonl_holds_also_after_a_resume(tmp_path):
    # Begun without TensorBoard.
    assert train(tmp_path, MetricsLog(tmp_path / "metrics.jsonl"), stop_at=8).reason == "signal"
    with contextlib.closing(TensorBoardLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard")) as log:
        train(tmp_path, log, stop_at=16)
    # As a killed process leaves them: a later line and a scalar of a step that is not in any checkpoint.
    with contextlib.closing(TensorBoardLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard")) as log:
        log.resume(16)
        log.write({"step": 999, "train/loss": 1.0})
    with contextlib.closing(TensorBoardLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard")) as log:
        assert train(tmp_path, log).reason == "epochs"
    wanted = {}
    for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()):
        for tag in line.keys() - {"step"}:
            wanted.setdefault(tag.replace("@", "_"), {})[line["step"]] = line[tag]  # as tensorboardX writes it
    found = scalars(tmp_path / "tensorboard")
    assert found.keys() == wanted.keys() and "train/loss" in found and "val/ndcg_20" in found
    for tag, values in wanted.items():
        assert found[tag].keys() == values.keys()
        np.testing.assert_allclose([found[tag][s] for s in values], list(values.values()), rtol=1e-6)


def test_a_profile_traces_the_steps_asked_for_and_changes_no_number(tmp_path):
    profile = StepProfile(5, 7, tmp_path / "profile")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    train(tmp_path / "a", MetricsLog(tmp_path / "a/metrics.jsonl"), profile=profile)
    train(tmp_path / "b", MetricsLog(tmp_path / "b/metrics.jsonl"))
    assert profile.traced == 2
    [trace] = (tmp_path / "profile").glob("plugins/profile/*/*.trace.json.gz")
    assert list(trace.parent.glob("*.xplane.pb"))
    names = [event.get("name", "") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]]
    # One program runs all steps of a dispatch; the trace has one dispatch, since neither 5 nor 7 is inside one.
    assert sum("train_steps" in name or "run_steps" in name for name in names) >= 1
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in "ab"]
    for one, other in zip(*(map(json.loads, run) for run in lines), strict=True):
        assert {k: v for k, v in one.items() if "second" not in k} == {
            k: v for k, v in other.items() if "second" not in k
        }


def test_a_profile_that_outlasts_training_ends_with_it(tmp_path):
    profile = StepProfile(0, 10**9, tmp_path / "profile")
    train(tmp_path, MetricsLog(tmp_path / "metrics.jsonl"), profile=profile)
    assert profile.traced > 0 and list((tmp_path / "profile").glob("plugins/profile/*/*.xplane.pb"))
    jax.profiler.start_trace(str(tmp_path / "next"))  # fails where another one runs
    jax.profiler.stop_trace()


def test_a_profile_of_steps_that_are_over_traces_nothing(tmp_path):
    profile = StepProfile(3, 5, tmp_path / "profile")
    assert [profile.steps_left(step) for step in (0, 3, 4)] == [3, 2, 1]
    profile.before(5)
    profile.after(8, 3)
    assert profile.traced == 0 and not (tmp_path / "profile").exists()
