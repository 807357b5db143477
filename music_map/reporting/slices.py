"""Metrics on slices of the users and of the targets, with intervals.

A slice of the users has the mean of the metric over them. A slice of the targets has the pooled recall,

    recall@k = (targets of the slice among the users' first k) / (targets of the slice)

because NDCG would count targets of other slices as misses.
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


class Slice(NamedTuple):
    """Some users, or some targets.

    Attributes:
      group: the property by which slices are made.
      name: of this slice.
      chosen: bool [U], of the task's users, or bool [P], of its targets.
      of: "users" or "targets".
    """

    group: str
    name: str
    chosen: np.ndarray
    of: str


def slices_of(dataset: Dataset, task: RankingTask, listeners: np.ndarray, *, min_played_pct: int) -> list[Slice]:
    """The slices of a task: users by activity; targets by popularity, by who played them, and by warm or cold.

    A group with a single slice that is not empty is left out.

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
    slices = []
    for number, name in enumerate(_ACTIVITY):
        chosen = quarter == number
        span = f"{active[chosen].min():,} to {active[chosen].max():,} train events" if chosen.any() else ""
        slices.append(Slice("users by activity", f"{name}: {span}", chosen, "users"))

    song = task.targets.items
    of_song = listeners[song]
    heard = np.sort(listeners[listeners > 0])[::-1]
    head, middle = (int(heard[min(int(len(heard) * share), len(heard) - 1)]) for share in (_HEAD, _MIDDLE))
    popular, rare = of_song > head, (of_song <= middle) & (of_song > 0)
    group = "targets by popularity of the song"
    slices += [
        Slice(group, f"most heard tenth of songs: over {head:,} listeners", popular, "targets"),
        Slice(group, f"next four tenths: {middle + 1:,} to {head:,}", (of_song > middle) & ~popular, "targets"),
        Slice(group, f"other half: 1 to {middle:,}", rare, "targets"),
    ]
    warm = of_song > 0
    slices += [
        Slice("targets with and without a listener in train", "warm: heard in train", warm, "targets"),
        Slice("targets with and without a listener in train", "cold: nobody heard it in train", ~warm, "targets"),
    ]
    organic = organic_targets(dataset, task, min_played_pct=min_played_pct)
    slices += [
        Slice("targets by who played them first", "organic: the user chose it", organic, "targets"),
        Slice("targets by who played them first", "played by the recommender", ~organic, "targets"),
    ]
    filled = [each for each in slices if each.chosen.any()]
    groups = [each.group for each in filled]
    return [each for each in filled if groups.count(each.group) > 1]


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
    # Events are sorted by user, then time: the first of a pair is its earliest.
    pair = events.user[rows].astype(np.int64) * dataset.num_items + events.item[rows]
    known, first = np.unique(pair, return_index=True)
    wanted = task.users[task.targets.rows].astype(np.int64) * dataset.num_items + task.targets.items
    return events.is_organic[rows[first[np.searchsorted(known, wanted)]]] == 1


def measure(
    slices: Sequence[Slice], scorers: Mapping[str, Evaluation], task: RankingTask, *, metric: str, seed: int
) -> list[dict[str, Any]]:
    """Each scorer on each slice, as JSON-able values.

    Args:
      slices: from `slices_of`.
      scorers: evaluations on the task by name.
      task: over users.
      metric: for slices of users, e.g. "ndcg@20"; slices of targets have recall at its cut-off.
      seed: of the bootstrap over users.

    Returns:
      {"group", "name", "of", "size", "metric", "values": {scorer: value}, "intervals": {scorer: [low, high]}} each.
    """
    k = int(metric.partition("@")[2])
    of_users = {name: per_user_metric(metric, found.topk, task.targets) for name, found in scorers.items()}
    rows = task.targets.rows
    found_targets = {name: _found(found.topk[:, :k], task.targets) for name, found in scorers.items()}
    measured = []
    for each in slices:
        if each.of == "users":
            above = {name: values[each.chosen] for name, values in of_users.items()}
            below = np.ones(int(each.chosen.sum()))
        else:
            in_slice = each.chosen.astype(np.float64)
            counts = np.bincount(rows, weights=in_slice, minlength=len(task.users))
            with_any = counts > 0
            below = counts[with_any]
            above = {
                name: np.bincount(rows, weights=in_slice * hit, minlength=len(task.users))[with_any]
                for name, hit in found_targets.items()
            }
        samples = resample({name: v[:, None] for name, v in above.items()}, below[:, None], seed=seed)
        measured.append(
            {
                "group": each.group,
                "name": each.name,
                "of": each.of,
                "size": int(each.chosen.sum()),
                "metric": metric if each.of == "users" else f"recall@{k}",
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
