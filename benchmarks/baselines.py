"""Baselines tuned on validation, measured on test, with 95 % bootstrap intervals over users.

    python benchmarks/baselines.py --config=configs/yambda.py --config.data.raw_dir=DIR --output=baselines.json
    python benchmarks/baselines.py --config=configs/demo.py --config.data.split=global_temporal --final \
      --config.eval.protocol=global_temporal --output=baselines.json
    python benchmarks/baselines.py --config=configs/lightgcnpp.py:gowalla --config.data.path=DIR --final \
      --baselines=most_pop,item_knn,ials,bpr_mf --output=baselines.json

With --final the baselines are fitted on train and validation for the test, as Yambda's paper and the literature on
Gowalla do, with the settings chosen before on validation. OUTPUT holds all metrics and all trials; a second run with
the same output tunes nothing again.
"""

from pathlib import Path

from absl import flags

from launch import app, experiment, stages
from music_map.evaluation.baselines import BASELINES, fit_baselines, settings_to_json
from music_map.evaluation.evaluate import confidence_interval, evaluate_scores
from music_map.evaluation.metrics import PER_USER
from music_map.evaluation.protocols import build_task
from music_map.storage import read_json, write_json

_CONFIG = app.define_config()
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all results.", required=True)
_BASELINES = flags.DEFINE_list("baselines", ["all"], "Baselines, or 'all'.")
_FINAL = flags.DEFINE_bool("final", False, "Fit on train and validation for the test.")
_METRICS = flags.DEFINE_list("metrics", ["recall@20", "ndcg@20", "recall@100", "ndcg@100"], "Columns of the table.")


def task_of(config, dataset, split):
    """Targets, masks and candidates of the protocol."""
    return build_task(
        config.eval.protocol,
        split,
        **{name: dataset.events(name) for name in ("train", "val", "test")},
        num_users=dataset.num_users,
        num_items=dataset.num_items,
        min_played_pct=config.eval.min_played_pct,
    )


def measured(scores, task, config) -> dict:
    """All metrics, and an interval [low, high] for those of the table that are means over users."""
    evaluation = evaluate_scores(scores, task, ks=tuple(config.eval.ks), progress=app.bar)
    keys = [key for key in _METRICS.value if key.partition("@")[0] in PER_USER]
    intervals = {key: confidence_interval(key, task, evaluation.topk, seed=config.train.seed) for key in keys}
    return {"metrics": evaluation.metrics, "intervals": intervals}


def table(results: dict[str, dict]) -> str:
    """A Markdown table."""
    lines = [f"| | {' | '.join(_METRICS.value)} |", "|---|" + "---|" * len(_METRICS.value)]
    for name, result in results.items():
        cells = []
        for metric in _METRICS.value:
            low, high = result["intervals"].get(metric, (None, None))
            interval = "" if low is None else f" [{low:.4f}, {high:.4f}]"
            cells.append(f"{result['metrics'][metric]:.4f}{interval}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    config, output = _CONFIG.value, app.path_of(_OUTPUT.value, "output")
    names = BASELINES if _BASELINES.value == ["all"] else tuple(_BASELINES.value)
    experiment.check_baselines(names, "--baselines")
    experiment.check(config)

    dataset = stages.ensure_dataset(config)
    chosen = Path(f"{output}.tuned.json")
    validation = task_of(config, dataset, "val")
    settings = experiment.tuned_baselines(config, dataset, validation, chosen, names=names)

    if _FINAL.value:
        config.data.train_on_val = True
        dataset = stages.ensure_dataset(config)
    task = task_of(config, dataset, "test")
    results = {}
    for name in names:
        ((_, scores),) = fit_baselines(
            [name],
            dataset.events("train"),
            task.protocol,
            **experiment.baseline_inputs(config, dataset),
            settings=settings,
            progress=app.bar,
        )
        results[name] = measured(scores, task, config)
        row = ", ".join(f"{metric} {results[name]['metrics'][metric]:.4f}" for metric in _METRICS.value)
        app.say(f"{name}: test {row}")
    about = {"protocol": task.protocol.name, "num_users": len(task.users), "num_targets": task.num_targets}
    trials = read_json(chosen)["trials"] if chosen.exists() else {}
    write_json(
        output,
        about
        | {"results": results, "settings": settings_to_json(settings), "trials": trials}
        | {"config": app.to_dict(config)},
    )
    app.say(
        f"\n{table(results)}\n\n{len(task.users)} users, protocol {task.protocol.name}, {task.catalogue} candidates"
    )
    return 0


if __name__ == "__main__":
    app.run(main)
