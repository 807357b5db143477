"""Recall, latency and throughput of indexes over a trained workdir's songs.

    python launch/evaluate_retrieval.py --workdir=checkpoints/demo --output=retrieval.json
    python launch/evaluate_retrieval.py --workdir=checkpoints/demo --output=retrieval.json --recall_targets=0.9,0.99

A row an index: exact search, and ScaNN tuned to each recall target. Recall@k is against exact search, over queries that
the tuning did not see (half songs, half users); latency is of single queries, throughput of batches of 512.
"""

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags

from launch import app, experiment
from music_map.errors import UserError
from music_map.playlist.heads import untrained
from music_map.retrieval.index import Index, build_index, installed, recall_of, sample_queries, save_index
from music_map.retrieval.recommender import in_space, load_heads
from music_map.storage import write_json

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of the rows.", required=True)
_TARGETS = flags.DEFINE_list("recall_targets", ["0.9", "0.95", "0.99"], "ScaNN's, one index each.")
_K = flags.DEFINE_integer("k", 100, "Songs of a query.", 1)
_QUERIES = flags.DEFINE_integer("num_queries", 1_000, "Queries to measure with.", 2)


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


def measured(index: Index, vectors: np.ndarray, queries: np.ndarray, wanted: np.ndarray, k: int) -> dict:
    """A row: recall, latency, throughput and bytes on disk."""
    found, _ = index.search(queries, k)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        save_index(index, vectors, np.arange(len(vectors), dtype=np.uint32), path, fingerprint="measured")
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())

    def search(block: np.ndarray) -> object:
        return index.search(block, k)

    return {
        "index": index.backend,
        f"recall@{k}": recall_of(found, wanted),
        **latencies(search, queries),
        "queries_per_second": throughput(search, queries),
        "mib": size / 2**20,
        "facts": index.facts,
    }


def main() -> int:
    workdir = app.path_of(_WORKDIR.value, "workdir")
    try:
        targets = [float(text) for text in _TARGETS.value]
    except ValueError as e:
        raise UserError(f"--recall_targets={','.join(_TARGETS.value)}: numbers between 0 and 1, by commas") from e
    settings = experiment.open_workdir(workdir).config.retrieval
    export = experiment.load_model_export(workdir)
    songs, users = in_space(export, load_heads(workdir) or untrained(settings.attention_temperature))
    queries = sample_queries(users, songs, count=_QUERIES.value, seed=1)
    k = min(_K.value, len(songs))
    start = time.perf_counter()
    exact = build_index(songs, backend="exact")
    exact.facts["build_seconds"] = time.perf_counter() - start
    wanted = np.concatenate([exact.search(block, k)[0] for block in np.array_split(queries, -(-len(queries) // 64))])
    rows = [measured(exact, songs, queries, wanted, k)]
    if installed():
        for target in targets:
            index = build_index(songs, backend="scann", recall_target=target, queries=sample_queries(users, songs))
            rows.append(measured(index, songs, queries, wanted, k) | {"target": target})
    else:
        app.warn("ScaNN has no wheel for this platform: exact search alone is measured")
    names = (f"recall@{k}", "p50_ms", "p95_ms", "p99_ms", "queries_per_second", "mib", "build_seconds")
    app.say(f"{'index':<16}" + "".join(f"{name:>20}" for name in names))
    for row in rows:
        name = row["index"] + (f" {row['target']}" if "target" in row else "")
        values = row | {"build_seconds": row["facts"]["build_seconds"]}
        app.say(f"{name:<16}" + "".join(f"{values[column]:>20.4f}" for column in names))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    output = app.path_of(_OUTPUT.value, "output")
    write_json(output, {"num_songs": len(songs), "num_queries": len(queries), "peak_mib": peak, "rows": rows})
    app.say(f"{len(songs)} songs, {len(queries)} queries, peak memory {peak:.0f} MiB; all in {output}")
    return 0


if __name__ == "__main__":
    app.run(main)
