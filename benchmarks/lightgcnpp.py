"""The LightGCN++ splits over seeds: test figures of the epoch that validation chose, and the time it took.

    python benchmarks/lightgcnpp.py --config=configs/lightgcnpp.py:default --config.data.path=DIR \
      --folder=checkpoints/lastfm-seeds --output=lastfm.json
    python benchmarks/lightgcnpp.py --config=configs/lightgcnpp.py:default --config.data.path=DIR --final \
      --folder=checkpoints/gowalla-seeds --output=gowalla-final.json

Trains once a seed and prints a Markdown table: mean and standard deviation over seeds, a row a
seed below. "seconds to it" are those of training and of its validations up to the chosen epoch, compilation left out.
With --final each seed is trained again on train and validation, as the literature on Gowalla does, for as many epochs
as validation chose. FOLDER keeps the runs: the same command goes on.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import options
from absl import flags
from variants import trained_in

from music_map.run.config import Config, with_values
from music_map.storage import read_json, write_json

_CONFIG = options.define_config()
_FOLDER = flags.DEFINE_string("folder", None, "Folder of the runs.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all results.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs.", 1)
_FINAL = flags.DEFINE_bool("final", False, "Train again on train and validation for the test.")

METRICS = ("recall@20", "ndcg@20")


def trained(workdir: Path, config: Config, changes: Mapping[str, Any]) -> dict:
    """Trains with some fields changed; the results with times by epoch."""
    trained_in(workdir, with_values(config, changes))
    results = read_json(workdir / "results.json")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    # The last line of the step: a run that went on may have written one before.
    chosen = [line for line in lines if line["step"] == results["step"] and "epoch" in line][-1]
    found = {metric: results["model"][metric] for metric in METRICS}
    found |= {"epoch": round(chosen["epoch"]), "train_seconds": results["train_seconds"]}
    if f"val/{METRICS[-1]}" in chosen:  # a run on train and validation has none
        found["seconds_to_it"] = chosen["seconds/train"] + chosen["seconds/eval"]
        found["validation"] = chosen[f"val/{METRICS[-1]}"]
        found["seconds_per_epoch"] = chosen["seconds/train"] / chosen["epoch"]
    return found


def table(rows: list[dict]) -> str:
    """A Markdown table: all seeds, then each."""
    names = list(rows[0])
    lines = [f"| | {' | '.join(name.replace('_', ' ') for name in names)} |", "|---|" + "---|" * len(names)]
    digits = {name: 0 if name == "epoch" else 4 if "seconds" not in name else 2 for name in names}

    def text(name: str, value: float) -> str:
        return f"{value:.{digits[name]}f}"

    spread = [
        f"{text(name, np.mean([r[name] for r in rows]))} ± {text(name, np.std([r[name] for r in rows]))}"
        for name in names
    ]
    lines.append(f"| {len(rows)} seeds | {' | '.join(spread)} |")
    lines += [
        f"| seed {seed} | {' | '.join(text(name, row[name]) for name in names)} |" for seed, row in enumerate(rows)
    ]
    return "\n".join(lines)


def main() -> int:
    config, folder = options.read_config(_CONFIG), Path(_FOLDER.value).absolute()
    rows = []
    for number in range(_SEEDS.value):
        changes = {"train.seed": config.train.seed + number}
        row = trained(folder / f"seed-{number}", config, changes)
        if _FINAL.value:
            changes |= {"data.train_on_val": True, "train.num_epochs": row["epoch"], "train.min_steps": 0}
            row = trained(folder / f"final-{number}", config, changes)
        rows.append(row)
        options.say(f"seed {number}: {row}")
    write_json(Path(_OUTPUT.value), rows)
    options.say(table(rows))
    return 0


if __name__ == "__main__":
    options.run(main)
