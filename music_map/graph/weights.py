"""Events to weighted edges: played ratio x temporal weight x organic factor, likes, withdrawals.

For an event of age a (days, from the last train event), with h the half-life:

    w(event) = strength x 2^(-a / h) x (1 if organic else organic_factor)

where a listen's strength is clip(played_pct / 100, 0, 1) and a standing like's is like_weight. Sums are in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from music_map.decay import decay
from music_map.graph.bipartite import Edges
from music_map.graph.settings import GraphSettings
from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN, Events, Withdrawals
from music_map.preprocess.marks import standing

SECONDS_PER_DAY = 86_400


class EdgeCounts(NamedTuple):
    """Numbers of events without an edge.

    Attributes:
      unplayed_listens: listens of 0 %.
      withdrawn_likes, withdrawn_dislikes: rows that a later unlike (undislike) withdraws.
    """

    unplayed_listens: int = 0
    withdrawn_likes: int = 0
    withdrawn_dislikes: int = 0


def temporal_weight(timestamp: np.ndarray, *, now: int, half_life_days: float | None) -> np.ndarray:
    """Decay with age: 2^(-(now - timestamp) / half-life).

    Args:
      timestamp: [E], seconds, at most `now`.
      now: seconds; an event at `now` weighs 1.
      half_life_days: None: 1 for all.

    Returns:
      float64 [E], in [0, 1].
    """
    if half_life_days is None:
        return np.ones(timestamp.shape)
    age_days = (now - timestamp.astype(np.int64)) / SECONDS_PER_DAY
    return decay(age_days, half_life_days)


def event_weight(events: Events, settings: GraphSettings, *, now: int) -> np.ndarray:
    """w(event) of each event, and of a dislike |dislike_weight|: float64 [E]."""
    strength = np.minimum(events.played_pct / 100.0, 1.0)
    strength[events.kind == LIKE] = settings.like_weight
    organic = np.where(events.is_organic == 1, 1.0, settings.organic_factor)
    weight = strength * temporal_weight(events.timestamp, now=now, half_life_days=settings.half_life_days) * organic
    weight[events.kind == DISLIKE] = abs(settings.dislike_weight)
    return weight


def chunk_edges(
    events: Events, withdrawals: Withdrawals, settings: GraphSettings, *, now: int, num_items: int
) -> tuple[Edges, Edges, EdgeCounts]:
    """Edges and negative edges of a range of users with all their events.

    Args:
      events: train events of these users, sorted by user, then timestamp.
      withdrawals: train withdrawals of these users.
      settings: weights.
      now: timestamp of the last train event, seconds.
      num_items: number of songs.
    Returns:
      edges and negative edges, each sorted by user, then song; counts of the events that are neither.
    """
    likes = standing(events, withdrawals, LIKE, num_items=num_items)
    dislikes = standing(events, withdrawals, DISLIKE, num_items=num_items)
    listens = events.kind == LISTEN
    counts = EdgeCounts(
        unplayed_listens=int((listens & (events.played_pct == 0)).sum()),
        withdrawn_likes=int((events.kind == LIKE).sum() - likes.sum()),
        withdrawn_dislikes=int((events.kind == DISLIKE).sum() - dislikes.sum()),
    )
    if settings.edges == "sum":
        # A repeated like, or dislike, counts once: the latest row of the pair.
        likes = _last_of_pair(events, likes, num_items)
        dislikes = _last_of_pair(events, dislikes, num_items)
    weight = event_weight(events, settings, now=now)
    edges = _edges(events, weight, listens & (events.played_pct > 0) | likes, settings, num_items=num_items)
    rejected = _by_pair(events, dislikes, num_items)
    negatives = Edges(events.user[rejected], events.item[rejected], weight[rejected].astype(np.float32))
    has_weight = negatives.weight > 0
    return edges, Edges(*(column[has_weight] for column in negatives)), counts


def _by_pair(events: Events, chosen: np.ndarray, num_items: int) -> np.ndarray:
    """The chosen rows in a stable order by user, then song; the events are sorted by user."""
    rows = np.flatnonzero(chosen)
    if len(rows) == 0:
        return rows
    user, item = events.user[rows].astype(np.int64), events.item[rows]
    user -= user[0]
    item_bits, row_bits = num_items.bit_length(), len(chosen).bit_length()
    if int(user[-1]).bit_length() + item_bits + row_bits > 63:
        return rows[np.lexsort((item, user))]
    # User, song and row in one number: NumPy sorts it with vector instructions, in 10 ns a row; a stable sort by two
    # keys takes 48 ns.
    key = ((user << item_bits | item) << row_bits) | rows
    key.sort()
    return key & ((1 << row_bits) - 1)


def _last_of_pair(events: Events, chosen: np.ndarray, num_items: int) -> np.ndarray:
    """The last of the chosen rows of each pair: bool [E]."""
    rows = np.flatnonzero(chosen)[::-1]
    _, first = np.unique(events.user[rows].astype(np.int64) * num_items + events.item[rows], return_index=True)
    last = np.zeros_like(chosen)
    last[rows[first]] = True
    return last


def _edges(events: Events, weight: np.ndarray, chosen: np.ndarray, settings: GraphSettings, *, num_items: int) -> Edges:
    rows = _by_pair(events, chosen, num_items)
    user, item, weight = events.user[rows], events.item[rows], weight[rows]
    if settings.edges == "sum" and len(rows):
        starts = np.flatnonzero(np.append(True, (user[1:] != user[:-1]) | (item[1:] != item[:-1])))
        user, item, weight = user[starts], item[starts], np.add.reduceat(weight, starts)
    if settings.log1p:
        weight = np.log1p(weight)
    # A weight is 0 with organic_factor 0, or where 2^-x underflows float32: such edges are dropped.
    weight = weight.astype(np.float32)
    some = weight > 0
    return Edges(user[some], item[some], weight[some])
