"""Songs that nobody is known to have played: the model without parts of its content, and baselines.

    python benchmarks/cold_start.py --config=configs/demo.py --output=cold_start.json
    python benchmarks/cold_start.py --config=configs/yambda.py --config.data.raw_dir=DIR --output=cold_start.json \
      --config.train.batch_size=1024 --config.loss.num_negatives=512 --config.train.num_epochs=30

Holds 10 % of the songs out altogether (data.cold_item_fraction, where the configuration has none of its own), trains on
the rest with each seed, the epoch chosen by warm validation, and ranks the held-out songs alone. Baselines are tuned on
the protocol's validation users. Means over seeds, of the first row with 95 % bootstrap intervals over users, of the
others with those of the paired difference (first row - row).
"""

import dataclasses

import options
from absl import flags
from variants import check_all, metric_columns, over_seeds, report, table, trained

from music_map.evaluation.baselines import COLD_START, settings_to_json
from music_map.run.config import to_dict, with_values
from music_map.run.evaluation import fitted_baselines, tuned_baselines
from music_map.run.run import prepare
from music_map.storage import write_json

_CONFIG = options.define_config()
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all results.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of each model.", 1)
_SPLIT = flags.DEFINE_enum("split", "test", ["val", "test"], "Half of the users; settings are chosen on val.")

PROTOCOL = "cold_start"
METRICS = ("recall@20", "recall@100", "ndcg@20")
MODELS = {
    "model": {},
    "model without audio": {"model.audio": False},
    "model without metadata": {"model.metadata": False},
    "model without songs treated as new": {"model.id_dropout": 0.0},
}


def main() -> int:
    config, output = options.read_config(_CONFIG), options.path_of(_OUTPUT.value, "output")
    if config.data.cold_item_fraction == 0:
        config = with_values(config, {"data.cold_item_fraction": 0.1})
    check_all(config, MODELS)
    prepared = prepare(config, reporter=options.REPORTER)
    tasks = {split: prepared.task(PROTOCOL, split) for split in ("val", "test")}
    task = tasks[_SPLIT.value]
    seeds: dict[str, list] = {}
    for name, changes in MODELS.items():
        for seed in range(_SEEDS.value):
            run, params = trained(config, prepared.dataset, changes, seed=seed)
            forms = {name: run}
            if name == "model":
                # The same training, ranked by the songs' content alone.
                forms["model without neighbours in sound"] = dataclasses.replace(run, nearest=None)
            for form, run in forms.items():
                scores = run.encoder_scores(params)
                seeds.setdefault(form, []).append(metric_columns(scores, task, METRICS))
        options.say(f"{name}: " + ", ".join(f"{k} {c.value:.4f}" for k, c in over_seeds(seeds[name]).items()))
    rows = {name: over_seeds(each) for name, each in seeds.items()}
    kept = output.with_name(f"{output.name}.tuned.json")
    settings = tuned_baselines(prepared, tasks["val"], kept, names=COLD_START)
    for name, scores in fitted_baselines(prepared, task, COLD_START, settings):
        rows[name] = metric_columns(scores, task, METRICS)
    results = report(rows, seeds, "model")
    about = {"num_users": len(task.users), "num_targets": task.num_targets, "num_candidates": task.catalogue}
    settings = settings_to_json({name: settings[name] for name in settings if name in COLD_START})
    write_json(output, about | {"results": results, "settings": settings, "config": to_dict(config)})
    options.say(f"\n{table(results, METRICS, 'model')}")
    options.say(
        f"\n{about['num_users']} users, {about['num_targets']} targets, {about['num_candidates']} held-out songs, "
        f"protocol {PROTOCOL}, split {_SPLIT.value}, {_SEEDS.value} seeds"
    )
    return 0


if __name__ == "__main__":
    options.run(main)
