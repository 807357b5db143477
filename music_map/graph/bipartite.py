"""The bipartite graph of users and songs: edges stored once, user-major, with the song-major order as a permutation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from music_map.errors import DamagedFileError
from music_map.storage import ArrayFolder, ArrayWriter, new_folder, write_json


class BipartiteGraph(NamedTuple):
    """Users, songs and weighted edges; negative edges apart.

    Example: user 0 heard songs 1 and 0, user 1 heard song 1: user = [0, 0, 1], item = [0, 1, 1],
    user_offsets = [0, 2, 3], item_offsets = [0, 1, 3], item_order = [0, 1, 2].

    Attributes:
      user_offsets: int64 [U + 1]; the edges of user u are user_offsets[u]:user_offsets[u + 1].
      user: int32 [E], ascending.
      item: int32 [E], ascending within a user; repeated where edges are parallel.
      weight: float32 [E], above 0.
      item_offsets: int64 [I + 1]; the edges of song i are item_order[item_offsets[i]:item_offsets[i + 1]].
      item_order: int32 (int64 from 2^31 edges) [E], the edges sorted by song, then user.
      negative_user, negative_item: int32 [M], sorted by user, then song; never propagated through.
      negative_weight: float32 [M], above 0.
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
        """Undirected edges: each is one row, whichever way it is read."""
        return len(self.item)


class NegativeEdges(NamedTuple):
    """Dislikes: user int32 [M], item int32 [M], weight float32 [M], sorted by user, then song."""

    user: np.ndarray
    item: np.ndarray
    weight: np.ndarray


def from_edges(
    user: np.ndarray,
    item: np.ndarray,
    weight: np.ndarray,
    *,
    num_users: int,
    num_items: int,
    negatives: NegativeEdges,
) -> BipartiteGraph:
    """Builds the graph of edges that are sorted by user, then song.

    Args:
      user, item: int32 [E].
      weight: float32 [E].
      num_users, num_items: U and I, nodes without edges included.
      negatives: dislikes.
    """
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=num_users))]).astype(np.int64)
    item_offsets = np.concatenate([[0], np.cumsum(np.bincount(item, minlength=num_items))]).astype(np.int64)
    # The transposition of a CSR matrix that holds edge numbers is a counting sort by song, linear in E.
    numbers = np.arange(len(item), dtype=np.int32 if len(item) < 2**31 else np.int64)
    order = scipy.sparse.csr_array((numbers, item, offsets), shape=(num_users, num_items)).tocsc().data
    return BipartiteGraph(offsets, user, item, weight, item_offsets, order, *negatives)


def save_graph(graph: BipartiteGraph, folder: Path, *, fingerprint: str, stats: dict[str, Any]) -> None:
    """Writes the graph and graph_stats.json, whole or not at all."""
    with new_folder(folder) as temporary:
        writer = ArrayWriter(temporary)
        for name, array in zip(BipartiteGraph._fields, graph, strict=True):
            writer.write(name, array)
        write_json(temporary / "graph_stats.json", stats)
        writer.finish(fingerprint=fingerprint, meta={"stats": stats})


def load_graph(folder: Path, *, fingerprint: str) -> tuple[BipartiteGraph, dict[str, Any]]:
    """Loads a graph and its statistics, checksums verified.

    Raises:
      DamagedFileError: a file is missing or changed, or the folder is another configuration's.
    """
    store = ArrayFolder.open(folder)
    if store.fingerprint != fingerprint:
        raise DamagedFileError(f"{folder}: is another configuration's graph; delete it and build the graph again")
    return BipartiteGraph(*(store.load(name) for name in BipartiteGraph._fields)), store.meta["stats"]
