"""The loop: resume equals uninterrupted, early stopping, NaN, damaged checkpoints, a full disk."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import LOOP, STEP, inputs_and_data, run, stop_after

from music_map.errors import DamagedFileError, UserError
from music_map.training.checkpoint import CheckpointStore
from music_map.training.loop import epochs_of
from music_map.training.metrics_log import MetricsLog
from music_map.training.optimizer import OptimizerSettings, learning_rate
from music_map.training.step import create_state, train_steps


def lines(workdir):
    """metrics.jsonl without what depends on the clock."""
    read = MetricsLog(workdir / "metrics.jsonl").read()
    return [{k: v for k, v in line.items() if "seconds" not in k and k != "steps_per_second"} for line in read]


def assert_same_state(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_resume_equals_uninterrupted(tmp_path):
    whole, latest, best, _ = run(tmp_path / "whole")
    for stop in (0, 2, 4):
        workdir = tmp_path / f"stop{stop}"
        first, *_ = run(workdir, should_stop=stop_after(stop))
        assert first.reason == "signal" and first.step < whole.step
        second, latest2, best2, _ = run(workdir)
        assert second.resumed_from == first.step and second.step == whole.step
        assert_same_state(latest[1], latest2[1])
        assert_same_state(best[1], best2[1])
        assert lines(workdir) == lines(tmp_path / "whole")


def test_the_last_step_is_evaluated_and_saved(tmp_path):
    loop = dataclasses.replace(LOOP, eval_every_epochs=2)
    result, latest, *_ = run(tmp_path, loop=loop)
    assert latest[0] == result.step == 5 * result.steps_per_epoch
    assert [line["step"] for line in lines(tmp_path) if "val/ndcg@20" in line][-1] == result.step


def test_best_checkpoint_is_kept_and_a_finished_run_does_nothing(tmp_path):
    values = iter([0.1, 0.9, 0.2, 0.9, 0.3])
    result, latest, best, steps = run(tmp_path, evaluate=lambda p: {"ndcg@20": next(values)})
    epoch = result.steps_per_epoch
    assert result.progress.best_step == best[0] == 2 * epoch  # the tie at epoch 4 is no improvement
    assert latest[0] == 5 * epoch and best[0] in steps
    before = (tmp_path / "metrics.jsonl").read_text()
    again, *_ = run(tmp_path, evaluate=lambda p: pytest.fail("nothing is left to evaluate"))
    assert again.step == result.step and (tmp_path / "metrics.jsonl").read_text() == before


def test_early_stopping(tmp_path):
    values = iter([0.5, 0.4, 0.3, 0.2, 0.1])
    result, *_ = run(tmp_path, loop=dataclasses.replace(LOOP, patience=2), evaluate=lambda p: {"ndcg@20": next(values)})
    assert result.reason == "patience" and result.step == 3 * result.steps_per_epoch


def test_nan_stops_with_the_step_and_keeps_the_checkpoint(tmp_path):
    run(tmp_path, should_stop=stop_after(1))
    good = MetricsLog(tmp_path / "metrics.jsonl").read()
    # A checkpoint whose parameters are about to overflow: the gradients of the next step are not finite.
    inputs, _ = inputs_and_data()
    store = CheckpointStore(tmp_path / "checkpoints")
    step, state, progress = store.restore(create_state(STEP, inputs, seed=0))
    poisoned = dataclasses.replace(
        state, step=state.step + 1, params=jax.tree.map(lambda x: x * jnp.float32(1e30), state.params)
    )
    store.save(step + 1, poisoned, progress)
    store.close()
    with pytest.raises(UserError, match=rf"not finite at step {step + 2}; the checkpoint of step {step + 1} is kept"):
        run(tmp_path)
    assert MetricsLog(tmp_path / "metrics.jsonl").read() == good


def test_finite_flag_and_step_count():
    inputs, data = inputs_and_data()
    state = create_state(STEP, inputs, seed=0)
    bad = dataclasses.replace(state, params=jax.tree.map(lambda x: x * jnp.nan, state.params))
    after, finite = train_steps(bad, inputs, data, jnp.int32(5), settings=STEP)
    assert not bool(finite) and int(after.step) == 1


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def biggest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    _, latest, *_ = run(tmp_path / "whole")
    run(tmp_path / "hurt", should_stop=stop_after(4))
    folder = tmp_path / "hurt" / "checkpoints"
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    victim = biggest_file(folder / str(steps[-1]))
    damage(victim)
    warnings = []
    again, latest2, *_ = run(tmp_path / "hurt", warnings=warnings)
    assert again.resumed_from == steps[-2]
    assert any(str(victim) in w and "damaged" in w for w in warnings)
    assert (folder / f"damaged-{steps[-1]}").is_dir()  # nothing is deleted
    assert_same_state(latest[1], latest2[1])
    assert lines(tmp_path / "hurt") == lines(tmp_path / "whole")


def test_all_checkpoints_damaged_is_an_error(tmp_path):
    run(tmp_path, should_stop=stop_after(2))
    folder = tmp_path / "checkpoints"
    for step in (p for p in folder.iterdir() if p.name.isdigit()):
        damage(biggest_file(step))
    with pytest.raises(DamagedFileError, match="no other checkpoint is whole"):
        run(tmp_path)


def test_a_checkpoint_without_checksums_is_accepted_if_it_loads(tmp_path):
    """A process killed between the end of a save and its checksums leaves such a one."""
    first, *_ = run(tmp_path, should_stop=stop_after(2))
    for path in (tmp_path / "checkpoints" / "sha256").iterdir():
        path.unlink()
    again, *_ = run(tmp_path)
    assert again.resumed_from == first.step


def test_half_written_log_line_is_dropped(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.write({"step": step})
    with open(log.path, "a") as f:
        f.write('{"step": 4, "tra')
    log.resume(2)
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize(
    "broken", [b'{"step": 2, "tra\n', b"\xff\n", b"[2]\n", b"\n", b'{"step": "2"}\n', b'{"step": NaN}\n']
)
def test_a_broken_log_line_takes_no_other_with_it(tmp_path, broken):
    warnings = []
    log = MetricsLog(tmp_path / "metrics.jsonl", warn=warnings.append)
    log.path.write_bytes(b'{"step": 1}\n' + broken + b'{"step": 3}\n{"step": 4}\n')
    assert [line["step"] for line in log.read()] == [1, 3, 4]
    assert warnings == [f"{log.path}: line 2 is damaged and skipped; the other 3 are kept"]
    log.resume(3)
    assert [line["step"] for line in MetricsLog(log.path).read()] == [1, 3]


def test_a_log_that_is_empty_missing_or_a_folder(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.read() == []
    log.path.touch()
    assert log.read() == []
    log.path.unlink()
    log.path.mkdir()
    with pytest.raises(DamagedFileError, match=r"metrics\.jsonl: cannot be read \(Is a directory\)"):
        log.resume(0)


def stored(tmp_path, values=(0.1, 0.9, 0.2, 0.3)):
    """Checkpoints of four epochs, the second one the best, which is the best of all and not among the latest."""
    told = iter(values)
    loop = dataclasses.replace(LOOP, num_epochs=4, checkpoint_every_seconds=1e9)
    result, *_ = run(tmp_path, loop=loop, evaluate=lambda p: {"ndcg@20": next(told)})
    return tmp_path / "checkpoints", result.progress.best_step, result.step


def restored(folder, *, best=True, run=""):
    warnings = []
    with CheckpointStore(folder, warn=warnings.append, read_only=True, run=run) as store:
        found = store.restore(create_state(STEP, inputs_and_data()[0], seed=0), best=best)
    return found[0], warnings


def test_no_damaged_file_of_one_checkpoint_stops_the_others(tmp_path):
    folder, best, last = stored(tmp_path)
    assert restored(folder) == (best, [])
    files = [p for p in (folder / str(best)).rglob("*") if p.is_file()] + [folder / "sha256" / f"{best}.json"]
    for path in files:
        content = path.read_bytes()
        for damaged in (b"x" + content[1:] if content[:1] != b"x" else b"y" + content[1:], b"", None):
            if damaged is None:
                path.unlink()
            elif damaged == content:
                continue
            else:
                path.write_bytes(damaged)
            step, warnings = restored(folder)
            if path.parent.name == "sha256" and damaged is None:
                assert (step, warnings) == (best, [])  # as a process killed before it wrote the record
            else:
                assert step == last and str(path) in warnings[0]
            assert restored(folder, best=False) == (last, [])
        path.write_bytes(content)
    assert restored(folder) == (best, [])


def test_a_damaged_record_of_what_may_be_the_best_is_said(tmp_path):
    """Where the checkpoint that is left does not know which one was the best, as before the first evaluation."""
    folder, state = tmp_path / "checkpoints", create_state(STEP, inputs_and_data()[0], seed=0)
    with CheckpointStore(folder) as store:
        store.save(1, state, {})
        store.save(2, state, {"best_step": 2}, improvement=0)
    assert restored(folder) == (2, [])
    record = folder / "sha256" / "2.json"
    record.write_bytes(record.read_bytes().replace(b"2", b"3"))
    step, warnings = restored(folder)
    assert step == 1 and warnings == [
        f"{record}: damaged, and its checkpoint may be the best; the checkpoint of step 1 is used instead and gives "
        "other figures: put the best one back from a copy"
    ]


def test_a_missing_best_checkpoint_is_said(tmp_path):
    folder, best, last = stored(tmp_path)
    shutil.rmtree(folder / str(best))
    step, warnings = restored(folder)
    assert step == last and warnings == [
        f"{folder / str(best)}: the best checkpoint is missing; the checkpoint of step {last} is used instead and "
        "gives other figures: put the best one back from a copy"
    ]


def test_a_file_that_is_none_of_the_checkpoint_is_refused(tmp_path):
    folder, best, last = stored(tmp_path)
    (folder / str(best) / "state" / ".DS_Store").touch()
    assert restored(folder) == (best, [])
    (folder / str(best) / "state" / "more.pkl").touch()
    step, warnings = restored(folder)
    assert step == last and "more.pkl: does not belong to the checkpoint" in warnings[0]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    folder = tmp_path / "checkpoints"
    inputs, _ = inputs_and_data()
    with CheckpointStore(folder, run="one") as store:
        store.save(1, create_state(STEP, inputs, seed=0), {})
    assert restored(folder, best=False, run="one") == restored(folder, best=False) == (1, [])
    with pytest.raises(DamagedFileError, match=r"checkpoints/1: this checkpoint belongs to another run"):
        restored(folder, best=False, run="another")


def test_reading_changes_nothing(tmp_path):
    folder, *_ = stored(tmp_path)
    (folder / "7.orbax-checkpoint-tmp").mkdir()
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    restored(folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    CheckpointStore(folder).close()
    assert not (folder / "7.orbax-checkpoint-tmp").exists()


def test_a_damaged_checkpoint_is_set_aside_beside_an_earlier_one(tmp_path):
    folder, _, last = stored(tmp_path)
    (folder / f"damaged-{last}").mkdir()
    with CheckpointStore(folder) as store:
        store.discard_after(last - 1)
        assert last not in store.steps()
    assert (folder / f"damaged-{last}-2" / "state").is_dir()


def test_unknown_metric_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.eval\.metric='ndcg@21' is unknown; choose one of ndcg@20"):
        run(tmp_path, loop=dataclasses.replace(LOOP, metric="ndcg@21"))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r}); sys.path.insert(0, {here!r})
from small_training import run, stop_after
from music_map.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for size in {sizes}:
    workdir = Path({folder!r}) / str(size)
    run(workdir, should_stop=stop_after(1))
    # The writes of the next checkpoint fail, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        run(workdir)
    except UserError as e:
        print(e)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_full_disk_at_save_keeps_what_is_there(tmp_path):
    sizes = [300, 1_000, 4_096]  # of metrics.jsonl, of the arrays, of Orbax's metadata
    here = os.path.dirname(__file__)
    code = FULL_DISK.format(tests=os.path.dirname(here), here=here, folder=str(tmp_path), sizes=sizes)
    # A program that takes long to compile would be cached, on the full disk too, and JAX would warn.
    env = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=env)
    assert done.stdout.count("no space left") == len(sizes) and done.stderr == "", done.stdout + done.stderr
    for size in sizes:
        again, *_ = run(tmp_path / str(size))
        assert again.resumed_from is not None and again.reason == "epochs"


def test_writes_of_a_failed_save_that_nobody_waits_for_are_silent():
    code = """
import asyncio, gc, sys
sys.path.insert(0, {root!r})
from music_map.training.checkpoint import _quiet_threads
_quiet_threads()
loop = asyncio.new_event_loop()
for text in ("Error writing in OCDBT database: No space left on device [os_error_code='28']", "another fault"):
    loop.create_future().set_exception(ValueError(text))
gc.collect()
"""
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    done = subprocess.run([sys.executable, "-c", code.format(root=root)], capture_output=True, text=True, timeout=120)
    assert "another fault" in done.stderr and "No space" not in done.stderr


def test_schedules():
    base = OptimizerSettings(
        name="adam", learning_rate=1.0, schedule="cosine", warmup_steps=10, weight_decay=0.0, clip_norm=0.0,
        total_steps=110,
    )  # fmt: skip
    rate = learning_rate(base)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(60), rate(110)], [0, 0.5, 1, 0.5, 0], atol=1e-6)
    constant = learning_rate(dataclasses.replace(base, schedule="constant", warmup_steps=0))
    np.testing.assert_allclose([constant(0), constant(1000)], [1, 1])


def test_training_lowers_the_loss_for_every_loss():
    inputs, data = inputs_and_data()
    for name in ("bpr", "softmax", "sampled_softmax", "debiased_contrastive"):
        settings = dataclasses.replace(STEP, loss=dataclasses.replace(STEP.loss, name=name))
        constant = {"name": "adam", "schedule": "constant", "warmup_steps": 0, "clip_norm": 0.0}
        settings = dataclasses.replace(settings, optimizer=dataclasses.replace(settings.optimizer, **constant))
        first, _ = train_steps(create_state(settings, inputs, seed=0), inputs, data, jnp.int32(10), settings=settings)
        early = float(first.metric_sums["ranking_loss"]) / 10
        later, _ = train_steps(first.logged(jax.tree.map(jnp.zeros_like, first.metric_sums)), inputs, data,
                               jnp.int32(150), settings=settings)  # fmt: skip
        later, _ = train_steps(later.logged(jax.tree.map(jnp.zeros_like, later.metric_sums)), inputs, data,
                               jnp.int32(10), settings=settings)  # fmt: skip
        assert float(later.metric_sums["ranking_loss"]) / 10 < 0.95 * early, name


@pytest.mark.parametrize(("min_steps", "wanted"), [(0, 5), (50, 5), (51, 6), (99, 10), (100, 10)])
def test_short_epochs_are_repeated_to_the_least_number_of_steps(min_steps, wanted):
    assert epochs_of(5, min_steps, 10) == wanted


def test_training_runs_the_least_number_of_steps_in_whole_epochs(tmp_path):
    one, *_ = run(tmp_path / "one", loop=dataclasses.replace(LOOP, num_epochs=1))
    epoch = one.steps_per_epoch
    result, *_ = run(tmp_path / "more", loop=dataclasses.replace(LOOP, num_epochs=1, min_steps=epoch + 1))
    assert (one.step, result.step) == (epoch, 2 * epoch)
