"""The sizes that follow from small logs beside others, and the model beside item-kNN, on generated logs.

    python benchmarks/small_logs.py --folder=DIR --output=small_logs.json --num_listens=24000
    python benchmarks/small_logs.py --folder=DIR --output=small_logs.json --num_listens=100000 --variants=sizes.py

Each variant trains on the logs of every seed and is measured on validation; the one of music_map/sizes.py on test too.
A row has the mean over the seeds, and the interval of the mean difference from item-kNN: the seeds' own bootstrap
intervals over users, as independent.
"""

import math
from pathlib import Path

import numpy as np
import options
from absl import flags

import music_map as mm
from music_map.errors import UserError
from music_map.reporter import SILENT
from music_map.runfiles import read_json
from music_map.storage import write_json
from music_map.synthetic.settings import settings_for
from music_map.synthetic.writer import generate

_FOLDER = flags.DEFINE_string(
    "folder", None, "Folder of logs and runs; what is there is not made again.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.", required=True)
_LISTENS = flags.DEFINE_integer("num_listens", 24_000, "Of a log; a user has 100, a song 40.", 1_000)
_SEEDS = flags.DEFINE_list("seeds", ["1", "2", "3"], "Of the logs.")

OURS = "sizes.py"
VARIANTS = {
    OURS: {},
    "batch half": {"train.batch_size": 0.5},
    "batch double": {"train.batch_size": 2},
    "batch fourfold": {"train.batch_size": 4},
    "without patience": {"train.patience": 0},
    "300 steps": {"train.min_steps": 0.5},
    "1200 steps": {"train.min_steps": 2},
    "2400 steps without patience": {"train.min_steps": 4, "train.patience": 0},
    "32 dimensions": {"model.embedding_dim": 0.5},
    "128 dimensions": {"model.embedding_dim": 2},
    "2 interactions": {"data.min_interactions": 0.2},
    "5 interactions": {"data.min_interactions": 0.5},
}
_VARIANTS = flags.DEFINE_list("variants", list(VARIANTS), "Rows of the table.")
METRIC = "ndcg@20"


def raw_logs(folder: Path, listens: int, seed: int) -> Path:
    raw_dir = folder / "raw"
    if not raw_dir.exists():
        settings = settings_for(
            "tiny", num_users=listens // 100, num_items=listens // 40, num_listens=listens, seed=seed
        )
        generate(raw_dir, settings)
    return raw_dir


def chosen(factors: dict, sizes: dict) -> dict:
    """The fields of a variant: factors of the sizes that follow from the logs."""
    found = {}
    for name, factor in factors.items():
        if name != "train.patience":
            factor = round(factor * sizes[name])
        found[name] = factor
        if name == "train.min_steps":
            found["train.num_epochs"] = 1  # the least number of steps decides
    return found


def trained(folder: Path, name: str, listens: int, seed: int) -> mm.Run:
    """A run of a variant on the logs of a seed."""
    logs = mm.read_logs(raw_logs(folder, listens, seed), size="tiny", reporter=SILENT)
    if name == OURS:
        return mm.train(logs, folder / "sizes", reporter=SILENT)
    config = mm.open_run(folder / "sizes", reporter=SILENT).config
    sizes = {
        "data.min_interactions": config.data.min_interactions,
        "model.embedding_dim": config.model.embedding_dim,
        "train.batch_size": config.train.batch_size,
        "train.min_steps": config.train.min_steps,
    }
    return mm.train(logs, folder / name.replace(" ", "-"), settings=chosen(VARIANTS[name], sizes), reporter=SILENT)


def measured(run: mm.Run, split: str) -> dict:
    found = mm.evaluate(run, split=split, baselines=("item_knn",), reporter=SILENT)
    low, high = found["intervals"]["model_minus"]["item_knn"][METRIC]
    return {
        "model": found["model"][METRIC],
        "encoder": found["model_without_recency"][METRIC],
        "item_knn": found["baselines"]["item_knn"][METRIC],
        "low": low,
        "high": high,
        "users": found["num_users"],
        "step": found["step"],
    }


def row(name: str, found: list[dict]) -> str:
    """A row of the table: means, and the interval of the mean difference."""
    mean = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
    half = math.sqrt(sum(((each["high"] - each["low"]) / 2) ** 2 for each in found)) / len(found)
    difference = mean["model"] - mean["item_knn"]
    steps = ", ".join(str(each["step"]) for each in found)
    return (
        f"| {name} | {steps} | {mean['model']:.4f} | {mean['encoder']:.4f} | {mean['item_knn']:.4f} | "
        f"{difference:+.4f} [{difference - half:+.4f}, {difference + half:+.4f}] |"
    )


def main() -> int:
    folder, listens = Path(_FOLDER.value).absolute(), _LISTENS.value
    if unknown := set(_VARIANTS.value) - set(VARIANTS):
        raise UserError(f"--variants={', '.join(unknown)}: no such variant; choose of {', '.join(VARIANTS)}")
    output = options.path_of(_OUTPUT.value, "output")
    kept = read_json(output) if output.exists() else {}
    results = kept["results"] if kept.get("num_listens") == listens else {}
    options.say(f"| {listens:,} listens | best steps | model | encoder alone | item-kNN | model - item-kNN |")
    options.say("|---|---|---|---|---|---|")
    for name in (OURS, *(name for name in _VARIANTS.value if name != OURS)):
        found = results.setdefault(name, {"val": {}, "test": {}})
        for seed in _SEEDS.value:
            splits = [split for split in (("val", "test") if name == OURS else ("val",)) if seed not in found[split]]
            if splits:
                run = trained(folder / f"{listens}-{seed}", name, listens, int(seed))
                found |= {split: found[split] | {seed: measured(run, split)} for split in splits}
                write_json(output, {"num_listens": listens, "results": results})
        options.say(row(name, [found["val"][seed] for seed in _SEEDS.value]))
    tests = [results[OURS]["test"][seed] for seed in _SEEDS.value]
    options.say(f"\nTest split:\n{row(OURS, tests)}")
    for seed, each in zip(_SEEDS.value, tests, strict=True):
        options.say(
            f"seed {seed}: {each['users']} users, {each['model']:.4f} against {each['item_knn']:.4f}, "
            f"[{each['low']:+.4f}, {each['high']:+.4f}]"
        )
    return 0


if __name__ == "__main__":
    options.run(main)
