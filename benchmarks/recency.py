"""The recency score and its parts beside tuned baselines, with paired bootstrap intervals over users.

    python benchmarks/recency.py --config=configs/demo.py --config.data.split=global_temporal \
      --config.eval.protocol=global_temporal --folder=DIR --output=recency.json
    python benchmarks/recency.py --config=configs/demo.py --folder=DIR --baseline_settings=FILE --output=recency.json

Trains once and tunes the baselines on validation, then with --final trains again on train and validation for as many
epochs as were best, and measures on test: the model, the encoder alone, heads fitted without one part, and the
baselines. The interval of a row is that of (model - row) in the configuration's metric. DIR keeps workdirs and tuned
settings: a second run goes on from there.
"""

from pathlib import Path

import options
from absl import flags
from variants import trained_in

from music_map.errors import UserError
from music_map.evaluation.baselines import BASELINES
from music_map.evaluation.evaluate import confidence_interval, evaluate_scores
from music_map.recency.history import FAMILIARITY
from music_map.recency.moment import TREND
from music_map.recency.scores import FEATURES, QUERIES, WALKS
from music_map.run.config import with_values
from music_map.run.evaluation import fitted_baselines, read_baseline_settings, tuned_baselines
from music_map.run.recency import Past, ablations, scores_for, weights_for
from music_map.storage import write_json

_CONFIG = options.define_config()
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
    config, folder = options.read_config(_CONFIG), Path(_FOLDER.value).absolute()
    names = BASELINES if _BASELINES.value == ["all"] else tuple(_BASELINES.value)
    run = trained_in(folder / "tuning", config, reporter=options.REPORTER)
    if _SETTINGS.value is not None:
        settings = read_baseline_settings(Path(_SETTINGS.value))
    else:
        kept = folder / f"baselines-{config.eval.protocol}.json"
        settings = tuned_baselines(run, run.task(config.eval.protocol, "val"), kept, names=names)
    if _FINAL.value:
        epochs = max(1, round(run.trained.step / run.steps_per_epoch))
        final = with_values(config, {"data.train_on_val": True, "train.num_epochs": epochs})
        run = trained_in(folder / "final", final, reporter=options.REPORTER)
    past, task = Past(run), run.task(config.eval.protocol, "test")
    without = {f"without {name}": [f for f in FEATURES if f not in part] for name, part in PARTS.items()}
    weights = weights_for(past, config.eval.protocol)
    if weights is None:
        raise UserError("this configuration has no recency head: config.recency.enabled is off, or train is too short")
    model = scores_for(past, weights)
    scorers = [("model", model), ("the encoder alone", run.encoder_scores())]
    scorers += ablations(past, task, without)
    baselines = fitted_baselines(run, task, names, settings)
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
    options.say(table(results, metric))
    options.say(f"\n{len(task.users)} users, {task.num_targets} targets, protocol {config.eval.protocol}, split test")
    return 0


if __name__ == "__main__":
    options.run(main)
