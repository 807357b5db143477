"""How good a scorer is for parts of the users and of the targets, with intervals.

Of a part of the users a metric is its mean over them. Of a part of the targets it is the pooled recall

    recall@k = (targets of the part among the users' first k) / (targets of the part)

since NDCG of a part would count songs of the other parts as misses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from music_map.evaluation.evaluate import Evaluation
from music_map.evaluation.metrics import per_user_metric
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import RankingTask, relevant
from music_map.evaluation.uncertainty import interval, resample
from music_map.preprocess.dataset import Dataset

# Songs by listeners in train: the most heard tenth, the next four, the other half.
_HEAD, _MIDDLE = 0.1, 0.5
_ACTIVITY = ("least active quarter", "second quarter", "third quarter", "most active quarter")


class Part(NamedTuple):
    """Some users, or some targets.

    Attributes:
      group: what the parts of one group differ in.
      name: of this part.
      chosen: bool [U], of the task's users, or bool [P], of its targets.
      of: "users" or "targets".
    """

    group: str
    name: str
    chosen: np.ndarray
    of: str


def parts_of(dataset: Dataset, task: RankingTask, listeners: np.ndarray, *, min_played_pct: int) -> list[Part]:
    """The parts of a task: users by activity; targets by popularity, by who played them, warm or cold.

    A group in which a single part has anything is left out.

    Args:
      dataset: the task's.
      task: over users.
      listeners: int [I], users of train with an edge.
      min_played_pct: as the task was built with.
    """
    events = np.zeros(dataset.num_users, np.int64)
    for shard in dataset.event_shards("train"):
        events += np.bincount(shard.user, minlength=dataset.num_users)
    active = events[task.users]
    bounds = np.quantile(active, [0.25, 0.5, 0.75])
    quarter = np.searchsorted(bounds, active, side="left")
    parts = []
    for number, name in enumerate(_ACTIVITY):
        chosen = quarter == number
        span = f"{active[chosen].min():,} to {active[chosen].max():,} train events" if chosen.any() else ""
        parts.append(Part("users by activity", f"{name}: {span}", chosen, "users"))

    song = task.targets.items
    of_song = listeners[song]
    heard = np.sort(listeners[listeners > 0])[::-1]
    head, middle = (int(heard[min(int(len(heard) * share), len(heard) - 1)]) for share in (_HEAD, _MIDDLE))
    popular, rare = of_song > head, (of_song <= middle) & (of_song > 0)
    group = "targets by popularity of the song"
    parts += [
        Part(group, f"most heard tenth of songs: over {head:,} listeners", popular, "targets"),
        Part(group, f"next four tenths: {middle + 1:,} to {head:,}", (of_song > middle) & ~popular, "targets"),
        Part(group, f"other half: 1 to {middle:,}", rare, "targets"),
    ]
    warm = of_song > 0
    parts += [
        Part("targets with and without a listener in train", "warm: heard in train", warm, "targets"),
        Part("targets with and without a listener in train", "cold: nobody heard it in train", ~warm, "targets"),
    ]
    organic = organic_targets(dataset, task, min_played_pct=min_played_pct)
    parts += [
        Part("targets by who played them first", "organic: the user chose it", organic, "targets"),
        Part("targets by who played them first", "played by the recommender", ~organic, "targets"),
    ]
    some = {part.group: 0 for part in parts}
    for part in parts:
        some[part.group] += bool(part.chosen.any())
    return [part for part in parts if some[part.group] > 1 and part.chosen.any()]


def organic_targets(dataset: Dataset, task: RankingTask, *, min_played_pct: int) -> np.ndarray:
    """Whether each target was organic at its first relevant event of the split: bool [P].

    Args:
      dataset: the task's.
      task: over users.
      min_played_pct: as the task was built with.
    """
    if task.protocol.candidates == "held_out" and dataset.held_out_items().any():
        events = dataset.held_out_events(task.split)
    else:
        events = dataset.events(task.split)
    rows = np.flatnonzero(relevant(events, task.protocol.relevance, min_played_pct=min_played_pct))
    # Sorted by user, then time: the first of a pair is its first in time.
    pair = events.user[rows].astype(np.int64) * dataset.num_items + events.item[rows]
    known, first = np.unique(pair, return_index=True)
    wanted = task.users[task.targets.rows].astype(np.int64) * dataset.num_items + task.targets.items
    return events.is_organic[rows[first[np.searchsorted(known, wanted)]]] == 1


def measure(
    parts: Sequence[Part], scorers: Mapping[str, Evaluation], task: RankingTask, *, metric: str, seed: int
) -> list[dict[str, Any]]:
    """Each scorer on each part, as JSON-able values.

    Args:
      parts: from `parts_of`.
      scorers: evaluations on the task by name.
      task: over users.
      metric: for parts of users, e.g. "ndcg@20"; parts of targets have recall at its cut-off.
      seed: of the bootstrap over users.

    Returns:
      {"group", "name", "of", "size", "metric", "values": {scorer: value}, "intervals": {scorer: [low, high]}} each.
    """
    k = int(metric.partition("@")[2])
    of_users = {name: per_user_metric(metric, found.topk, task.targets) for name, found in scorers.items()}
    rows = task.targets.rows
    found_targets = {name: _found(each.topk[:, :k], task.targets) for name, each in scorers.items()}
    measured = []
    for part in parts:
        if part.of == "users":
            above = {name: values[part.chosen] for name, values in of_users.items()}
            below = np.ones(int(part.chosen.sum()))
        else:
            of_part = part.chosen.astype(np.float64)
            everyone = np.bincount(rows, weights=of_part, minlength=len(task.users))
            with_any = everyone > 0
            below = everyone[with_any]
            above = {
                name: np.bincount(rows, weights=of_part * hit, minlength=len(task.users))[with_any]
                for name, hit in found_targets.items()
            }
        samples = resample({name: v[:, None] for name, v in above.items()}, below[:, None], seed=seed)
        measured.append(
            {
                "group": part.group,
                "name": part.name,
                "of": part.of,
                "size": int(part.chosen.sum()),
                "metric": metric if part.of == "users" else f"recall@{k}",
                "values": {name: float(values.sum() / below.sum()) for name, values in above.items()},
                "intervals": {name: interval(values)[0].tolist() for name, values in samples.items()},
            }
        )
    return measured


def _found(topk: np.ndarray, targets: Pairs) -> np.ndarray:
    """Which targets are in their user's list: bool [P]."""
    num_items = 1 + max(int(targets.items.max(initial=0)), int(topk.max(initial=0)))
    listed = topk >= 0
    row = np.broadcast_to(np.arange(len(topk))[:, None], topk.shape)
    return Pairs.of(row[listed], topk[listed], num_rows=len(topk), num_items=num_items).contains(
        targets.rows, targets.items
    )
