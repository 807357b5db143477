"""Baselines on MovieLens-100k as sequential recommenders are measured there: each person's last rating is the test.

    python benchmarks/leave_one_out.py --raw_dir=DIR --size=50m --output=leave_one_out.json

The last event of each user is the test, the one before it the validation, all songs are ranked (none is masked), songs
of fewer than 5 events are left out: RecBole's setting. Settings and epoch are chosen on validation; for the test the
model is fitted on train and validation. A second run with the same output tunes nothing again.

Times that are rounded to 5 seconds leave half of the ratings tied with the one before, and the file has ties by
ascending song. Which rating is the last, and how popular its film is, then depends on the order of ties: --ties=random
draws it.
"""

from pathlib import Path

import numpy as np
import options
import pyarrow.parquet as pq
from absl import flags

from music_map.evaluation.baselines import (
    check_names,
    fit_baselines,
    settings_from_json,
    settings_to_json,
    tune_baselines,
    tuning,
)
from music_map.evaluation.evaluate import confidence_interval, evaluate_scores
from music_map.evaluation.protocols import Protocol, build_task
from music_map.preprocess.dataset import LISTEN, Events
from music_map.storage import read_json, write_json

_RAW_DIR = flags.DEFINE_string("raw_dir", None, "Raw logs.", required=True)
_SIZE = flags.DEFINE_string("size", "50m", "Name of the folder under raw_dir/flat.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all results.", required=True)
_BASELINES = flags.DEFINE_list("baselines", ["most_pop", "item_knn_decay", "sasrec", "esasrec"], "Baselines.")
_TIES = flags.DEFINE_enum("ties", "file", ["file", "random"], "Order of a user's events of the same time.")
_DROPOUTS = flags.DEFINE_list("dropouts", ["0.2", "0.5"], "Values that are tried for the Transformers.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the baselines with randomness.")

PROTOCOL = Protocol("leave_one_out", "any", history="any", mask="none", candidates="all")
MIN_EVENTS = 5
METRICS = ("hit_rate@10", "ndcg@10", "hit_rate@20", "ndcg@20")


def events(users, items, times) -> Events:
    """Listens of the whole track."""
    ones = np.ones(len(users), np.uint8)
    return Events(users, items, times, ones * LISTEN, ones, np.full(len(users), 100, np.uint16))


def split(path) -> tuple[list[Events], dict[str, int]]:
    """Train, validation and test, and the sizes."""
    columns = pq.read_table(path, columns=["uid", "timestamp", "item_id"]).to_pydict()
    uid, times, item_id = (np.asarray(column) for column in columns.values())
    ids, items, counts = np.unique(item_id, return_inverse=True, return_counts=True)
    keep = counts[items] >= MIN_EVENTS
    _, users = np.unique(uid[keep], return_inverse=True)
    kept, items = np.unique(ids[items[keep]], return_inverse=True)
    ties = np.random.default_rng(_SEED.value).random(len(users)) if _TIES.value == "random" else np.zeros(len(users))
    order = np.lexsort((ties, times[keep], users))
    users, items, times = users[order].astype(np.int32), items[order].astype(np.int32), times[keep][order]
    from_end = np.searchsorted(users, users, side="right") - np.arange(len(users))
    parts = [
        events(users[at], items[at], times[at].astype(np.uint32)) for at in (from_end > 2, from_end == 2, from_end == 1)
    ]
    return parts, {"num_users": int(users.max()) + 1, "num_items": len(kept)}


def main() -> int:
    names = tuple(_BASELINES.value)
    check_names(names)
    (train, val, test), sizes = split(
        options.path_of(_RAW_DIR.value, "raw_dir") / "flat" / _SIZE.value / "listens.parquet"
    )
    inputs = sizes | {"train_end": int(train.timestamp.max()), "seed": _SEED.value}
    validation = build_task(PROTOCOL, "val", train=train, val=val, test=test, **sizes)
    # Nobody rates a film twice: every event is a first meeting.
    grid = {"dropout": tuple(map(float, _DROPOUTS.value))}
    grids = {**tuning.GRIDS, "sasrec": grid, "esasrec": grid}
    output = options.path_of(_OUTPUT.value, "output")
    kept = Path(f"{output}.tuned.json")
    settings = settings_from_json(read_json(kept), source=str(kept)) if kept.exists() else {}
    left = [name for name in names if name not in settings]
    for name, tuned in tune_baselines(
        left, train, validation, **inputs, metric="ndcg@10", grids=grids, progress=options.bar
    ):
        settings[name] = tuned.settings
        write_json(kept, settings_to_json(settings))
        options.say(f"{name}: validation ndcg@10 {tuned.value:.4f} with {tuned.settings}")
    both = events(*(np.concatenate([a, b]) for a, b in zip(train[:3], val[:3], strict=True)))
    order = np.lexsort((both.timestamp, both.user))
    both = Events(*(column[order] for column in both))
    task = build_task(PROTOCOL, "test", train=both, val=val, test=test, **sizes)
    results = {}
    for name, scores in fit_baselines(names, both, PROTOCOL, **inputs, settings=settings, progress=options.bar):
        found = evaluate_scores(scores, task, ks=(10, 20))
        intervals = {key: confidence_interval(key, task, found.topk, seed=0) for key in METRICS}
        results[name] = {"metrics": found.metrics, "intervals": intervals}
        cells = (
            f"{key} {found.metrics[key]:.4f} [{intervals[key][0]:.4f}, {intervals[key][1]:.4f}]" for key in METRICS
        )
        options.say(f"{name}: test {', '.join(cells)}")
    about = {"num_users": len(task.users), "num_items": sizes["num_items"]}
    write_json(output, about | {"results": results, "settings": settings_to_json(settings)})
    return 0


if __name__ == "__main__":
    options.run(main)
