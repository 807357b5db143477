"""The bipartite graph of users and songs: edges stored once, both directions as views."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse

from music_map.errors import UserError
from music_map.rows import offsets_of


class BipartiteGraph(NamedTuple):
    """Weighted edges between users and songs, sorted by user, then song; and negative edges, which are not propagated.

    With U users, I songs, E edges and M negative edges. Worked index: the edges of user u are
    `slice(user_offsets[u], user_offsets[u + 1])`; those of song i are
    `item_order[item_offsets[i]:item_offsets[i + 1]]`: its users are `user[...]` and its weights `weight[...]` at these
    positions, by ascending user. There may be parallel edges (same user and song), in the order given.

    Attributes:
      user_offsets: int64 [U + 1], ascending, from 0 to E.
      user: int32 [E], ascending.
      item: int32 [E], ascending within a user.
      weight: float32 [E], > 0.
      item_offsets: int64 [I + 1], ascending, from 0 to E.
      item_order: int32 [E] (int64 from 2^31 edges on), the edges sorted by song, then user: a permutation.
      negative_user, negative_item: int32 [M], sorted by user, then song.
      negative_weight: float32 [M], > 0: how strongly the user rejects the song.
    """

    user_offsets: np.ndarray
    user: np.ndarray
    item: np.ndarray
    weight: np.ndarray
    item_offsets: np.ndarray
    item_order: np.ndarray
    negative_user: np.ndarray
    negative_item: np.ndarray
    negative_weight: np.ndarray

    @property
    def num_users(self) -> int:
        return len(self.user_offsets) - 1

    @property
    def num_items(self) -> int:
        return len(self.item_offsets) - 1

    @property
    def num_edges(self) -> int:
        """Number of edges, each counted once."""
        return len(self.user)


class Edges(NamedTuple):
    """Weighted edges: user and item integers [E], weight float [E], > 0."""

    user: np.ndarray
    item: np.ndarray
    weight: np.ndarray


NO_NEGATIVES = Edges(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))


def from_edges(
    user: np.ndarray,
    item: np.ndarray,
    weight: np.ndarray,
    *,
    num_users: int,
    num_items: int,
    negatives: Edges = NO_NEGATIVES,
) -> BipartiteGraph:
    """Builds the graph from edges in any order.

    Args:
      user, item: integers [E].
      weight: float [E], > 0.
      num_users, num_items: numbers of nodes; nodes may be without edges.
      negatives: negative edges.
    Returns:
      The graph; parallel edges stay, in the order given.
    Raises:
      UserError: lengths differ, an index is out of range, or a weight is not positive and finite.
    """
    edges = _sorted(Edges(user, item, weight), num_users, num_items, "edge")
    rejected = _sorted(negatives, num_users, num_items, "negative edge")
    item_order, item_offsets = _by_item(edges.item, num_items)
    return BipartiteGraph(
        user_offsets=offsets_of(np.bincount(edges.user, minlength=num_users)),
        user=edges.user,
        item=edges.item,
        weight=edges.weight,
        item_offsets=item_offsets,
        item_order=item_order,
        negative_user=rejected.user,
        negative_item=rejected.item,
        negative_weight=rejected.weight,
    )


def listeners_of(graph: BipartiteGraph) -> np.ndarray:
    """Users with an edge to each song, int64 [I]; parallel edges count once."""
    # Edges are sorted by user, then song, so parallel ones are adjacent.
    user, item = graph.user, graph.item
    first = np.append(True, (user[1:] != user[:-1]) | (item[1:] != item[:-1]))[: len(user)]
    return np.bincount(item[first], minlength=graph.num_items)


def _sorted(edges: Edges, num_users: int, num_items: int, name: str) -> Edges:
    user, item, weight = (np.asarray(values) for values in edges)
    if not (user.shape == item.shape == weight.shape) or user.ndim != 1:
        raise UserError(f"{name}s: user {user.shape}, item {item.shape} weight {weight.shape} must be of one length")
    for index, size, what in ((user, num_users, "user"), (item, num_items, "item")):
        if len(index) and not (index.min() >= 0 and index.max() < size):
            raise UserError(f"{name}s: {what} indices must be in [0, {size}), got {index.min()}..{index.max()}")
    weight = weight.astype(np.float32, copy=False)
    # Comparisons with NaN are false, so NaN is refused too.
    if len(weight) and not (weight.min() > 0 and np.isfinite(weight.max())):
        raise UserError(f"{name}s: weights must be positive and finite, got {weight.min()}..{weight.max()}")
    user, item = user.astype(np.int32, copy=False), item.astype(np.int32, copy=False)
    same = user[1:] == user[:-1]
    if not np.all((user[1:] > user[:-1]) | (same & (item[1:] >= item[:-1]))):
        order = np.lexsort((item, user))
        user, item, weight = user[order], item[order], weight[order]
    return Edges(user, item, weight)


def _by_item(item: np.ndarray, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the edges sorted by song (stable), and the offsets of each song among them."""
    return stable_order(item, num_items), offsets_of(np.bincount(item, minlength=num_items))


def stable_order(index: np.ndarray, size: int) -> np.ndarray:
    """A faster numpy.argsort(index, kind="stable") for small integers.

    Args:
      index: integers [E], in [0, size).
      size: of the range.
    Returns:
      int32 [E] (int64 from 2^31 on).
    """
    # Converting a matrix of one row to column order is a stable counting sort, O(E + size).
    positions = np.arange(len(index), dtype=np.int32 if len(index) < 2**31 else np.int64)
    row = scipy.sparse.csr_array((positions, index, np.array([0, len(index)])), shape=(1, max(size, 1)))
    return row.tocsc().data
