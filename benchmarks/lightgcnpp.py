"""The LightGCN++ splits over seeds: test figures of the epoch that validation chose, and the time it took.

    python benchmarks/lightgcnpp.py --config=configs/lightgcnpp.py:default --config.data.path=DIR \
      --folder=checkpoints/lastfm-seeds --output=lastfm.json
    python benchmarks/lightgcnpp.py --config=configs/lightgcnpp.py:default --config.data.path=DIR --final \
      --folder=checkpoints/gowalla-seeds --output=gowalla-final.json

Trains once a seed and prints a Markdown table: mean and deviation over seeds, a row a seed below. The encoder's
own figures stand beside those of its mix with the graph filter. "seconds to it" are those of training and of its
validations up to the chosen epoch, compilation left out, and of choosing the filter. With --final each seed is trained
again on train and validation, as the literature on Gowalla does, for as many epochs and with the filter that validation
chose. FOLDER keeps the runs: the same command goes on.
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
from music_map.run.graph_filter import FOLDER as FILTERS
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
    alone = results.get("model_without_filter", results["model"])
    found |= {f"encoder_{metric}": alone[metric] for metric in METRICS}
    found |= {"epoch": round(chosen["epoch"]), "train_seconds": results["train_seconds"]}
    if f"val/{METRICS[-1]}" in chosen:  # a run on train and validation has none
        filtering = results["stages"].get("graph filter", 0.0)
        found["seconds_to_it"] = chosen["seconds/train"] + chosen["seconds/eval"] + filtering
        found["filter_seconds"] = filtering
        found |= filter_of(workdir, config)
        found["validation"] = chosen[f"val/{METRICS[-1]}"]
        found["seconds_per_epoch"] = chosen["seconds/train"] / chosen["epoch"]
    return found


def filter_of(workdir: Path, config: Config) -> dict:
    """Kind, exponent and share of the filter that validation chose; a share of 0 is the encoder alone."""
    path = workdir / FILTERS / f"{config.eval.protocol}.json"
    stored = read_json(path) if path.exists() else {"kind": config.graph_filter.kinds[0], "exponent": 0.0, "share": 0.0}
    return {name: stored[name] for name in ("kind", "exponent", "share")}


def table(rows: list[dict]) -> str:
    """A Markdown table: all seeds, then each."""
    names = list(rows[0])
    lines = [f"| | {' | '.join(name.replace('_', ' ') for name in names)} |", "|---|" + "---|" * len(names)]
    digits = {name: 0 if name == "epoch" else 4 if "seconds" not in name else 2 for name in names}

    def text(name: str, value: float | str) -> str:
        return value if isinstance(value, str) else f"{value:.{digits[name]}f}"

    def spread_of(name: str) -> str:
        values = [row[name] for row in rows]
        if isinstance(values[0], str):
            return ", ".join(sorted(set(values)))
        return f"{text(name, np.mean(values))} ± {text(name, np.std(values))}"

    spread = [spread_of(name) for name in names]
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
            changes |= {"graph_filter.kinds": (row["kind"],), "graph_filter.exponent": row["exponent"]}
            changes |= {"graph_filter.share": row["share"]}
            row = trained(folder / f"final-{number}", config, changes)
        rows.append(row)
        options.say(f"seed {number}: {row}")
    write_json(Path(_OUTPUT.value), rows)
    options.say(table(rows))
    return 0


if __name__ == "__main__":
    options.run(main)
