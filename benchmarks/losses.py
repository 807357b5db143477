"""Losses beside each other on one data set: NDCG@20 and Recall@20 on test, the epoch chosen by validation.

    python benchmarks/losses.py --raw_dir=DIR --size=50m --output=losses.json
    python benchmarks/losses.py --raw_dir=data/demo --size=demo --seeds=3 --output=losses.json

Trains `configs/yambda.py` once per loss and seed with nothing else changed, and prints a Markdown table of means over
seeds (and the standard deviation), beside the baselines.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

from launch import app
from music_map.storage import read_json, write_json

_RAW_DIR = flags.DEFINE_string("raw_dir", None, "Raw logs.", required=True)
_SIZE = flags.DEFINE_string("size", "50m", "Name of the folder under raw_dir/flat.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all results.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs per loss.")
_OVERRIDES = flags.DEFINE_multi_string("set", [], "Further overrides of the configuration, e.g. train.batch_size=1024.")

# BPR is a loss of dot products: cosines between -1 and 1 would bound its logits.
LOSSES = {
    "BPR": ["loss.name=bpr", "loss.explicit_negative_weight=0.0", "model.score=dot", "loss.l2=1e-4"],
    "sampled softmax": ["loss.name=sampled_softmax", "loss.explicit_negative_weight=0.0"],
    "debiased contrastive": ["loss.explicit_negative_weight=0.0"],
    "debiased contrastive + explicit negative": [],
}
METRICS = ("recall@20", "ndcg@20")


def train(changes: list[str], seed: int, folder: Path) -> dict:
    """Runs launch/train.py once and returns its results.json."""
    workdir = Path(tempfile.mkdtemp(dir=folder))
    fields = [
        f"data.raw_dir={_RAW_DIR.value}", f"data.size={_SIZE.value}", f"data.processed_dir={folder / 'processed'}",
        f"train.seed={seed}", *changes, *_OVERRIDES.value,
    ]  # fmt: skip
    command = [sys.executable, "launch/train.py", "--config=configs/yambda.py", f"--workdir={workdir}"]
    subprocess.run([*command, *(f"--config.{f}" for f in fields)], check=True, stdout=subprocess.DEVNULL)
    return read_json(workdir / "results.json")


def table(results: dict[str, list[dict]]) -> str:
    """A Markdown table: mean and standard deviation over seeds, then the baselines."""
    lines = [f"| | {' | '.join(METRICS)} | training s |", "|---|" + "---|" * (len(METRICS) + 1)]
    for name, runs in results.items():
        cells = []
        for metric in METRICS:
            values = [r["model"][metric] for r in runs]
            cells.append(f"{np.mean(values):.4f} ± {np.std(values):.4f}")
        cells.append(f"{np.median([r['train_seconds'] for r in runs]):.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    first = next(iter(results.values()))[0]
    for name, metrics in first["baselines"].items():
        lines.append(f"| {name} | {' | '.join(f'{metrics[m]:.4f}' for m in METRICS)} | |")
    lines.append(f"\n{first['num_users']} users, protocol {first['protocol']}, split {first['split']}")
    return "\n".join(lines)


def main() -> int:
    results: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in LOSSES.items():
            results[name] = [train(changes, seed, Path(folder)) for seed in range(_SEEDS.value)]
    write_json(Path(_OUTPUT.value), results)
    app.say(table(results))
    return 0


if __name__ == "__main__":
    app.run(main)
