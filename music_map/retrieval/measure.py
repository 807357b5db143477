"""Recall, latency and throughput of indexes over a model's songs."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from music_map.reporter import SILENT, Reporter
from music_map.retrieval.index import Index, build_index, installed, recall_of, sample_queries, save_index
from music_map.text import folder_size


def measure_indexes(
    songs: np.ndarray,
    users: np.ndarray,
    *,
    k: int,
    recall_targets: Sequence[float],
    num_queries: int,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Exact search, and ScaNN tuned to each recall target, over queries that the tuning did not see.

    Args:
      songs, users: float32 [I, d] and [U, d]; half of the queries are songs, half users.
      k: songs of a query.
      recall_targets: of recall@100, one index for each.
      num_queries: to measure with.
      reporter: warns if ScaNN is not installed.

    Returns:
      {"num_songs", "num_queries", "peak_mib", "rows": an index each}, JSON-able; a row has "index", recall@k against
      exact search, latencies of single queries in ms, queries a second in batches of 512, MiB on disk and seconds.
    """
    queries = sample_queries(users, songs, count=num_queries, seed=1)
    k = min(k, len(songs))
    start = time.perf_counter()
    exact = build_index(songs, backend="exact")
    exact.facts["build_seconds"] = time.perf_counter() - start
    wanted = np.concatenate([exact.search(block, k)[0] for block in np.array_split(queries, -(-len(queries) // 64))])
    rows = [measured(exact, songs, queries, wanted, k)]
    for target in recall_targets if installed() else ():
        index = build_index(songs, backend="scann", recall_target=target, queries=sample_queries(users, songs))
        rows.append(measured(index, songs, queries, wanted, k) | {"target": target})
    if not installed():
        reporter.warn("ScaNN is not installed: exact search alone is measured")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"num_songs": len(songs), "num_queries": len(queries), "peak_mib": peak, "rows": rows}


def latencies(search: Callable[[np.ndarray], object], queries: np.ndarray) -> dict[str, float]:
    """Milliseconds of single queries: p50, p95 and p99."""
    for query in queries[:10]:
        search(query[None, :])
    seconds = []
    for query in queries:
        start = time.perf_counter()
        search(query[None, :])
        seconds.append(time.perf_counter() - start)
    return {f"p{p}_ms": float(1e3 * np.percentile(seconds, p)) for p in (50, 95, 99)}


def throughput(search: Callable[[np.ndarray], object], queries: np.ndarray, *, batch: int = 512) -> float:
    """Queries a second, in batches."""
    blocks = [queries[i : i + batch] for i in range(0, len(queries), batch)]
    blocks = [block for block in blocks if len(block) == len(blocks[0])]
    search(blocks[0])
    start = time.perf_counter()
    for block in blocks:
        search(block)
    return sum(map(len, blocks)) / (time.perf_counter() - start)


def measured(index: Index, vectors: np.ndarray, queries: np.ndarray, wanted: np.ndarray, k: int) -> dict[str, Any]:
    """A row: recall, latency, throughput and bytes on disk."""
    found, _ = index.search(queries, k)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        save_index(index, vectors, np.arange(len(vectors), dtype=np.uint32), path, fingerprint="measured")
        size = folder_size(path)

    def search(block: np.ndarray) -> object:
        return index.search(block, k)

    return {
        "index": index.backend,
        f"recall@{k}": recall_of(found, wanted),
        **latencies(search, queries),
        "queries_per_second": throughput(search, queries),
        "mib": size / 2**20,
        "build_seconds": index.facts["build_seconds"],
        "facts": index.facts,
    }
