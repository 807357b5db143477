"""The training loop: dispatches of many steps, log lines, evaluations, checkpoints. It can be resumed at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax

from music_map import processes
from music_map.errors import UserError
from music_map.model.encoder import Params
from music_map.reporter import Progress, silent
from music_map.stopwatch import Stages
from music_map.training.checkpoint import CheckpointStore
from music_map.training.metrics_log import MetricsLog
from music_map.training.profiling import StepProfile
from music_map.training.runner import Runner
from music_map.training.step import MEASURES, StepSettings, rate_at


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """How long to train and what to do in between. The fields come from TrainSettings, which checks them.

    Attributes:
      num_epochs: passes; an epoch is ceil(edges / batch size) steps. min_steps can make it more.
      seed: of parameters, batches and dropout.
      eval_every_epochs: epochs between evaluations.
      patience: evaluations without improvement after which training stops; 0 never stops early.
      log_every_steps: steps between lines of metrics.jsonl.
      steps_per_dispatch: most steps in one dispatch; signals and NaNs are noticed between dispatches.
      checkpoint_every_seconds: seconds between checkpoints, which are also saved at evaluations; 0: every dispatch.
      metric: validation metric to maximise, e.g. "ndcg@20".
      min_steps: least number of steps, see `epochs_of`; 0: num_epochs alone counts.
    """

    num_epochs: int
    seed: int
    eval_every_epochs: int
    patience: int
    log_every_steps: int
    steps_per_dispatch: int
    checkpoint_every_seconds: float
    metric: str
    min_steps: int = 0


@dataclasses.dataclass
class TrainProgress:
    """The progress of a training besides its TrainState; stored with each checkpoint as JSON.

    Attributes:
      best_metric, best_step: of the best evaluation so far; None before the first.
      improvements: how many evaluations were better than all before them.
      stale_evals: evaluations since the best.
      train_seconds, eval_seconds, compile_seconds: wall-clock seconds, kept apart.
    """

    best_metric: float | None = None
    best_step: int | None = None
    improvements: int = 0
    stale_evals: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    compile_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class FitResult:
    """How training ended: "epochs", "patience" or "signal"; `resumed_from` is the step it went on from."""

    reason: str
    step: int
    steps_per_epoch: int
    progress: TrainProgress
    resumed_from: int | None


def steps_per_epoch(num_edges: int, batch_size: int) -> int:
    """ceil(edges / batch size)."""
    return math.ceil(num_edges / batch_size)


def epochs_of(num_epochs: int, min_steps: int, steps_per_epoch: int) -> int:
    """Epochs of a training: max(num_epochs, ceil(min_steps / steps_per_epoch)).

    An optimizer needs enough steps to converge, and an epoch of a small data set has few.
    """
    return max(num_epochs, math.ceil(min_steps / steps_per_epoch))


def _next_stop(step: int, last: int, boundaries: list[int], most: int) -> int:
    """Steps to the nearest boundary: a multiple of any of `boundaries`, the end, or `most`."""
    return min(last - step, most, *(b - step % b for b in boundaries))


def fit(
    *,
    runner: Runner,
    settings: LoopSettings,
    store: CheckpointStore,
    log: MetricsLog,
    evaluate: Callable[[Params], dict[str, float]] | None,
    should_stop: Callable[[], bool] = lambda: False,
    evaluated: Callable[[float, TrainProgress], object] | None = None,
    profile: StepProfile | None = None,
    progress: Progress = silent,
    clock: Stages | None = None,
) -> FitResult:
    """Trains, or goes on training, to the end.

    Args:
      runner: the devices, with graph, features and sampling tables on them.
      settings: how long, and what to do in between.
      store: checkpoints; training goes on from the latest good one.
      log: metrics.jsonl.
      evaluate: computes validation metrics from parameters; None without a validation split: the last step is the best.
      should_stop: called between dispatches; on True, the loop saves and returns.
      evaluated: called with the epoch and the progress after each evaluation, before `should_stop`.
      profile: steps to trace.
      progress: bar over steps.
      clock: gets the seconds of compilation, training and validation as stages "compile", "train" and "validate".

    Raises:
      UserError: loss or gradients are not finite (the message names the step; the last good checkpoint stays), or the
        disk is full.
    """
    step_settings = runner.settings
    epoch = steps_per_epoch(runner.num_edges, step_settings.batch_size)
    last = epochs_of(settings.num_epochs, settings.min_steps, epoch) * epoch
    eval_every = settings.eval_every_epochs * epoch

    # Resuming: 1. make the state as a fresh run would, 2. replace it by the latest whole checkpoint, 3. set later
    # (damaged) checkpoints aside, 4. drop log lines after that step. Batches follow from (seed, step).
    state = runner.create_state(settings.seed)
    so_far, resumed_from = TrainProgress(), None
    found = store.restore(state)
    if found is not None:
        resumed_from, state, stored = found
        so_far = TrainProgress(**stored)
    store.discard_after(resumed_from)
    log.resume(resumed_from or 0)
    step, clock = int(state.step), Stages() if clock is None else clock

    def save(improvement: int = -1) -> None:
        store.save(step, state, dataclasses.asdict(so_far), improvement=improvement)

    def stale() -> bool:
        return bool(settings.patience) and so_far.stale_evals >= settings.patience

    if step < last and not stale():
        started = time.perf_counter()
        # No step is run: the time goes to compilation.
        with clock("compile"):
            state, _ = jax.block_until_ready(runner.advance(state, step, 0))
        so_far.compile_seconds += time.perf_counter() - started

    reason, saved_at = "epochs", time.perf_counter()
    boundaries = [settings.log_every_steps, eval_every]
    profile = StepProfile(0, 0, log.path.parent) if profile is None else profile
    with progress("training", last, "step") as advance, contextlib.closing(profile):
        advance(step)
        while step < last and not stale():
            ahead = _next_stop(step, last, boundaries, settings.steps_per_dispatch)
            ahead = min(ahead, profile.steps_left(step))
            profile.before(step)
            started = time.perf_counter()
            ahead = min(ahead, runner.steps_left(step))
            with clock("train"):
                state, finite = runner.advance(state, step, ahead)
                finite = bool(finite)
            so_far.train_seconds += time.perf_counter() - started
            profile.after(step + ahead, ahead)
            if not finite:
                store.wait()
                kept = store.steps()
                raise UserError(
                    f"loss or gradients are not finite at step {int(state.step)}; "
                    + (f"the checkpoint of step {kept[-1]} is kept. " if kept else "")
                    + "Lower config.train.learning_rate or set config.train.clip_norm, and train in a new --workdir"
                )
            step += ahead
            advance(ahead)
            if step % settings.log_every_steps == 0 or step == last:
                log.write(_train_line(step, epoch, state.metric_sums, step_settings, so_far))
                state = state.logged(runner.empty_sums())
            if step % eval_every == 0 or step == last:
                params = runner.params(state.params)
                with clock("validate"):
                    improved = _evaluate(params, step, epoch, evaluate, settings.metric, so_far, log)
                save(so_far.improvements if improved else -1)
                saved_at = time.perf_counter()
                if evaluated is not None:
                    evaluated(step / epoch, so_far)
            # With several processes, the first one's clock counts, and a signal to any of them stops all.
            elif processes.from_first(time.perf_counter() - saved_at >= settings.checkpoint_every_seconds):
                save()
                saved_at = time.perf_counter()
            if processes.any_says(should_stop()):
                reason = "signal"
                if step not in store.steps():
                    save()
                break
    store.wait()
    if reason != "signal" and step < last:
        reason = "patience"
    return FitResult(reason, step, epoch, so_far, resumed_from)


def _train_line(
    step: int, epoch: int, metric_sums: dict[str, jax.Array], settings: StepSettings, so_far: TrainProgress
) -> dict[str, Any]:
    sums = {name: float(value) for name, value in metric_sums.items()}
    return {
        "step": step,
        "epoch": step / epoch,
        **{f"train/{name}": sums[name] / sums["count"] for name in MEASURES},
        "train/learning_rate": rate_at(settings.optimizer, step - 1),
        "steps_per_second": step / so_far.train_seconds,
        **_seconds(so_far),
    }


def _seconds(so_far: TrainProgress) -> dict[str, float]:
    return {
        "seconds/train": round(so_far.train_seconds, 3),
        "seconds/eval": round(so_far.eval_seconds, 3),
        "seconds/compile": round(so_far.compile_seconds, 3),
    }


def _evaluate(
    params: Params,
    step: int,
    epoch: int,
    evaluate: Callable[[Params], dict[str, float]] | None,
    metric: str,
    so_far: TrainProgress,
    log: MetricsLog,
) -> bool:
    """Evaluates, logs and updates `so_far`; returns whether this evaluation is the best so far."""
    if evaluate is None:
        so_far.best_step, so_far.improvements = step, so_far.improvements + 1
        return True
    started = time.perf_counter()
    metrics = evaluate(params)
    so_far.eval_seconds += time.perf_counter() - started
    if metric not in metrics:
        raise UserError(f"config.eval.metric={metric!r} is unknown; choose one of {', '.join(metrics)}")
    value = metrics[metric]
    log.write({"step": step, "epoch": step / epoch, **{f"val/{k}": v for k, v in metrics.items()}, **_seconds(so_far)})
    improved = so_far.best_metric is None or value > so_far.best_metric
    if improved:
        so_far.best_metric, so_far.best_step = value, step
        so_far.improvements += 1
        so_far.stale_evals = 0
    else:
        so_far.stale_evals += 1
    return improved
