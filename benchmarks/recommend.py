"""End to end: a 50-song playlist with filters, in a loaded process; and the HTTP service under many clients.

    python benchmarks/recommend.py --output=recommend.json
    python benchmarks/recommend.py --seconds=120 --clients=64 --output=recommend.json

The catalogue is generated (254,000 songs x 64 as in benchmarks/retrieval.py, 10,000 users, an artist for 20 songs):
what is measured does not depend on what the embeddings mean. The service runs in a process of its own on loopback; its
resident memory is read at the start, every 10 s and at the end.
"""

import asyncio
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import options
from absl import flags
from http_load import load, request, running
from workdir import make_workdir

from music_map.retrieval.filters import Filters
from music_map.retrieval.recommender import Recommender
from music_map.storage import write_json

_OUTPUT = flags.DEFINE_string("output", None, "JSON file.", required=True)
_SECONDS = flags.DEFINE_float("seconds", 120.0, "Of the load on the service; 0: none.", 0.0)
_CLIENTS = flags.DEFINE_integer("clients", 64, "That ask one after the other.", 1)

SONGS, USERS, PLAYLIST = 254_000, 10_000, 50


def playlists(count: int, *, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SONGS, PLAYLIST).tolist() for _ in range(count)]


def in_process(workdir: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of single calls, by kind of query."""
    start = time.perf_counter()
    recommender = Recommender.load(workdir)
    found = {"load": {"seconds": time.perf_counter() - start}}
    recommender.warm()
    caps = Filters(max_per_artist=2, min_listeners=5, only_with_audio=True)
    kinds = {
        "50 songs": {},
        "50 songs, caps and floors": {"filters": caps},
        "50 songs, caps, floors, MMR": {"filters": Filters(max_per_artist=2, min_listeners=5, diversity=0.3)},
        "50 songs, a user's heard out": {"filters": Filters(heard=False, max_per_artist=2), "user": 7},
        "50 songs, 1 % of the catalogue allowed": {"filters": Filters(allow=tuple(range(0, SONGS, 100)))},
        "50 songs of one taste": {"near": True},
        "1 song": {"songs": 1},
    }
    for name, more in kinds.items():
        count, asked = more.pop("songs", PLAYLIST), playlists(1_020, seed=len(name))
        if more.pop("near", False):
            asked = [[r.item_id for r in recommender.similar(songs[0], k=PLAYLIST).recommendations] for songs in asked]
        milliseconds = []
        for songs in asked:
            start = time.perf_counter()
            answer = recommender.recommend(songs[:count], k=10, **more)
            milliseconds.append(1e3 * (time.perf_counter() - start))
            assert len(answer.recommendations) == 10
        steady = milliseconds[20:]
        found[name] = {f"p{p}_ms": float(np.percentile(steady, p)) for p in (50, 95, 99)}
        options.say(f"{name:<42}" + "".join(f"{key} {value:8.2f}  " for key, value in found[name].items()))
    return found


def service(workdir: Path, seconds: float, clients: int) -> dict:
    """The service in a process of its own, under load."""
    requests = [
        ("playlist", request("/recommend", {"songs": songs, "k": 10, "filters": {"max_per_artist": 2}}), 10)
        for songs in playlists(500, seed=3)
    ]
    asks = [itertools.cycle(requests[n % 500 :] + requests[: n % 500]).__next__ for n in range(clients)]
    with running(workdir, "--events=off") as served:
        asyncio.run(load(served, asks, min(5.0, seconds)))  # the first requests warm up
        found = asyncio.run(load(served, asks, seconds))
        found["stop_status"] = served.stop()
    memory = " ".join(f"{mib:.0f}" for mib in found["resident_mib"])
    options.say(
        f"{clients} clients, {seconds:.0f} s: {found['requests']} requests, {found['per_second']:.0f} a second, "
        f"p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms, {found['num_errors']} errors; a request takes "
        f"the service {found['service_core_ms']:.2f} ms of a core and the client {found['client_core_ms']:.2f}; "
        f"MiB: {memory}"
    )
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        workdir = make_workdir(Path(folder), num_songs=SONGS, num_users=USERS)
        results = {"in_process": in_process(workdir)}
        if _SECONDS.value:
            results["service"] = service(workdir, _SECONDS.value, _CLIENTS.value)
    write_json(options.path_of(_OUTPUT.value, "output"), results)
    return 0


if __name__ == "__main__":
    options.run(main)
