"""What each part of the model and its training is worth: the whole, and the whole with one part changed or taken out.

    python benchmarks/ablations.py --config=configs/demo.py --output=ablations.json
    python benchmarks/ablations.py --config=configs/yambda.py --config.data.raw_dir=DIR --output=ablations.json \
      --config.train.batch_size=1024 --config.loss.num_negatives=512 --config.train.num_epochs=30
    python benchmarks/ablations.py --config=configs/demo.py --rows=whole,BPR --seeds=1 --output=ablations.json

Trains each row with each seed and prints a Markdown table of the protocol's figures (the encoder's own, without
recency): means over seeds, of the first row with 95 % bootstrap intervals over users, of the others with those of the
paired difference (first row - row). "val" is the validation split, by which defaults are chosen; the rest is test.
"""

from absl import flags
from variants import check_all, metric_columns, over_seeds, report, table, trained

from launch import app, experiment, stages
from launch.search_space import with_values
from music_map.errors import UserError
from music_map.storage import write_json

_CONFIG = app.define_config()
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all results.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each row.", 1)
_ROWS = flags.DEFINE_list("rows", [], "Names of rows, the first of which the others are compared with; by default all.")

METRICS = ("ndcg@20", "recall@20")
COLUMNS = ("val ndcg@20", *METRICS)


def rows_of(config) -> dict[str, dict]:
    """Changed fields of the configuration by name of the row."""
    adaptive = not config.model.adaptive
    return {
        "whole": {},
        # BPR is a loss of dot products: cosines between -1 and 1 would bound its logits.
        "BPR": {"loss.name": "bpr", "model.score": "dot", "loss.l2": 1e-4},
        "sampled softmax": {"loss.name": "sampled_softmax"},
        "contrastive, not debiased": {"loss.name": "debiased_contrastive", "loss.positive_prior": 0.0},
        "debiased contrastive, prior 0.01": {"loss.name": "debiased_contrastive", "loss.positive_prior": 0.01},
        "no explicit negative loss": {"loss.explicit_negative_weight": 0.0},
        "no temporal weight": {"graph.half_life_days": float("inf")},
        "no organic factor": {"graph.organic_factor": 1.0},
        "no audio": {"model.audio": False},
        "no metadata": {"model.metadata": False},
        "no audio, no metadata": {"model.audio": False, "model.metadata": False},
        "no songs treated as new": {"model.id_dropout": 0.0},
        "adaptive gamma" if adaptive else "fixed gamma": {"model.adaptive": adaptive},
    }


def columns_of(run, params) -> dict:
    """Validation and test figures of one trained variant."""
    scores, protocol = experiment.model_scores(run, params), run.config.eval.protocol
    found = metric_columns(scores, experiment.task_for(run, protocol, "val"), METRICS[:1])
    columns = {f"val {key}": column for key, column in found.items()}
    return columns | metric_columns(scores, experiment.task_for(run, protocol, "test"), METRICS)


def main() -> int:
    config, output = _CONFIG.value, app.path_of(_OUTPUT.value, "output")
    rows = rows_of(config)
    for name in _ROWS.value:
        if name not in rows:
            raise UserError(f"--rows: no row {name!r}; choose from {', '.join(rows)}")
    rows = {name: rows[name] for name in _ROWS.value or rows}
    # A row that changes nothing in this configuration would be the whole once more.
    rows = {name: changes for name, changes in rows.items() if not changes or with_values(config, changes) != config}
    check_all(config, rows)
    dataset = stages.ensure_dataset(config)
    seeds: dict[str, list] = {}
    for name, changes in rows.items():
        for seed in range(_SEEDS.value):
            seeds.setdefault(name, []).append(columns_of(*trained(config, dataset, changes, seed=seed)))
        app.say(f"{name}: " + ", ".join(f"{k} {over_seeds(seeds[name])[k].value:.4f}" for k in COLUMNS))
    first = next(iter(rows))
    pooled = {name: over_seeds(each) for name, each in seeds.items()}
    results = report(pooled, seeds, first)
    users = len(pooled[first]["ndcg@20"].numerator)
    write_json(output, {"results": results, "num_users": users, "config": app.to_dict(config)})
    app.say(f"\n{table(results, COLUMNS, first)}")
    app.say(f"\n{users} test users, protocol {config.eval.protocol}, {_SEEDS.value} seeds")
    return 0


if __name__ == "__main__":
    app.run(main)
