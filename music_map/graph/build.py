"""Edges and their weights from the train events.

    weight(u, i) = sum over listens of clip(played / 100, 0, 1) * temporal * organic
                 + like_weight * temporal * organic of the latest like that stands
    temporal = 2^(-age / half-life), age measured from the last train event; organic = 1 or organic_factor

Which likes and dislikes stand is decided by what train knows: an unlike (undislike) withdraws all likes (dislikes) of
its pair up to its own time. Those of validation and test withdraw nothing here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from music_map.errors import UserError
from music_map.graph.bipartite import BipartiteGraph, NegativeEdges, from_edges
from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN, Dataset, Events, Withdrawals
from music_map.progress import Progress, silent

SECONDS_PER_DAY = 86_400.0


@dataclasses.dataclass(frozen=True)
class GraphSettings:
    """How events become edges: the graph section of a configuration.

    Attributes:
      edges: "sum": one edge per pair; "events": an edge per event of positive weight, parallel edges kept.
      half_life_days: age at which an event counts half; None: age does not matter.
      organic_factor: factor of events that the recommender played.
      like_weight: strength of a like; a whole listen is 1.
      dislike_weight: strength of a dislike, at most 0.
      log1p: log(1 + weight) in place of the weight.
    """

    edges: str
    half_life_days: float | None
    organic_factor: float
    like_weight: float
    dislike_weight: float
    log1p: bool

    def __post_init__(self) -> None:
        checks = [
            ("edges", self.edges in ("sum", "events"), "'sum' or 'events'"),
            ("half_life_days", self.half_life_days is None or self.half_life_days > 0, "above 0, or None"),
            ("organic_factor", self.organic_factor >= 0, "at least 0"),
            ("like_weight", self.like_weight >= 0, "at least 0"),
            ("dislike_weight", self.dislike_weight <= 0, "at most 0"),
        ]
        for field, good, rule in checks:
            if not good:
                raise UserError(f"config.graph.{field}={getattr(self, field)!r}: must be {rule}")


class _LastWithdrawal:
    """Per pair the time of its last withdrawal, looked up by key = user * num_items + item."""

    def __init__(self, withdrawals: Withdrawals, kind: int, num_items: int):
        of_kind = withdrawals.kind == kind
        key = withdrawals.user[of_kind].astype(np.int64) * num_items + withdrawals.item[of_kind]
        time = withdrawals.timestamp[of_kind].astype(np.int64)
        order = np.lexsort((time, key))
        key, time = key[order], time[order]
        last = np.append(key[1:] != key[:-1], True) if len(key) else np.zeros(0, bool)
        self._key, self._time = key[last], time[last]

    def stands(self, key: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
        """Whether events of these pairs and times come after the last withdrawal (a tie is withdrawn). bool [n]."""
        if not len(self._key):
            return np.ones(len(key), bool)
        at = np.minimum(np.searchsorted(self._key, key), len(self._key) - 1)
        return (self._key[at] != key) | (timestamp.astype(np.int64) > self._time[at])


def event_factor(events: Events, settings: GraphSettings, train_end: int) -> np.ndarray:
    """temporal * organic of each event, float64 [E]."""
    factor = np.where(events.is_organic == 1, 1.0, settings.organic_factor)
    if settings.half_life_days is not None:
        age_days = (train_end - events.timestamp.astype(np.float64)) / SECONDS_PER_DAY
        factor *= np.exp2(-age_days / settings.half_life_days)
    return factor


def _user_chunks(dataset: Dataset) -> Iterator[Events]:
    """Train events, shard by shard, cut so that no user is in two chunks."""
    rest: Events | None = None
    for shard in dataset.event_shards("train"):
        events = shard if rest is None else Events(*(np.concatenate(pair) for pair in zip(rest, shard, strict=True)))
        cut = int(np.searchsorted(events.user, events.user[-1])) if len(events.user) else 0
        if cut:
            yield Events(*(column[:cut] for column in events))
        rest = Events(*(column[cut:] for column in events))
    if rest is not None and len(rest.user):
        yield rest


def _group_starts(key: np.ndarray) -> np.ndarray:
    """Positions where a run of equal keys begins; the keys are sorted."""
    return np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else np.zeros(0, np.int64)


def positive_edges(
    events: Events, liked: _LastWithdrawal, settings: GraphSettings, *, train_end: int, num_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Edges of some users, all of whose train events are given.

    Returns:
      keys user * num_items + item, int64, ascending, and weights float64 above 0; for edges="events" keys repeat.
    """
    key = events.user.astype(np.int64) * num_items + events.item
    factor = event_factor(events, settings, train_end)
    # Stable, and the events of a user are in time order: so are those of a pair.
    order = np.argsort(key, kind="stable")
    key, factor = key[order], factor[order]
    kind, played, time = (column[order] for column in (events.kind, events.played_pct, events.timestamp))
    like = (kind == LIKE) & liked.stands(key, time)
    if settings.edges == "sum":
        # Favourites are a set: of several standing likes of a pair the latest counts.
        at = np.flatnonzero(like)
        later_like = np.append(key[at][1:] == key[at][:-1], False) if len(at) else np.zeros(0, bool)
        like[at[later_like]] = False
    strength = np.where(kind == LISTEN, np.minimum(played, 100) / 100.0, np.where(like, settings.like_weight, 0.0))
    value = strength * factor
    if settings.edges == "sum":
        starts = _group_starts(key)
        key, value = key[starts], np.add.reduceat(value, starts) if len(starts) else value
    if settings.log1p:
        value = np.log1p(value)
    # What float32 rounds to 0 is no edge either.
    keep = value.astype(np.float32) > 0
    return key[keep], value[keep]


def negative_edges(
    events: Events, withdrawn: _LastWithdrawal, settings: GraphSettings, *, num_items: int
) -> np.ndarray:
    """Keys of the standing dislikes, int64, ascending; distinct for edges="sum"."""
    dislike = events.kind == DISLIKE
    key = events.user[dislike].astype(np.int64) * num_items + events.item[dislike]
    key = np.sort(key[withdrawn.stands(key, events.timestamp[dislike])])
    return key[_group_starts(key)] if settings.edges == "sum" else key


def build_graph(dataset: Dataset, settings: GraphSettings, *, progress: Progress = silent) -> BipartiteGraph:
    """Builds the graph of the train split.

    Args:
      dataset: the processed data.
      settings: how events become edges.
      progress: bar over train rows.

    Raises:
      UserError: no train event has a positive weight.
    """
    num_items = dataset.num_items
    withdrawals = dataset.withdrawals("train")
    liked, disliked = (_LastWithdrawal(withdrawals, kind, num_items) for kind in (LIKE, DISLIKE))
    users, items, weights, negative = [], [], [], [np.zeros(0, np.int64)]
    with progress("building the graph", dataset.stats["train_size"], "row") as advance:
        for events in _user_chunks(dataset):
            key, value = positive_edges(events, liked, settings, train_end=dataset.train_end, num_items=num_items)
            user, item = np.divmod(key, num_items)
            users.append(user.astype(np.int32))
            items.append(item.astype(np.int32))
            weights.append(value.astype(np.float32))
            negative.append(negative_edges(events, disliked, settings, num_items=num_items))
            advance(len(events.user))
    if not sum(map(len, items)):
        raise UserError(
            "no train event has a positive weight: there is no graph to build; see config.graph.organic_factor and "
            "config.graph.like_weight"
        )
    negative_user, negative_item = np.divmod(np.concatenate(negative), num_items)
    strength = np.full(len(negative_user), abs(settings.dislike_weight), np.float32)
    return from_edges(
        np.concatenate(users),
        np.concatenate(items),
        np.concatenate(weights),
        num_users=dataset.num_users,
        num_items=num_items,
        negatives=NegativeEdges(negative_user.astype(np.int32), negative_item.astype(np.int32), strength),
    )


def graph_stats(graph: BipartiteGraph) -> dict[str, Any]:
    """The content of graph_stats.json.

    num_edges counts each edge in both directions, avg_degree = num_edges / num_nodes, and
    density = num_edges / 2 / (users * songs). Statistics of the weights are taken in float64.
    """
    nodes, directed = graph.num_users + graph.num_items, 2 * graph.num_edges
    weight = graph.weight.astype(np.float64)
    return {
        "num_nodes": nodes,
        "num_users": graph.num_users,
        "num_items": graph.num_items,
        "num_edges": directed,
        "num_negative_edges": len(graph.negative_user),
        "avg_degree": directed / nodes,
        "density": graph.num_edges / (graph.num_users * graph.num_items),
        "edge_weight_stats": {
            "min": float(weight.min()),
            "max": float(weight.max()),
            "mean": float(weight.mean()),
            "std": float(weight.std()),
        },
        "users_without_edges": int(np.sum(np.diff(graph.user_offsets) == 0)),
        "items_without_edges": int(np.sum(np.diff(graph.item_offsets) == 0)),
    }
