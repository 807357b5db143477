"""The whole training of a run: encoder, recency head, playlist query, export, and the table of results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from music_map import processes
from music_map.errors import DamagedFileError, require_packages
from music_map.reporter import SILENT, Reporter, Stopped
from music_map.run.evaluation import encoder_metrics, part_beside, report
from music_map.run.export import export_model
from music_map.run.folder import files_of
from music_map.run.playlist import heads_for
from music_map.run.recency import Past, heads_for_use, train_past
from music_map.run.run import Run, checkpoint_store, loop_settings
from music_map.storage import json_text
from music_map.training.loop import FitResult, TrainProgress, fit
from music_map.training.metrics_log import MetricsLog
from music_map.training.profiling import StepProfile


class Results(NamedTuple):
    """How a training ended.

    Attributes:
      fitted: of the encoder.
      step: of its best checkpoint; None where a signal stopped the training.
      report: the model beside the baselines on the test split; None likewise.
    """

    fitted: FitResult
    step: int | None = None
    report: dict[str, Any] | None = None


def train_encoder(
    run: Run,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    evaluated: Callable[[float, TrainProgress], object] | None = None,
    profile: StepProfile | None = None,
    tensorboard: bool = False,
) -> FitResult:
    """Trains in the run's folder, or goes on there; see `music_map.training.loop.fit`. The test split is not ranked.

    With `tensorboard` the lines of metrics.jsonl go to WORKDIR/tensorboard too.
    """
    config = run.config
    validation = None if config.data.train_on_val else run.task(config.eval.protocol, "val")
    with (
        processes.writing(run.workdir, "train"),
        run.clock("train"),
        checkpoint_store(run.workdir, run.workdir, read_only=False, reporter=run.reporter) as store,
    ):
        return fit(
            runner=run.runner,
            settings=loop_settings(config),
            store=store,
            log=metrics_log(run.workdir, tensorboard=tensorboard, reporter=run.reporter),
            evaluate=validation and (lambda params: encoder_metrics(run, validation, params)),
            should_stop=should_stop,
            evaluated=evaluated,
            profile=profile,
            progress=run.reporter.bar,
            clock=run.clock,
        )


def metrics_log(workdir: Path, *, tensorboard: bool, reporter: Reporter = SILENT) -> MetricsLog:
    """The log of a run. Raises UserError where it should go to TensorBoard and the writer is not installed."""
    if tensorboard:
        require_packages("tensorboard", "tensorboard", "tensorboardX")
    if not tensorboard or not processes.first():
        return MetricsLog(workdir / "metrics.jsonl", writes=processes.first(), warn=reporter.warn)
    from music_map.training.tensorboard import TensorBoardLog

    return TensorBoardLog(workdir / "metrics.jsonl", workdir / "tensorboard", warn=reporter.warn)


def train_run(
    run: Run,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    profile: StepProfile | None = None,
    tensorboard: bool = False,
) -> Results:
    """Trains a run to its results, or goes on where an earlier call stopped.

    Writes checkpoints/, metrics.jsonl, recency/, graph_filter/, playlist.json, embeddings/, lists/ and results.json in
    the run's folder; what an earlier call has finished of these is taken as it is.

    Args:
      run: its folder is claimed already, see `music_map.run.folder.claim`.
      should_stop: called between dispatches, where a checkpoint is saved then, and by every bar of the later stages.
      profile, tensorboard: see `train_encoder`.

    Raises:
      UserError: another process writes in the folder, or the disk is full.
    """
    with processes.writing(run.workdir, "train"):
        return _train_run(run, should_stop, profile, tensorboard)


def _train_run(run: Run, should_stop: Callable[[], bool], profile: StepProfile | None, tensorboard: bool) -> Results:
    fitted = train_encoder(run, should_stop=should_stop, profile=profile, tensorboard=tensorboard)
    if fitted.reason == "signal":
        return Results(fitted)
    past = Past(run, should_stop=should_stop)
    try:
        with run.clock("recency"):
            if not train_past(past, should_stop=should_stop):
                return Results(fitted)
            heads_for_use(past)
        with run.clock("graph filter"):
            part_beside(past, run.config.eval.protocol)
        for stage, finish in (("playlist", heads_for), ("export", export_model)):
            if processes.any_says(should_stop()):
                return Results(fitted)
            with run.clock(stage):
                finish(past)
        found = report(past, run.task(run.config.eval.protocol, "test"), keep=True)
    except Stopped:
        return Results(fitted)
    times = {name: getattr(fitted.progress, name) for name in ("train_seconds", "eval_seconds", "compile_seconds")}
    step = run.trained.step
    if processes.first():
        write_results(run.workdir, {**found, "step": step, **times, "stages": run.clock.seconds()})
    return Results(fitted, step, found)


def write_results(workdir: Path, results: dict[str, Any]) -> None:
    """Writes results.json; where it has these results already, it keeps the seconds that they took then."""
    files, name = files_of(workdir), "results.json"
    with contextlib.suppress(DamagedFileError):
        stored = files.read_json(name, {}) if files.has(name) else {}
        if {**stored, "stages": None} == json.loads(json_text({**results, "stages": None})):
            return
    files.write_json({name: results})
