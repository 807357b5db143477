"""What each part of the model and its training is worth: the whole, and the whole with one part changed or taken out.

    python benchmarks/ablations.py --config=configs/demo.py --output=ablations.json
    python benchmarks/ablations.py --config=configs/yambda.py --config.data.raw_dir=DIR --output=ablations.json \
      --config.train.batch_size=1024 --config.loss.num_negatives=512 --config.train.num_epochs=30
    python benchmarks/ablations.py --config=configs/demo.py --rows=whole,BPR --seeds=1 --output=ablations.json

Trains each row with each seed and prints two Markdown tables of the encoder's own figures (without recency): means over
seeds, of the first row with 95 % bootstrap intervals over users, of the others with those of the paired difference
(first row - row). "val" is the validation split, by which defaults are chosen.

1. Metrics of the protocol, all rows.
2. Rows that differ in the explicit negative loss: shares of dislikes that rank in their user's top 100, and of the ten
   songs nearest to each in sound. "Unseen": dislikes of the split; "known": those of train, were they not filtered out.
"""

import numpy as np
import options
from absl import flags
from variants import Column, check_all, metric_columns, over_seeds, report, table, trained

from music_map.errors import UserError
from music_map.evaluation.dislikes import unwanted_in_top, unwanted_of
from music_map.evaluation.protocols import RankingTask
from music_map.evaluation.ranking import ScoreBlock
from music_map.model.encoder import Params
from music_map.preprocess.dataset import Dataset
from music_map.run import stages
from music_map.run.config import Config, to_dict, with_values
from music_map.run.run import Run
from music_map.storage import write_json

_CONFIG = options.define_config()
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all results.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each row.", 1)
_ROWS = flags.DEFINE_list("rows", [], "Names of rows, the first of which the others are compared with; by default all.")

METRICS = ("val ndcg@20", "ndcg@20", "recall@20")
SHARES = ("unseen dislikes", "neighbours of unseen", "known dislikes", "neighbours of known")
TOP = 100
WEIGHT = "loss.explicit_negative_weight"


def rows_of(config: Config) -> dict[str, dict]:
    """Changed fields of the configuration by name of the row."""
    adaptive = not config.model.adaptive
    return {
        "whole": {},
        # BPR is a loss of dot products: cosines between -1 and 1 would bound its logits.
        "BPR": {"loss.name": "bpr", "model.score": "dot", "loss.l2": 1e-4},
        "sampled softmax": {"loss.name": "sampled_softmax"},
        "debiased contrastive": {"loss.name": "debiased_contrastive"},
        "no temporal weight": {"graph.half_life_days": float("inf")},
        "no organic factor": {"graph.organic_factor": 1.0},
        "no audio": {"model.audio": False},
        "no metadata": {"model.metadata": False},
        "no audio, no metadata": {"model.audio": False, "model.metadata": False},
        "no songs treated as new": {"model.id_dropout": 0.0},
        "adaptive gamma" if adaptive else "fixed gamma": {"model.adaptive": adaptive},
        "no explicit negatives": {WEIGHT: 0.0},
        **{f"explicit negatives, weight {w}": {WEIGHT: w} for w in (0.1, 0.3, 1.0)},
    }


def shares(scores: ScoreBlock, dataset: Dataset, task: RankingTask) -> dict[str, Column]:
    """Shares of unwanted songs in the lists, as columns: SHARES."""
    counts = [
        count.astype(np.float64)
        for known in (False, True)
        for count in unwanted_in_top(scores, task, unwanted_of(dataset, task, known=known), k=TOP)
    ]
    return {key: Column(*counts[2 * i : 2 * i + 2]) for i, key in enumerate(SHARES)}


def columns_of(run: Run, params: Params) -> dict[str, Column]:
    """Validation and test figures of one trained variant."""
    scores = run.encoder_scores(params)
    val, test = (run.task(run.config.eval.protocol, split) for split in ("val", "test"))
    of_val = metric_columns(scores, val, ["ndcg@20"]) | shares(scores, run.dataset, val)
    of_test = metric_columns(scores, test, ["ndcg@20", "recall@20"]) | shares(scores, run.dataset, test)
    return {f"val {key}": column for key, column in of_val.items()} | of_test


def main() -> int:
    config, output = options.read_config(_CONFIG), options.path_of(_OUTPUT.value, "output")
    rows = rows_of(config)
    for name in _ROWS.value:
        if name not in rows:
            raise UserError(f"--rows: no row {name!r}; choose from {', '.join(rows)}")
    rows = {name: rows[name] for name in _ROWS.value or rows}
    # A row that changes nothing in this configuration would be the whole once more.
    rows = {name: changes for name, changes in rows.items() if not changes or with_values(config, changes) != config}
    check_all(config, rows)
    dataset = stages.ensure_dataset(config, reporter=options.REPORTER)
    seeds: dict[str, list[dict[str, Column]]] = {}
    for name, changes in rows.items():
        for seed in range(_SEEDS.value):
            seeds.setdefault(name, []).append(columns_of(*trained(config, dataset, changes, seed=seed)))
        found = over_seeds(seeds[name])
        options.say(f"{name}: " + ", ".join(f"{key} {found[key].value:.4f}" for key in (*METRICS, *SHARES)))
    first = next(iter(rows))
    pooled = {name: over_seeds(each) for name, each in seeds.items()}
    results = report(pooled, seeds, first)
    counts = {key: int(column.denominator.sum()) for key, column in pooled[first].items()}
    write_json(output, {"results": results, "counts": counts, "config": to_dict(config)})
    options.say(f"\n{table(results, METRICS, first)}")
    options.say(f"\n{counts['ndcg@20']} test users, protocol {config.eval.protocol}, {_SEEDS.value} seeds")
    of_weight = {name: results[name] for name in rows if name == first or WEIGHT in rows[name]}
    if len(of_weight) > 1:
        options.say(f"\n{table(of_weight, SHARES, first)}")
        options.say("\nof " + ", ".join(f"{counts[key]} {key}" for key in SHARES))
    return 0


if __name__ == "__main__":
    options.run(main)
