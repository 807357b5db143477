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
    raw_dir = folder / f"{listens}-{seed}" / "raw"
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
    results: dict[str, dict[str, list[dict]]] = {}
    options.say(f"| {listens:,} listens | best steps | model | encoder alone | item-kNN | model - item-kNN |")
    options.say("|---|---|---|---|---|---|")
    for name in (OURS, *(name for name in _VARIANTS.value if name != OURS)):
        results[name] = {"val": [], "test": []}
        for seed in _SEEDS.value:
            place = folder / f"{listens}-{seed}"
            logs = mm.read_logs(raw_logs(folder, listens, int(seed)), size="tiny", reporter=SILENT)
            if name == OURS:
                settings, workdir = {}, place / "sizes"
            else:
                config = mm.open_run(place / "sizes", reporter=SILENT).config
                sizes = {
                    "data.min_interactions": config.data.min_interactions,
                    "model.embedding_dim": config.model.embedding_dim,
                    "train.batch_size": config.train.batch_size,
                    "train.min_steps": config.train.min_steps,
                }
                settings, workdir = chosen(VARIANTS[name], sizes), place / name.replace(" ", "-").replace(",", "")
            run = mm.train(logs, workdir, settings=settings, reporter=SILENT)
            for split in ("val", "test") if name == OURS else ("val",):
                results[name][split].append(measured(run, split))
        options.say(row(name, results[name]["val"]))
        write_json(Path(_OUTPUT.value), {"num_listens": listens, "results": results})
    options.say(f"\nTest split:\n{row(OURS, results[OURS]['test'])}")
    for seed, each in zip(_SEEDS.value, results[OURS]["test"], strict=True):
        options.say(
            f"seed {seed}: {each['users']} users, {each['model']:.4f} against {each['item_knn']:.4f}, "
            f"[{each['low']:+.4f}, {each['high']:+.4f}]"
        )
    return 0


if __name__ == "__main__":
    options.run(main)
