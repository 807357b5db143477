"""From logs to a trained run in a few lines of Python.

    import music_map as mm

    logs = mm.read_logs("plays.csv", user="listener", item="track", time="played_at")
    run = mm.train(logs, workdir="checkpoints/own", epochs=5, embedding_dim=32)
    mm.evaluate(run)
    mm.Recommender.load(run.workdir).recommend(songs=["Hello"], k=10)

Everything that the run needs lies in its folder: the converted logs, the data set with its graph, checkpoints, results.
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
from music_map.run.options import configured, full_names, sizes_for
from music_map.run.run import Run, assemble, check, graph_of, open_run
from music_map.run.training import train_run


def read_logs(
    logs: Any, folder: str | Path = "data/own", *, reporter: Reporter | None = None, **arguments: Any
) -> Logs:
    """`music_map.run.logs.read_logs`, which reports to the notebook or terminal."""
    return logs_module.read_logs(logs, folder, reporter=reporter or PrintReporter(), **arguments)


def prepare(
    logs: Any,
    workdir: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Run:
    """Data set and graph of logs, and an untrained model: what `train` goes on with.

    Args:
      logs: of `read_logs`, or a folder in Yambda's layout; anything else is read by `read_logs` first, from columns
        "user", "item" and "time", into WORKDIR/logs.
      workdir: the run's folder.
      settings: fields of the configuration by their full names, {"model.alpha": 0.5}; see docs/configuration.md.
      reporter: what is told of the stages; by default it is printed.
      **options: the same by plain names: epochs, loss, encoder, recency, and every field whose name only one section
        has, such as embedding_dim, num_layers, batch_size, learning_rate, seed, min_interactions, protocol. Batches and
        steps follow from the data where they are not given, see `music_map.run.options.sizes_for`.

    Raises:
      UserError: a name, a value or the logs are wrong.
    """
    reporter, workdir = reporter or PrintReporter(), Path(workdir).expanduser()
    values = full_names(options, settings)
    size = values.pop("data.size", None)
    configured(values)  # refused before anything that takes long
    if not isinstance(logs, Logs):
        logs = read_logs(logs, workdir / "logs", size=size, reporter=reporter)
    places = {"raw_dir": str(logs.folder), "size": logs.size, "processed_dir": str(workdir / "processed")}
    values = {f"data.{name}": value for name, value in places.items()} | values
    config = configured(values)
    check(config)
    dataset = stages.ensure_dataset(config, reporter=reporter)
    config = configured(values | sizes_for(dataset.stats["train_size"], values))
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
    """Trains a model, or goes on where an interrupted call with the same arguments stopped.

    Args:
      logs: a run of `prepare`, without other arguments; or what `prepare` takes.
      workdir, settings, reporter, options: see `prepare`.
      should_stop: asked between dispatches; a checkpoint is saved then.

    Returns:
      The run; `run.trained`, `run.embeddings` and WORKDIR/results.json are there unless it was stopped.

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
    claim(run.config, run.dataset.fingerprint, run.workdir)
    train_run(run, should_stop=should_stop)
    return run


def evaluate(
    run: Run | str | Path,
    protocol: str | None = None,
    split: str = "test",
    *,
    baselines: Sequence[str] | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """The model of a run beside baselines, with 95 % bootstrap intervals; it prints as a table.

    Args:
      run: a trained run, or its folder.
      protocol: by name; None: that of the configuration.
      split: "val" or "test".
      baselines: names, or ("all",); None: those of the configuration that apply.
      reporter: what is told of stages that have to be done again; by default it is printed.

    Raises:
      UserError: there is no trained run, or a name is unknown.
    """
    run = run if isinstance(run, Run) else open_run(run, reporter=reporter or PrintReporter())
    return evaluate_run(run, protocol, split, baselines=baselines)
