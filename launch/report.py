"""One HTML page on a run, or on several side by side: data, results, slices, popularity, examples, learning curves.

    python launch/report.py --workdir=checkpoints/demo --output=report.html
    python launch/report.py --workdir=checkpoints/new --workdir=checkpoints/old --output=report.html --split=val

The figures are those of launch/evaluate.py, with 95 % intervals over users, beside the baselines; the first run is
compared with each other one as by launch/compare.py, so all must have been trained on the same data. The page needs no
network: charts, style and the figures as JSON are in it. Needs the extra "report" (pip install -e '.[report]').
"""

import importlib.metadata
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from configs import yambda
from launch import app, examples, experiment, plan, recency, stages
from music_map.errors import UserError
from music_map.evaluation.baselines.settings import Settings
from music_map.evaluation.evaluate import Evaluation, compare, evaluate_scores, summary
from music_map.evaluation.protocols import PROTOCOLS, RankingTask, find_protocol
from music_map.graph.bipartite import listeners_of
from music_map.graph.build import graph_fingerprint, graph_folder
from music_map.model.encoder import Params
from music_map.storage import ArrayFolder, write_text
from music_map.training.metrics_log import MetricsLog

_WORKDIRS = flags.DEFINE_multi_string(
    "workdir", [], "Folder of a run of launch/train.py; once for each run, the first is compared with the others."
)
_OUTPUT = flags.DEFINE_string("output", None, "HTML file to write.", required=True)
_PROTOCOL = flags.DEFINE_string("protocol", None, "A protocol over users; by default the first run's eval.protocol.")
_SPLIT = flags.DEFINE_string("split", "test", "Split to evaluate on: val or test.")
_BASELINES = flags.DEFINE_list("baselines", None, "Baselines, or 'all'; by default those of the first run.")
_SETTINGS = flags.DEFINE_string("baseline_settings", None, "JSON file of settings that --tune_baselines has written.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say which runs would be evaluated, and beside what.")


class _Measured(NamedTuple):
    """What the runs share: the task, its baselines, and what is said of the data."""

    task: RankingTask
    baselines: dict[str, Evaluation]
    listeners: np.ndarray
    parts: list[Any]
    data: dict[str, Any]


def main() -> int:
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed; install the extra: pip install -e '.[report]'")
    from music_map.reporting import exposure, page

    workdirs = [app.path_of(text, "workdir") for text in _WORKDIRS.value]
    output = app.file_to_write(_OUTPUT.value, "output")
    opened, protocol, baselines, settings = _checked(workdirs)
    if _DRY_RUN.value:
        plan.say_evaluation(workdirs, protocol, _SPLIT.value, baselines, plan.settings_from(_SETTINGS.value))
        app.say(f"to write: {output}")
        return 0
    config, metric = opened[0].config, opened[0].config.eval.metric
    names, shared, chosen = _names(workdirs), None, None
    runs, of_runs = [], []
    for name, workdir, each in zip(names, workdirs, opened, strict=True):
        run = experiment.load(each.config, trained_on=each.dataset)
        step, params = experiment.best_params(run, workdir)
        shared = shared or _measure(run, protocol, baselines, settings)
        found = _evaluate(run, workdir, params, shared.task, ks=tuple(config.eval.ks))
        chosen = chosen or examples.choose(run.dataset, shared.task, found["model"], metric=metric)
        runs.append(
            {
                "name": name,
                "workdir": str(workdir),
                "step": step,
                **_figures(found, shared, metric, ks=tuple(config.eval.ks), seed=each.config.train.seed),
                **examples.of_run(workdir, shared.task, found["model"], chosen, shared.listeners),
                **_progress(workdir),
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
                name: compare(of_runs[0], found, task, ks=tuple(config.eval.ks))
                for name, found in zip(names[1:], of_runs[1:], strict=True)
            },
            "targets": exposure.exposure(task.targets.items, shared.listeners, task.candidates),
            "config": _configurations(opened),
            "commands": _commands(workdirs, protocol),
        }
    )
    write_text(output, html)
    for run in runs:
        value = run["report"]["model"][metric]
        app.say(f"{run['name']}: {metric} {value:.4f}, protocol {protocol}, {_SPLIT.value} split")
    app.say(f"{output}: {len(html) / 1e3:,.0f} kB")
    return 0


def _checked(
    workdirs: list[Path],
) -> tuple[list[experiment.Run], str, tuple[str, ...], dict[str, Settings] | None]:
    """The runs, the protocol, the baselines and their settings. Raises UserError for flags that do not go together."""
    if not workdirs:
        raise UserError("--workdir missing; see --help")
    app.check_split(_SPLIT.value)
    opened = [experiment.open_workdir(workdir) for workdir in workdirs]
    experiment.check_same_data(workdirs, opened)
    config = opened[0].config
    protocol = _PROTOCOL.value if _PROTOCOL.value is not None else config.eval.protocol
    experiment.check_protocol(config, protocol, "--protocol")
    if find_protocol(protocol).queries != "users":
        over_users = ", ".join(p.name for p in PROTOCOLS.values() if p.queries == "users")
        raise UserError(f"--protocol={protocol}: must be one over users: {over_users}")
    baselines = experiment.baseline_names(config, protocol, _BASELINES.value)
    experiment.check_baselines(baselines, "--baselines")
    settings = None
    if _SETTINGS.value is not None:
        settings = experiment.read_baseline_settings(app.path_of(_SETTINGS.value, "baseline_settings"))
    return opened, protocol, baselines, settings


def _measure(
    run: experiment.Experiment, protocol: str, baselines: Sequence[str], settings: dict[str, Settings] | None
) -> _Measured:
    from music_map.reporting import distributions, slices

    config = run.config
    task = experiment.task_for(run, protocol, _SPLIT.value)
    fitted = experiment.fitted_baselines(run, task, baselines, settings)
    options = {"ks": tuple(config.eval.ks), "progress": app.bar}
    evaluated = {name: evaluate_scores(scores, task, **options) for name, scores in fitted}
    listeners = listeners_of(run.graph)
    parts = slices.parts_of(run.dataset, task, listeners, min_played_pct=config.eval.min_played_pct)
    data = distributions.data_facts(run.dataset, run.graph, _graph_stats(run))
    return _Measured(task, evaluated, listeners, parts, data)


def _evaluate(
    run: experiment.Experiment, workdir: Path, params: Params, task: RankingTask, *, ks: tuple[int, ...]
) -> dict[str, Evaluation]:
    """The forms of the model, as launch/evaluate.py has them."""
    models = {"model": experiment.model_scores(run, params)}
    recent = recency.scores_for(run, workdir, params, task)
    if recent is not None:
        models = {"model": recent, "model_without_recency": models["model"]}
    return {form: evaluate_scores(scores, task, ks=ks, progress=app.bar) for form, scores in models.items()}


def _figures(
    found: dict[str, Evaluation], shared: _Measured, metric: str, *, ks: tuple[int, ...], seed: int
) -> dict[str, Any]:
    from music_map.reporting import exposure, slices

    task, scorers = shared.task, found | shared.baselines
    return {
        "report": summary(found, shared.baselines, task, ks=ks, seed=seed),
        "slices": slices.measure(shared.parts, scorers, task, metric=metric, seed=seed),
        "exposure": {
            name: exposure.exposure(each.topk[:, : _cutoff(metric)], shared.listeners, task.candidates)
            for name, each in scorers.items()
        },
    }


def _cutoff(metric: str) -> int:
    return int(metric.partition("@")[2])


def _names(workdirs: list[Path]) -> list[str]:
    """The last part of each path where these differ, else the paths."""
    names = [workdir.name for workdir in workdirs]
    return names if len(set(names)) == len(names) and all(names) else [str(workdir) for workdir in workdirs]


def _graph_stats(run: experiment.Experiment) -> dict[str, Any]:
    identity = graph_fingerprint(run.dataset, stages.graph_settings(run.config))
    return ArrayFolder.open(graph_folder(stages.processed_dir(run.config), identity)).meta["stats"]


def _progress(workdir: Path) -> dict[str, Any]:
    """Lines of metrics.jsonl, and the seconds that training took."""
    lines = MetricsLog(workdir / "metrics.jsonl").read()
    last = lines[-1] if lines else {}
    seconds = {key.removeprefix("seconds/"): value for key, value in last.items() if key.startswith("seconds/")}
    return {"lines": lines, "seconds": seconds}


def _configurations(opened: list[experiment.Run]) -> list[dict[str, Any]]:
    """A row a field: its value in each run, and by default; places of the data are left out."""
    default = experiment.flat(app.to_dict(yambda.get_config()))
    each = [experiment.flat(app.to_dict(run.config)) for run in opened]
    rows = []
    for field in sorted(set().union(*each) - experiment.PLACES):
        values = [str(config[field]) if field in config else "–" for config in each]
        usual = str(default[field]) if field in default else "–"
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


def _commands(workdirs: list[Path], protocol: str) -> list[str]:
    more = [f"--{flag}={','.join(value)}" for flag, value in (("baselines", _BASELINES.value),) if value is not None]
    if _SETTINGS.value is not None:
        more.append(f"--baseline_settings={_SETTINGS.value}")
    same = [f"--protocol={protocol}", f"--split={_SPLIT.value}"]
    lines = [
        shlex.join(
            ["python", "launch/evaluate.py", f"--workdir={workdir}", f"--output={workdir.name}.json", *same, *more]
        )
        for workdir in workdirs
    ]
    lines += [
        shlex.join(["python", "launch/compare.py", str(workdirs[0]), str(workdir), *same]) for workdir in workdirs[1:]
    ]
    return lines


if __name__ == "__main__":
    app.run(main)
