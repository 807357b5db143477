"""From logs to a trained run in a few lines of Python.

    import music_map as mm

    logs = mm.read_logs("plays.csv", user="listener", item="track", time="played_at")
    run = mm.train(logs, workdir="checkpoints/own", epochs=5, embedding_dim=32)
    mm.evaluate(run)
    mm.Recommender.load(run.workdir).recommend(songs=["Hello"], k=10)

The folder of the run has everything that the run needs: converted logs, data set with graph, checkpoints, results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from music_map.errors import UserError
from music_map.reporter import PrintReporter, Reporter
from music_map.run import logs as logs_module
from music_map.run import stages
from music_map.run.evaluate import Evaluation
from music_map.run.evaluate import evaluate as evaluate_run
from music_map.run.folder import claim
from music_map.run.logs import Logs
from music_map.run.options import configured, full_names, resolved
from music_map.run.run import Run, assemble, check, graph_of, open_run
from music_map.run.training import Results, train_run
from music_map.sizes import FIELDS


def read_logs(
    logs: Any, folder: str | Path = "data/own", *, reporter: Reporter | None = None, **arguments: Any
) -> Logs:
    """`music_map.run.logs.read_logs` with a reporter that prints in the notebook or terminal."""
    return logs_module.read_logs(logs, folder, reporter=reporter or PrintReporter(), **arguments)


def prepare(
    logs: Any,
    workdir: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Run:
    """Makes the data set and the graph of logs, and a run with an untrained model, which `train` can continue.

    Args:
      logs: from `read_logs`, or a folder in Yambda's layout. Anything else is first read by `read_logs`, from the
        columns "user", "item" and "time", into WORKDIR/logs.
      workdir: the run's folder.
      settings: fields of the configuration by full names, {"model.alpha": 0.5}; see docs/configuration.md.
      reporter: gets the messages and progress of the stages; by default they are printed.
      **options: fields by plain names: epochs, loss, encoder, recency, and every field whose name is in one section
        only, such as embedding_dim, num_layers, batch_size, learning_rate, seed, min_interactions, protocol. Batch
        size, epochs, dimensions and min_interactions that are not given follow from the data, see `music_map.sizes`.

    Raises:
      UserError: a name, a value or the logs are wrong.
    """
    reporter, workdir = reporter or PrintReporter(), Path(workdir).expanduser()
    values = dict.fromkeys(FIELDS, 0) | full_names(options, settings)
    size = values.pop("data.size", None)
    configured(values)  # errors in settings are raised before slow work begins
    if not isinstance(logs, Logs):
        logs = read_logs(logs, workdir / "logs", size=size, reporter=reporter)
    places = {"raw_dir": str(logs.folder), "size": logs.size, "processed_dir": str(workdir / "processed")}
    values = {f"data.{name}": value for name, value in places.items()} | values
    config = resolved(configured(values))
    check(config)
    dataset = stages.ensure_dataset(config, reporter=reporter)
    graph = graph_of(config, dataset, reporter=reporter)
    return assemble(config, dataset, *graph, workdir=workdir, reporter=reporter)


def train(
    logs: Any,
    workdir: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    reporter: Reporter | None = None,
    **options: Any,
) -> Run:
    """Trains a model, or continues an interrupted call with the same arguments.

    Args:
      logs: a run from `prepare`, without other arguments; or the logs, as for `prepare`.
      workdir, settings, reporter, options: see `prepare`.
      should_stop: called between dispatches; on True, a checkpoint is saved and training stops.

    Returns:
      The run. It has `run.trained`, `run.embeddings` and WORKDIR/results.json unless it was stopped.

    Raises:
      UserError: a name, a value or the logs are wrong, or the folder is another run's.
    """
    if isinstance(logs, Run):
        if workdir is not None or settings or options or logs.workdir is None:
            raise UserError("train: a run has its folder and settings already; give them to prepare")
        run = logs
    elif workdir is None:
        raise UserError('train: workdir missing; give the folder of the run, workdir="checkpoints/own"')
    else:
        run = prepare(logs, workdir, settings=settings, reporter=reporter, **options)
    train_prepared(run, should_stop=should_stop)
    return run


def train_prepared(run: Run, *, should_stop: Callable[[], bool] = lambda: False) -> Results:
    """Trains a run of `prepare`, or continues; returns its results. Raises UserError if the folder is another run's."""
    claim(run.config, run.dataset.fingerprint, run.workdir)
    return train_run(run, should_stop=should_stop)


def evaluate(
    run: Run | str | Path,
    protocol: str | None = None,
    split: str = "test",
    *,
    baselines: Sequence[str] | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Evaluates the model of a run beside baselines, with 95 % bootstrap intervals. The result prints as a table.

    Args:
      run: a trained run, or its folder.
      protocol: by name; None: the configuration's.
      split: "val" or "test".
      baselines: names, or ("all",); None: those of the configuration that apply.
      reporter: gets the messages of stages that must be repeated; by default they are printed.

    Raises:
      UserError: there is no trained run, or a name is unknown.
    """
    run = run if isinstance(run, Run) else open_run(run, reporter=reporter or PrintReporter())
    return evaluate_run(run, protocol, split, baselines=baselines)
