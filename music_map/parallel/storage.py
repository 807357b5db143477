"""The parts of a graph as files, so that a process reads only the parts of its own devices.

FOLDER/manifest.json                       the graph's fingerprint and the checksums
FOLDER/users/PP/{start,weight,total}.npy   edges that end at the users of part PP (see `Ends`); total: float64, the sum
                                           of the weights of each of the part's users
FOLDER/items/PP/...                        likewise for songs

Slots do not depend on the number of devices, so neither do these files.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np

from music_map import processes
from music_map.graph.bipartite import BipartiteGraph
from music_map.parallel.partition import NUM_PARTS, Ends, GraphInMemory, Slots, make_slots
from music_map.reporter import Progress, silent
from music_map.storage import MANIFEST, ArrayFolder, ArrayWriter, fingerprint, new_folder, read_json, write_json

# Increase this when slots or files change their meaning: stored parts of an older version are then made again.
FORMAT_VERSION = 1


def parts_folder(processed_dir: Path, graph_identity: str) -> Path:
    """The folder for the parts of the graph with this fingerprint."""
    return processed_dir / f"parts-{graph_identity[:12]}"


class StoredParts:
    """EdgeParts in a folder that `save_parts` wrote; each file is checked against its checksum before it is read.

    Args:
      store: the folder.
      user_offsets, item_offsets: int64 [U + 1], [I + 1], of the graph.
    """

    def __init__(self, store: ArrayFolder, user_offsets: np.ndarray, item_offsets: np.ndarray):
        self._store = store
        self.num_edges = int(user_offsets[-1])
        self.user_offsets, self.item_offsets = user_offsets, item_offsets
        self.users, self.items = make_slots(np.diff(user_offsets)), make_slots(np.diff(item_offsets))

    @functools.cached_property
    def user_total(self) -> np.ndarray:
        return self._totals("users", self.users)

    @functools.cached_property
    def item_total(self) -> np.ndarray:
        return self._totals("items", self.items)

    def _totals(self, side: str, slots: Slots) -> np.ndarray:
        totals = np.zeros(len(slots.of_node))
        for part in range(NUM_PARTS):
            nodes = slots.nodes_of(part)
            totals[nodes[nodes < len(totals)]] = self._store.load(f"{side}/{part:02d}/total")
        return totals

    def to_users(self, part: int) -> Ends:
        return self._ends("users", part)

    def to_items(self, part: int) -> Ends:
        return self._ends("items", part)

    def _ends(self, side: str, part: int) -> Ends:
        return Ends(*(self._store.load(f"{side}/{part:02d}/{name}") for name in Ends._fields))


def load_parts(folder: Path, graph: BipartiteGraph, *, identity: str) -> StoredParts | None:
    """The stored parts of a graph, or None if there are none of this graph. Only the graph's offsets are read."""
    if not (folder / MANIFEST).is_file():
        return None
    store = ArrayFolder.open(folder)
    if store.fingerprint != _fingerprint(identity):
        return None
    return StoredParts(store, np.asarray(graph.user_offsets), np.asarray(graph.item_offsets))


def save_parts(graph: BipartiteGraph, folder: Path, *, identity: str, progress: Progress = silent) -> None:
    """Writes the parts of a graph; all processes call this, and each writes its share of the parts.

    Args:
      graph: may be mapped from its files: a process holds one part at a time.
      folder: on a file system that all processes share; it appears only when all parts are written.
      identity: fingerprint of the graph.
      progress: shows the parts.
    """
    source = GraphInMemory(graph)
    sides = (
        ("users", source.to_users, source.users, np.diff(graph.user_offsets)),
        ("items", source.to_items, source.items, np.diff(graph.item_offsets)),
    )
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(new_folder(folder)) if processes.first() else None
        # Named after the first process's id.
        temporary = folder.parent / processes.from_first(temporary and temporary.name)
        writer, own = ArrayWriter(temporary), processes.share(NUM_PARTS)
        with progress("cut edges into parts", len(own), "part") as advance:
            for part in own:
                for side, read, slots, degree in sides:
                    ends = read(part)
                    nodes = slots.nodes_of(part)
                    nodes = nodes[nodes < len(degree)]
                    owner = np.repeat(np.arange(len(nodes)), degree[nodes])
                    name = f"{side}/{part:02d}"
                    writer.write(f"{name}/start", ends.start)
                    writer.write(f"{name}/weight", ends.weight)
                    writer.write(f"{name}/total", np.bincount(owner, ends.weight.astype(np.float64), len(nodes)))
                advance(1)
        write_json(temporary / f"written-{processes.index()}.json", writer.arrays)
        processes.barrier()
        if processes.first():
            for path in sorted(temporary.glob("written-*.json")):
                writer.arrays |= read_json(path)
                path.unlink()
            writer.finish(fingerprint=_fingerprint(identity), meta={"num_parts": NUM_PARTS})
    processes.barrier()


def _fingerprint(identity: str) -> str:
    return fingerprint({"version": FORMAT_VERSION, "graph": identity, "num_parts": NUM_PARTS})
