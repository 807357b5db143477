"""Nearest-song search beside faiss and usearch: recall, latency, throughput, build time, memory.

    python benchmarks/retrieval.py --num_songs=254000 --output=retrieval.json
    python benchmarks/retrieval.py --num_songs=1000000 --output=retrieval.json

Vectors are generated: clusters of clusters with noise, unit length, as trained song embeddings are; queries are means
of a few songs of a cluster, noisy. Every index is tuned on other queries to the recall target by its own search
parameter (leaves; efSearch; nprobe), then all are measured in turns, one block of queries each, --rounds times: the
medians are over rounds. Each index is built in a process of its own, whose growth in resident memory is its memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import options
from absl import flags
from generated import make_vectors

from music_map.retrieval.index import ExactIndex, Index, build_index, load_index, recall_of, save_index
from music_map.storage import write_json

_SONGS = flags.DEFINE_integer("num_songs", 254_000, "Songs.", 1_000)
_DIMS = flags.DEFINE_integer("dims", 64, "Of an embedding.", 2)
_TARGET = flags.DEFINE_float("recall_target", 0.99, "Recall@100 that each index is tuned to.", 0.0, 1.0)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns.", 1)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")
_CHILD = flags.DEFINE_string("measure_memory_of", None, "Internal: builds one index and prints its memory.")
_MEMORY = flags.DEFINE_bool("memory", True, "Whether to measure memory, which builds each index twice.")
_NAMES = flags.DEFINE_list("indexes", ["exact", "scann", "hnsw", "ivfpq", "usearch"], "What to measure.")

K, BATCH = 100, 512


Search = Callable[[np.ndarray, int], np.ndarray]


def build(name: str, songs: np.ndarray, tuning: np.ndarray, wanted: np.ndarray, target: float) -> tuple[Search, dict]:
    """An index tuned to the target, as a search function, and its facts."""
    facts: dict = {}
    start = time.perf_counter()
    if name == "exact":
        exact = ExactIndex(songs)
        facts["build_seconds"] = time.perf_counter() - start
        return lambda q, k: exact.search(q, k)[0], facts | {"load_seconds": seconds_to_load(exact, songs)}
    if name == "scann":
        index = build_index(songs, backend="scann", recall_target=target, queries=tuning)
        return lambda q, k: index.search(q, k)[0], index.facts | {"load_seconds": seconds_to_load(index, songs)}
    if name in ("hnsw", "ivfpq"):
        import faiss

        faiss.omp_set_num_threads(os.cpu_count() or 1)
        if name == "hnsw":
            graph = faiss.IndexHNSWFlat(songs.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = 100
            graph.add(songs)
            knobs = [("efSearch", ef) for ef in (100, 150, 200, 300, 400, 600, 800, 1200, 1600)]

            def search(q: np.ndarray, k: int) -> np.ndarray:
                return graph.search(q, k)[1]

            def set_knob(value: int) -> None:
                graph.hnsw.efSearch = value

        else:
            lists = int(2 * np.sqrt(len(songs)))
            coarse = faiss.IndexFlatIP(songs.shape[1])
            pq = faiss.IndexIVFPQ(coarse, songs.shape[1], lists, 32, 8, faiss.METRIC_INNER_PRODUCT)
            pq.train(songs[: min(len(songs), 40 * lists)])
            pq.add(songs)
            refined = faiss.IndexRefineFlat(pq, faiss.swig_ptr(songs))
            refined.k_factor = 5
            knobs = [("nprobe", n) for n in (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)]

            def search(q: np.ndarray, k: int) -> np.ndarray:
                return refined.search(q, k)[1]

            def set_knob(value: int) -> None:
                pq.nprobe = value

    else:
        from usearch.index import Index

        compact = Index(ndim=songs.shape[1], metric="ip", dtype="f32", connectivity=32, expansion_add=100)
        compact.add(np.arange(len(songs)), songs, threads=os.cpu_count())
        knobs = [("expansion_search", ef) for ef in (100, 150, 200, 300, 400, 600, 800, 1200, 1600)]

        def search(q: np.ndarray, k: int) -> np.ndarray:
            found = compact.search(q, k, threads=os.cpu_count() if len(q) > 1 else 1).keys
            return np.asarray(found, np.int64).reshape(len(q), -1)

        def set_knob(value: int) -> None:
            compact.expansion_search = value

    facts["build_seconds"] = time.perf_counter() - start
    for knob, value in knobs:
        set_knob(value)
        facts |= {knob: value, "tuning_recall": recall_of(search(tuning, K), wanted)}
        if facts["tuning_recall"] >= target:
            break
    return search, facts


def seconds_to_load(index: Index, songs: np.ndarray) -> float:
    """From the saved folder to a searchable index, its checksums verified; the files are in the system's cache."""
    if _CHILD.value:  # which measures memory
        return float("nan")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        save_index(index, songs, np.arange(len(songs), dtype=np.uint32), path, fingerprint="measured")
        start = time.perf_counter()
        load_index(path, fingerprint="measured")
        return time.perf_counter() - start


def memory_of(name: str) -> float:
    """MiB that building and searching one index adds to a process that holds the vectors."""
    command = [sys.executable, __file__, f"--measure_memory_of={name}", f"--num_songs={_SONGS.value}"]
    command += [f"--dims={_DIMS.value}", f"--recall_target={_TARGET.value}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def _resident() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def main() -> int:
    songs, queries = make_vectors(_SONGS.value, _DIMS.value, num_queries=2_024)
    tuning, queries = queries[:1_000], queries[1_000:]
    if _CHILD.value:
        wanted = np.zeros((1, K), np.int64)  # memory does not depend on the tuning: the first knob will do
        before = _resident()
        search, _ = build(_CHILD.value, songs, tuning[:1], wanted, 0.0001 if _CHILD.value == "scann" else 0.0)
        search(queries[:BATCH], K)
        options.say(f"{_resident() - before:.1f}")
        return 0
    reference = ExactIndex(songs)
    exact = [np.concatenate([reference.search(b, K)[0] for b in np.array_split(q, 16)]) for q in (tuning, queries)]
    searches, rows = {}, {}
    for name in _NAMES.value:
        searches[name], facts = build(name, songs, tuning, exact[0], _TARGET.value)
        rows[name] = {"facts": facts, "memory_mib": memory_of(name) if _MEMORY.value else float("nan")}
        options.say(f"{name}: {facts}")
    timings: dict[str, dict[str, list[float]]] = {name: {"single": [], "batch": []} for name in searches}
    for turn in range(_ROUNDS.value + 1):  # the first warms up
        for name, search in searches.items():
            part = np.random.default_rng(turn).permutation(len(queries))
            single = []
            for at in part[: 40 if name == "exact" else 200]:
                start = time.perf_counter()
                search(queries[at : at + 1], K)
                single.append(time.perf_counter() - start)
            start = time.perf_counter()
            for block in range(2):
                search(queries[part[block * BATCH : (block + 1) * BATCH]], K)
            batch = 2 * BATCH / (time.perf_counter() - start)
            if turn:
                timings[name]["single"] += single
                timings[name]["batch"].append(batch)
    for name, search in searches.items():
        single = 1e3 * np.array(timings[name]["single"])
        rows[name] |= {
            "recall@100": recall_of(search(queries, K), exact[1]),
            "p50_ms": float(np.median(single)),
            "p99_ms": float(np.percentile(single, 99)),
            "batch_qps": float(np.median(timings[name]["batch"])),
        }
    options.say(f"\n{_SONGS.value} songs x {_DIMS.value}, k {K}, {os.cpu_count()} cores")
    options.say("| index | recall@100 | p50 ms | p99 ms | batch queries/s | build s | memory MiB |")
    options.say("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        options.say(
            f"| {name} | {row['recall@100']:.4f} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} | "
            f"{row['batch_qps']:.0f} | "
            f"{row['facts']['build_seconds']:.1f} | {row['memory_mib']:.0f} |"
        )
    if {"exact", "scann"} <= rows.keys():
        one = rows["exact"]["p50_ms"] / rows["scann"]["p50_ms"]
        many = rows["scann"]["batch_qps"] / rows["exact"]["batch_qps"]
        options.say(f"scann over exact: single {one:.1f}x, batch {many:.1f}x")
    for name in ("hnsw", "ivfpq", "usearch"):
        if {name, "scann"} <= rows.keys():
            one = rows[name]["p50_ms"] / rows["scann"]["p50_ms"]
            many = rows["scann"]["batch_qps"] / rows[name]["batch_qps"]
            options.say(f"scann over {name}: single {one:.2f}x, batch {many:.2f}x")
    if _OUTPUT.value:
        write_json(Path(_OUTPUT.value), json.loads(json.dumps(rows, default=float)))
    return 0


if __name__ == "__main__":
    options.run(main)
