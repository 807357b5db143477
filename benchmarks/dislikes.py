"""How well the explicit negative loss keeps disliked songs, and songs that sound like them, out of the top 100.

    python benchmarks/dislikes.py --config=configs/demo.py --output=dislikes.json
    python benchmarks/dislikes.py --config=configs/yambda.py --config.data.raw_dir=DIR --output=dislikes.json \
      --config.train.batch_size=1024 --config.loss.num_negatives=512 --config.train.num_epochs=30

Trains with each of --weights and each seed. Columns, for the validation and the test split: NDCG@20; the share of the
split's dislikes, which the model has not seen, that rank in the user's top 100; the same of the ten songs nearest to
each of them in sound; and both again for the dislikes of train, the only ones that an unseen one can be told by, were
they not filtered out. Means over seeds, of the first row with 95 % bootstrap intervals over users, of the others with
those of the paired difference (first row - row).
"""

import numpy as np
from absl import flags
from variants import Column, check_all, metric_columns, over_seeds, report, table, trained

from launch import app, experiment, stages
from music_map.evaluation.dislikes import unwanted_in_top, unwanted_of
from music_map.evaluation.evaluate import ScoreBlock
from music_map.evaluation.protocols import RankingTask
from music_map.preprocess.dataset import Dataset
from music_map.storage import write_json

_CONFIG = app.define_config()
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all results.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each weight.", 1)
_WEIGHTS = flags.DEFINE_list("weights", ["0", "0.1", "0.3", "1"], "Values of loss.explicit_negative_weight.")
_SPLIT = flags.DEFINE_enum("split", "test", ["val", "test"], "Split to measure on; a weight is chosen on val.")

TOP = 100


def shares(scores: ScoreBlock, dataset: Dataset, task: RankingTask) -> dict[str, Column]:
    """Shares of unwanted songs in the lists, as columns."""
    found = {}
    for whose, known in (("unseen", False), ("known", True)):
        counts = unwanted_in_top(scores, task, unwanted_of(dataset, task, known=known), k=TOP)
        counts = [count.astype(np.float64) for count in counts]
        found[f"{whose} dislikes"] = Column(*counts[:2])
        found[f"their neighbours ({whose})"] = Column(*counts[2:])
    return found


def main() -> int:
    config, output = _CONFIG.value, app.path_of(_OUTPUT.value, "output")
    rows = {f"weight {w}": {"loss.explicit_negative_weight": float(w)} for w in _WEIGHTS.value}
    check_all(config, rows)
    dataset = stages.ensure_dataset(config)
    seeds: dict[str, list] = {}
    for name, changes in rows.items():
        for seed in range(_SEEDS.value):
            run, params = trained(config, dataset, changes, seed=seed)
            scores, task = (
                experiment.model_scores(run, params),
                experiment.task_for(run, config.eval.protocol, _SPLIT.value),
            )
            columns = metric_columns(scores, task, ["ndcg@20"]) | shares(scores, dataset, task)
            seeds.setdefault(name, []).append(columns)
        app.say(f"{name}: " + ", ".join(f"{k} {c.value:.4f}" for k, c in over_seeds(seeds[name]).items()))
    first = next(iter(rows))
    pooled = {name: over_seeds(each) for name, each in seeds.items()}
    results = report(pooled, seeds, first)
    counts = {key: int(column.denominator.sum()) for key, column in pooled[first].items()}
    write_json(output, {"results": results, "counts": counts, "config": app.to_dict(config)})
    app.say(f"\n{table(results, list(counts), first)}")
    app.say(f"\nof {counts}; protocol {config.eval.protocol}, split {_SPLIT.value}, {_SEEDS.value} seeds")
    return 0


if __name__ == "__main__":
    app.run(main)
