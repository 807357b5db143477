"""The graph of a data set: built from train alone, stored in one folder per configuration."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from music_map.errors import UserError
from music_map.graph.bipartite import BipartiteGraph, Edges, from_edges
from music_map.graph.settings import GraphSettings
from music_map.graph.weights import EdgeCounts, chunk_edges
from music_map.preprocess.dataset import Dataset, Events, Withdrawals
from music_map.reporter import Progress, silent
from music_map.storage import MANIFEST, ArrayFolder, ArrayWriter, fingerprint, new_folder, write_json
from music_map.threads import num_workers, ordered_map

# Raised when weights or stored arrays change their meaning: graphs of an older version are then built anew.
FORMAT_VERSION = 1


def graph_fingerprint(dataset: Dataset, settings: GraphSettings) -> str:
    """Identity of the graph of a data set under these settings."""
    return fingerprint({"version": FORMAT_VERSION, "settings": settings.identity(), "dataset": dataset.fingerprint})


def graph_folder(processed_dir: Path, identity: str) -> Path:
    """Where the graph with this fingerprint is kept."""
    return processed_dir / f"graph-{identity[:12]}"


def build_graph(
    dataset: Dataset, settings: GraphSettings, *, progress: Progress = silent
) -> tuple[BipartiteGraph, EdgeCounts]:
    """Builds the graph of users and songs from the train split; val and test are not read.

    Shards are read one by one, a few ahead per core, so memory grows with the number of edges, not of events.

    Args:
      dataset: processed logs.
      settings: edge weights.
      progress: shows the events read.
    Returns:
      The graph, and counts of the events without an edge.
    Raises:
      UserError: there would be no edge at all.
      DamagedFileError: a shard is missing or damaged; the message names it.
    """
    withdrawals = dataset.withdrawals("train")
    now = dataset.train_end
    edges: list[Edges] = []
    negatives: list[Edges] = []
    counts = EdgeCounts()

    def build(events: Events) -> tuple[Edges, Edges, EdgeCounts, int]:
        first, last = np.searchsorted(withdrawals.user, [events.user[0], events.user[-1] + 1])
        of_chunk = Withdrawals(*(column[first:last] for column in withdrawals))
        return *chunk_edges(events, of_chunk, settings, now=now, num_items=dataset.num_items), len(events.user)

    workers = num_workers()
    with (
        progress("build edges", dataset.stats["train_size"], "event") as advance,
        ThreadPoolExecutor(workers) as pool,
    ):
        chunks = _whole_users(dataset.event_shards("train"))
        for found in ordered_map(build, chunks, pool=pool, ahead=workers):
            edges.append(found[0])
            negatives.append(found[1])
            counts = EdgeCounts(*(a + b for a, b in zip(counts, found[2], strict=True)))
            advance(found[3])
    if not any(len(part.user) for part in edges):
        raise UserError(
            f"{dataset.store.folder}: no train event makes an edge (only listens of 0 %, withdrawn likes and dislikes, "
            "or weights of zero); check played_ratio_pct and --config.graph"
        )
    graph = from_edges(
        *_join(edges), num_users=dataset.num_users, num_items=dataset.num_items, negatives=_join(negatives)
    )
    return graph, counts


def _whole_users(shards: Iterator[Events]) -> Iterator[Events]:
    """Moves the last user of each shard to the next shard, which may have more of the user; no chunk is empty."""
    rest: Events | None = None
    for shard in shards:
        if rest is not None:
            shard = Events(*(np.concatenate(columns) for columns in zip(rest, shard, strict=True)))
        if len(shard.user) == 0:
            continue
        cut = int(np.searchsorted(shard.user, shard.user[-1]))
        if cut:
            yield Events(*(column[:cut] for column in shard))
        rest = Events(*(column[cut:] for column in shard))
    if rest is not None and len(rest.user):
        yield rest


def _join(parts: list[Edges]) -> Edges:
    return Edges(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def graph_stats(graph: BipartiteGraph, counts: EdgeCounts) -> dict[str, Any]:
    """The content of graph_stats.json.

    num_edges counts both directions; avg_degree = num_edges / num_nodes; density = num_edges / 2 / (users x songs),
    which may exceed 1 with parallel edges.
    """
    num_nodes = graph.num_users + graph.num_items
    weight = graph.weight
    some = len(weight) > 0
    return {
        "num_nodes": num_nodes,
        "num_users": graph.num_users,
        "num_items": graph.num_items,
        "num_edges": 2 * graph.num_edges,
        "num_negative_edges": len(graph.negative_user),
        "avg_degree": 2 * graph.num_edges / num_nodes,
        "density": graph.num_edges / (graph.num_users * graph.num_items),
        "edge_weight_stats": {
            "min": float(weight.min()) if some else 0.0,
            "max": float(weight.max()) if some else 0.0,
            "mean": float(weight.mean(dtype=np.float64)) if some else 0.0,
            "std": float(weight.std(dtype=np.float64)) if some else 0.0,
        },
        "num_users_without_edges": int((np.diff(graph.user_offsets) == 0).sum()),
        "num_items_without_edges": int((np.diff(graph.item_offsets) == 0).sum()),
        **counts._asdict(),
    }


def save_graph(
    graph: BipartiteGraph, stats: dict[str, Any], folder: Path, *, identity: str, settings: GraphSettings
) -> None:
    """Writes the graph's arrays, a manifest and graph_stats.json; the folder appears when it is whole."""
    with new_folder(folder) as temporary:
        writer = ArrayWriter(temporary)
        for name, array in graph._asdict().items():
            writer.write(name, array)
        write_json(temporary / "graph_stats.json", stats)
        writer.finish(fingerprint=identity, meta={"stats": stats, "settings": settings.identity()})


def load_graph(folder: Path, *, identity: str, mapped: bool = False) -> tuple[BipartiteGraph, dict[str, Any]] | None:
    """Loads a stored graph and its stats; None where there is none with this fingerprint.

    With `mapped` the arrays are memory maps, without checksums: only the parts that are used are read.

    Raises:
      DamagedFileError: an array is missing or damaged; the message names it.
    """
    if not (folder / MANIFEST).is_file():
        return None
    store = ArrayFolder.open(folder)
    if store.fingerprint != identity:
        return None
    arrays = (store.load(name, verify=not mapped, mmap=mapped) for name in BipartiteGraph._fields)
    return BipartiteGraph(*arrays), store.meta["stats"]
