"""What a data set looks like: events over time, played ratios, degrees, edge weights, and what filtering removed."""

from __future__ import annotations

from typing import Any

import numpy as np

from music_map.graph.bipartite import BipartiteGraph
from music_map.graph.weights import SECONDS_PER_DAY
from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN, SPLITS, Dataset

_KINDS = {"listens": LISTEN, "likes": LIKE, "dislikes": DISLIKE}
_PLAYED_STEP, _PLAYED_MOST = 5, 160
_WEIGHT_BINS = 40


def data_facts(dataset: Dataset, graph: BipartiteGraph, graph_stats: dict[str, Any]) -> dict[str, Any]:
    """Counts and distributions, as JSON-able values; events are read a shard at a time.

    Args:
      dataset: all splits are described; nothing is fitted here.
      graph: of train.
      graph_stats: content of graph_stats.json.

    Returns:
      {"funnel": see `funnel`, "splits": {split: {kind: rows}}, "organic": {kind: share of train}, "days": {"first",
      split: events of each day} or None without timestamps, "played": {"edges", "counts"} of train's listens in
      percent, "users", "songs": see `tail`, "weights": {"edges", "counts"}, "stats": numbers for a table}.
    """
    splits, organic = {}, dict.fromkeys(_KINDS, 0)
    days: dict[str, np.ndarray] = {}
    played = np.zeros(_PLAYED_MOST // _PLAYED_STEP, np.int64)
    for split in SPLITS:
        rows, of_day = dict.fromkeys(_KINDS, 0), np.zeros(1, np.int64)
        for events in dataset.event_shards(split):
            of_day = _added(of_day, np.bincount(events.timestamp.astype(np.int64) // SECONDS_PER_DAY))
            for name, kind in _KINDS.items():
                rows[name] += int((events.kind == kind).sum())
                if split == "train":
                    organic[name] += int(((events.kind == kind) & (events.is_organic == 1)).sum())
            if split == "train":
                percent = np.minimum(events.played_pct[events.kind == LISTEN], _PLAYED_MOST - 1)
                played += np.bincount(percent // _PLAYED_STEP, minlength=len(played))
        splits[split], days[split] = rows, of_day
    weights = np.histogram(graph.weight, bins=_WEIGHT_BINS, range=(0.0, float(np.quantile(graph.weight, 0.999))))
    return {
        "funnel": funnel(dataset.stats, graph_stats),
        "splits": splits,
        "organic": {name: organic[name] / rows if rows else None for name, rows in splits["train"].items()},
        "days": _days(days),
        "played": {"edges": list(range(0, _PLAYED_MOST + 1, _PLAYED_STEP)), "counts": played.tolist()},
        "users": tail(np.diff(graph.user_offsets)),
        "songs": tail(np.diff(graph.item_offsets)),
        "weights": {"edges": weights[1].tolist(), "counts": weights[0].tolist()},
        "stats": _numbers(dataset, graph_stats),
    }


def tail(degree: np.ndarray) -> dict[str, Any]:
    """The distribution of degrees: the share of nodes with at least x edges, for at most 200 values of x.

    Args:
      degree: integers [N].

    Returns:
      {"at_least": [x], "share": [s], "quantiles": {"10 %", "50 %", "90 %", "99 %", "most"}}; nodes without edges count.
    """
    values, counts = np.unique(degree, return_counts=True)
    share = np.cumsum(counts[::-1])[::-1] / len(degree)
    values, share = values[values > 0], share[values > 0]
    if len(values) > 200:
        # Evenly spaced on the logarithmic axis of the chart.
        chosen = np.unique(np.searchsorted(values, np.geomspace(values[0], values[-1], 200)))
        values, share = values[chosen], share[chosen]
    quantiles = np.quantile(degree, [0.1, 0.5, 0.9, 0.99, 1.0])
    names = ("10 %", "50 %", "90 %", "99 %", "most")
    return {
        "at_least": values.tolist(),
        "share": share.tolist(),
        "quantiles": dict(zip(names, quantiles.tolist(), strict=True)),
    }


def funnel(stats: dict[str, Any], graph_stats: dict[str, Any]) -> list[dict[str, Any]]:
    """What is left after each stage: rows {"stage", "events", "users", "songs"}; None where unknown."""
    rows = []
    if "raw_rows" in stats:
        raw = sum(stats["raw_rows"].get(name, 0) for name in _KINDS)
        rows.append({"stage": "logs", "events": raw, "users": stats["raw_users"], "songs": stats["raw_items"]})
    least = f"at least {stats['min_interactions']} interactions" if "min_interactions" in stats else "as given"
    kept = {"events": stats["total_interactions"], "users": stats["num_users"], "songs": stats["num_items"]}
    rows.append({"stage": f"filtered: {least}", **kept})
    rows.append({"stage": "train split", "events": stats["train_size"], "users": None, "songs": None})
    lost = graph_stats["unplayed_listens"] + graph_stats["withdrawn_likes"] + graph_stats["withdrawn_dislikes"]
    rows.append(
        {
            "stage": "train events that count: no listens of 0 %, nothing withdrawn",
            "events": stats["train_size"] - lost,
            "users": None,
            "songs": None,
        }
    )
    rows.append(
        {
            "stage": "graph: pairs joined by an edge",
            "events": graph_stats["num_edges"] // 2,
            "users": graph_stats["num_users"] - graph_stats["num_users_without_edges"],
            "songs": graph_stats["num_items"] - graph_stats["num_items_without_edges"],
        }
    )
    return rows


def _numbers(dataset: Dataset, graph_stats: dict[str, Any]) -> dict[str, float]:
    stats, names = dataset.stats, ("num_items_with_audio", "num_artists", "num_albums")
    found = {name: stats[name] for name in names if name in stats}
    weight = {f"edge_weight_{name}": value for name, value in graph_stats["edge_weight_stats"].items()}
    kept = ("num_edges", "num_negative_edges", "avg_degree", "density", "unplayed_listens", "withdrawn_likes")
    return found | {name: graph_stats[name] for name in kept} | weight


def _added(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    total = np.zeros(max(len(one), len(other)), np.int64)
    total[: len(one)] += one
    total[: len(other)] += other
    return total


def _days(of_split: dict[str, np.ndarray]) -> dict[str, Any] | None:
    length = max(len(counts) for counts in of_split.values())
    whole = {split: np.pad(counts, (0, length - len(counts))) for split, counts in of_split.items()}
    busy = np.flatnonzero(sum(whole.values()))
    if len(busy) == 0 or busy[0] == busy[-1]:  # the text format has no timestamps
        return None
    first, last = int(busy[0]), int(busy[-1]) + 1
    return {"first": first, **{split: counts[first:last].tolist() for split, counts in whole.items()}}
