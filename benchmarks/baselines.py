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

import options
from absl import flags

from music_map.errors import about
from music_map.evaluation.baselines import BASELINES, check_names, settings_to_json
from music_map.evaluation.evaluate import confidence_interval, evaluate_scores
from music_map.evaluation.metrics import METRICS
from music_map.run.config import to_dict, with_values
from music_map.run.evaluation import fitted_baselines, tuned_baselines
from music_map.run.run import check, prepare
from music_map.storage import read_json, write_json

_CONFIG = options.define_config()
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all results.", required=True)
_BASELINES = flags.DEFINE_list("baselines", ["all"], "Baselines, or 'all'.")
_FINAL = flags.DEFINE_bool("final", False, "Fit on train and validation for the test.")
_METRICS = flags.DEFINE_list("metrics", ["recall@20", "ndcg@20", "recall@100", "ndcg@100"], "Columns of the table.")


def measured(scores, task, config) -> dict:
    """All metrics, and an interval [low, high] for those of the table that are means over users."""
    evaluation = evaluate_scores(scores, task, ks=tuple(config.eval.ks), progress=options.bar)
    keys = [key for key in _METRICS.value if METRICS.find(key.partition("@")[0]).per_user]
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
    config, output = options.read_config(_CONFIG), options.path_of(_OUTPUT.value, "output")
    names = BASELINES if _BASELINES.value == ["all"] else tuple(_BASELINES.value)
    with about("--baselines"):
        check_names(names)
    check(config)

    run, protocol = prepare(config, reporter=options.REPORTER), config.eval.protocol
    chosen = Path(f"{output}.tuned.json")
    settings = tuned_baselines(run, run.task(protocol, "val"), chosen, names=names)

    if _FINAL.value:
        config = with_values(config, {"data.train_on_val": True})
        run = prepare(config, reporter=options.REPORTER)
    task = run.task(protocol, "test")
    results = {}
    for name, scores in fitted_baselines(run, task, names, settings):
        results[name] = measured(scores, task, config)
        row = ", ".join(f"{metric} {results[name]['metrics'][metric]:.4f}" for metric in _METRICS.value)
        options.say(f"{name}: test {row}")
    counts = {"protocol": task.protocol.name, "num_users": len(task.users), "num_targets": task.num_targets}
    trials = read_json(chosen)["trials"] if chosen.exists() else {}
    write_json(
        output,
        counts
        | {"results": results, "settings": settings_to_json(settings), "trials": trials}
        | {"config": to_dict(config)},
    )
    options.say(
        f"\n{table(results)}\n\n{len(task.users)} users, protocol {task.protocol.name}, {task.catalogue} candidates"
    )
    return 0


if __name__ == "__main__":
    options.run(main)
