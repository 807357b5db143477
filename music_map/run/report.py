"""One page on a run, or on several side by side: what is measured, and the page's data."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from music_map.evaluation.baselines.settings import Settings
from music_map.evaluation.evaluate import Evaluation, compare, evaluate_scores, summary
from music_map.evaluation.protocols import RankingTask
from music_map.graph.bipartite import listeners_of
from music_map.graph.build import graph_fingerprint, graph_folder
from music_map.reporter import SILENT, Reporter
from music_map.reporting import distributions, examples, exposure, page, slices
from music_map.run.config import PLACES, Config, flat, to_dict
from music_map.run.evaluation import fitted_baselines, models_of
from music_map.run.folder import check_same_data, read_record
from music_map.run.recency import Past
from music_map.run.recommender import Recommender
from music_map.run.run import Run, open_run
from music_map.storage import ArrayFolder
from music_map.training.metrics_log import MetricsLog


class Report(NamedTuple):
    """A page.

    Attributes:
      html: the page, whole.
      values: the validation metric of each run by its name.
    """

    html: str
    values: dict[str, float]


class _Measured(NamedTuple):
    """What the runs share: the task, its baselines, its slices, and facts on the data."""

    task: RankingTask
    baselines: dict[str, Evaluation]
    listeners: np.ndarray
    slices: list[slices.Slice]
    data: dict[str, Any]


def make_report(
    workdirs: Sequence[Path],
    *,
    protocol: str,
    split: str,
    baselines: Sequence[str],
    settings: Mapping[str, Settings] | None = None,
    commands: Sequence[str] = (),
    reporter: Reporter = SILENT,
) -> Report:
    """Measures runs that were trained on the same data, beside baselines, and renders the page.

    Args:
      workdirs: of the runs; the first is compared with each other one.
      protocol: one over users, by name.
      split: "val" or "test".
      baselines: by name.
      settings: of the baselines.
      commands: shown at the end of the page.
      reporter: shows slow stages.
    """
    records = [read_record(workdir) for workdir in workdirs]
    check_same_data(workdirs, records)
    config, metric = records[0].config, records[0].config.eval.metric
    names, shared, chosen = _names(workdirs), None, None
    runs, of_runs, ks = [], [], config.eval.ks
    for name, workdir in zip(names, workdirs, strict=True):
        past = Past(open_run(workdir, reporter=reporter))
        shared = shared or _measure(past.run, protocol, split, baselines, settings)
        scorers = {form: make() for form, make in models_of(past, shared.task).items()}
        found = {
            form: evaluate_scores(scorer, shared.task, ks=ks, progress=reporter.bar) for form, scorer in scorers.items()
        }
        chosen = chosen or examples.choose(past.run.dataset, shared.task, found["model"], metric=metric)
        recommender, dataset = Recommender.load(workdir, reporter=reporter), past.run.dataset
        runs.append(
            {
                "name": name,
                "workdir": str(workdir),
                "step": past.run.trained.step,
                **_figures(found, shared, metric, ks=ks, seed=past.run.config.train.seed),
                **examples.of_run(
                    recommender,
                    shared.task,
                    found["model"],
                    chosen,
                    shared.listeners,
                    scorers["model"],
                    lambda user, dataset=dataset: dataset.user_events("train", user).item,
                ),
                **_progress(workdir, reporter),
            }
        )
        of_runs.append(found["model"])
    task = shared.task
    html = page.render(
        {
            "version": importlib.metadata.version("music-map"),
            "metric": metric,
            "top": f"the first {_cutoff(metric)} songs",
            "data": shared.data,
            "baselines": list(baselines),
            "runs": runs,
            "compared": {
                name: compare(of_runs[0], found, task, ks=ks)
                for name, found in zip(names[1:], of_runs[1:], strict=True)
            },
            "targets": exposure.exposure(task.targets.items, shared.listeners, task.candidates),
            "config": _configurations([record.config for record in records]),
            "commands": list(commands),
        }
    )
    return Report(html, {run["name"]: run["report"]["model"][metric] for run in runs})


def _measure(
    run: Run, protocol: str, split: str, baselines: Sequence[str], settings: Mapping[str, Settings] | None
) -> _Measured:
    task, config = run.task(protocol, split), run.config
    options = {"ks": config.eval.ks, "progress": run.reporter.bar}
    fitted = fitted_baselines(run, task, baselines, settings)
    evaluated = {name: evaluate_scores(scores, task, **options) for name, scores in fitted}
    listeners = listeners_of(run.graph)
    parts = slices.slices_of(run.dataset, task, listeners, min_played_pct=config.eval.min_played_pct)
    data = distributions.data_facts(run.dataset, run.graph, _graph_stats(run))
    return _Measured(task, evaluated, listeners, parts, data)


def _figures(
    found: dict[str, Evaluation], shared: _Measured, metric: str, *, ks: tuple[int, ...], seed: int
) -> dict[str, Any]:
    task, scorers = shared.task, found | shared.baselines
    return {
        "report": summary(found, shared.baselines, task, ks=ks, seed=seed),
        "slices": slices.measure(shared.slices, scorers, task, metric=metric, seed=seed),
        "exposure": {
            name: exposure.exposure(each.topk[:, : _cutoff(metric)], shared.listeners, task.candidates)
            for name, each in scorers.items()
        },
    }


def _cutoff(metric: str) -> int:
    return int(metric.partition("@")[2])


def _names(workdirs: Sequence[Path]) -> list[str]:
    """The last part of each path where these differ, else the paths."""
    names = [workdir.name for workdir in workdirs]
    return names if len(set(names)) == len(names) and all(names) else [str(workdir) for workdir in workdirs]


def _graph_stats(run: Run) -> dict[str, Any]:
    identity = graph_fingerprint(run.dataset, run.config.graph)
    return ArrayFolder.open(graph_folder(run.config.data.processed, identity)).meta["stats"]


def _progress(workdir: Path, reporter: Reporter) -> dict[str, Any]:
    """Lines of metrics.jsonl, and the seconds that training took."""
    lines = MetricsLog(workdir / "metrics.jsonl", warn=reporter.warn).read()
    last = lines[-1] if lines else {}
    seconds = {key.removeprefix("seconds/"): value for key, value in last.items() if key.startswith("seconds/")}
    return {"lines": lines, "seconds": seconds}


def _configurations(configs: Sequence[Config]) -> list[dict[str, Any]]:
    """One row per field: its value in each run, and its default; folders of the data are left out."""
    default = flat(to_dict(Config()))
    each = [flat(to_dict(config)) for config in configs]
    rows = []
    for field in sorted(default.keys() - set(PLACES)):
        values, usual = [str(config[field]) for config in each], str(default[field])
        rows.append(
            {
                "field": field,
                "values": values,
                "default": usual,
                "differs": len(set(values)) > 1,
                "changed": any(value != usual for value in values),
            }
        )
    return rows
