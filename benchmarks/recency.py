"""The recency score and its parts beside tuned baselines, with paired bootstrap intervals over users.

    python benchmarks/recency.py --config=configs/demo.py --config.data.split=global_temporal \
      --config.eval.protocol=global_temporal --folder=DIR --output=recency.json
    python benchmarks/recency.py --config=configs/demo.py --folder=DIR --baseline_settings=FILE --output=recency.json

Trains once and tunes the baselines on validation, then with --final trains again on train and validation for as many
epochs as were best, and measures on test: the model, the encoder alone, heads fitted without one part, and the
baselines. The interval of a row is that of (model - row) in the configuration's metric. DIR keeps workdirs and tuned
settings: a second run goes on from there.
"""

import subprocess
import sys
from pathlib import Path

from absl import flags

from launch import app, experiment, recency
from music_map.evaluation.baselines import BASELINES, fit_baselines
from music_map.evaluation.evaluate import confidence_interval, evaluate_scores
from music_map.recency.history import FAMILIARITY
from music_map.recency.moment import TREND
from music_map.recency.scores import FEATURES, QUERIES, WALKS
from music_map.storage import write_json
from music_map.training.loop import steps_per_epoch

_CONFIG = app.define_config()
_FOLDER = flags.DEFINE_string("folder", None, "Folder of the runs.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all results.", required=True)
_FINAL = flags.DEFINE_bool("final", False, "Train on train and validation for the test.")
_BASELINES = flags.DEFINE_list("baselines", ["all"], "Baselines, or 'all'.")
_SETTINGS = flags.DEFINE_string("baseline_settings", None, "JSON file of settings tuned before on validation.")
_METRICS = flags.DEFINE_list("metrics", ["ndcg@10", "ndcg@100", "recall@10", "recall@100"], "Columns of the table.")

PARTS = {
    "the encoder's user embedding": ("user",),
    "attention over the latest songs": QUERIES[1:],
    "familiarity": FAMILIARITY,
    "trends": TREND,
    "walks": WALKS,
}


def trained(workdir: Path, *more: str) -> experiment.Experiment:
    """Trains with this command's own --config flags, and more, in a process of its own."""
    given = [arg for arg in sys.argv[1:] if arg.startswith("--config")]
    command = [sys.executable, "launch/train.py", *given, *more, f"--workdir={workdir}"]
    subprocess.run(command, check=True)
    opened = experiment.open_workdir(workdir)
    return experiment.load(opened.config, trained_on=opened.dataset)


def table(results: dict[str, dict], metric: str) -> str:
    """A Markdown table."""
    lines = [
        f"| | {' | '.join(_METRICS.value)} | model - row, {metric} |",
        "|---|" + "---|" * (len(_METRICS.value) + 1),
    ]
    for name, row in results.items():
        cells = [f"{row['metrics'][key]:.4f}" for key in _METRICS.value]
        low, high = row["behind"]
        cells.append("" if name == "model" else f"[{low:+.4f}, {high:+.4f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    config, folder = _CONFIG.value, Path(_FOLDER.value).absolute()
    names = BASELINES if _BASELINES.value == ["all"] else tuple(_BASELINES.value)
    workdir = folder / "tuning"
    run = trained(workdir)
    if _SETTINGS.value is not None:
        settings = experiment.read_baseline_settings(Path(_SETTINGS.value))
    else:
        validation = experiment.task_for(run, config.eval.protocol, "val")
        kept = folder / f"baselines-{config.eval.protocol}.json"
        settings = experiment.tuned_baselines(run.config, run.dataset, validation, kept, names=names)
    if _FINAL.value:
        step, _ = experiment.best_params(run, workdir)
        epochs = max(1, round(step / steps_per_epoch(run.graph.num_edges, config.train.batch_size)))
        workdir = folder / "final"
        run = trained(workdir, "--config.data.train_on_val=True", f"--config.train.num_epochs={epochs}")
    _, params = experiment.best_params(run, workdir)
    task = experiment.task_for(run, config.eval.protocol, "test")
    without = {f"without {name}": [f for f in FEATURES if f not in part] for name, part in PARTS.items()}
    model = recency.scores_for(run, workdir, params, task)
    scorers = [("model", model), ("the encoder alone", experiment.model_scores(run, params))]
    scorers += recency.ablations(run, workdir, params, task, without)
    baselines = fit_baselines(
        names,
        run.dataset.events("train"),
        task.protocol,
        **experiment.baseline_inputs(run.config, run.dataset),
        settings=settings,
        progress=app.bar,
    )
    metric, ks = config.eval.metric, tuple(config.eval.ks)
    results: dict[str, dict] = {}
    first = evaluate_scores(model, task, ks=ks).topk
    for name, scores in [*scorers, *baselines]:
        found = evaluate_scores(scores, task, ks=ks)
        behind = confidence_interval(metric, task, first, against=found.topk, seed=config.train.seed)
        results[name] = {"metrics": found.metrics, "behind": behind}
    write_json(
        Path(_OUTPUT.value),
        {"protocol": config.eval.protocol, "num_users": len(task.users), "results": results},
    )
    app.say(table(results, metric))
    app.say(f"\n{len(task.users)} users, {task.num_targets} targets, protocol {config.eval.protocol}, split test")
    return 0


if __name__ == "__main__":
    app.run(main)
