"""End to end: a 50-song playlist with filters, in a loaded process; and the HTTP service under many clients.

    python benchmarks/recommend.py --output=recommend.json
    python benchmarks/recommend.py --seconds=120 --clients=64 --output=recommend.json

The catalogue is generated (254,000 songs x 64 as in benchmarks/retrieval.py, 10,000 users, an artist for 20 songs):
what is measured does not depend on what the embeddings mean. The service runs in a process of its own on loopback; its
resident memory is read at the start, every 10 s and at the end.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import options
import psutil
from absl import flags
from workdir import make_workdir

from music_map.retrieval.filters import Filters
from music_map.retrieval.recommender import Recommender
from music_map.storage import write_json

_OUTPUT = flags.DEFINE_string("output", None, "JSON file.", required=True)
_SECONDS = flags.DEFINE_float("seconds", 120.0, "Of the load on the service; 0: none.", 0.0)
_CLIENTS = flags.DEFINE_integer("clients", 64, "That ask one after the other.", 1)

SONGS, USERS, PLAYLIST = 254_000, 10_000, 50
HOST = "127.0.0.1"


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


class Client(asyncio.Protocol):
    """Asks as soon as it is answered, on one connection; as little of a client as HTTP allows."""

    def __init__(self, requests: list[bytes], at: int, step: int, end: float, done: asyncio.Future):
        self._requests, self._at, self._step, self._end, self._done = requests, at, step, end, done
        self.seconds: list[float] = []
        self.errors: list[str] = []

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._answer, self._length = b"", 0
        self._start = time.perf_counter()
        self._transport.write(self._requests[self._at % len(self._requests)])
        self._at += self._step

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._length:
            head = self._answer.find(b"\r\n\r\n")
            if head < 0:
                return
            at = self._answer.lower().index(b"content-length:", 0, head)
            self._length = head + 4 + int(self._answer[at + 15 : self._answer.index(b"\r\n", at)])
        if len(self._answer) < self._length:
            return
        now = time.perf_counter()
        self.seconds.append(now - self._start)
        if not self._answer.startswith(b"HTTP/1.1 200") or self._answer.count(b'"rank":') != 10:
            self.errors.append(self._answer[:200].decode(errors="replace"))
        if now < self._end:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None or time.perf_counter() < self._end:
            self.errors.append(f"connection lost: {error}")
        self._done.set_result(None)


async def load(port: int, seconds: float, clients: int, process: psutil.Process) -> dict:
    """What clients that ask all the time see, and what it costs the service and the clients."""
    end = time.perf_counter() + seconds
    requests = []
    for songs in playlists(500, seed=3):
        body = json.dumps({"songs": songs, "k": 10, "filters": {"max_per_artist": 2}}).encode()
        head = f"POST /recommend HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n"
        requests.append(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    loop, memory, many = asyncio.get_running_loop(), [], []
    before, mine = sum(process.cpu_times()[:2]), time.process_time()
    for number in range(clients):
        client = Client(requests, number, clients, end, loop.create_future())
        many.append(client)
        await loop.create_connection(lambda client=client: client, HOST, port)
    while time.perf_counter() < end:
        memory.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(min(10.0, max(0.0, end - time.perf_counter())))
    await asyncio.gather(*(client._done for client in many))
    memory.append(process.memory_info().rss / 2**20)
    milliseconds = 1e3 * np.array([s for client in many for s in client.seconds])
    errors = [e for client in many for e in client.errors]
    return {
        "requests": len(milliseconds),
        "per_second": len(milliseconds) / seconds,
        **{f"p{p}_ms": float(np.percentile(milliseconds, p)) for p in (50, 95, 99)},
        "service_core_ms": 1e3 * (sum(process.cpu_times()[:2]) - before) / len(milliseconds),
        "client_core_ms": 1e3 * (time.process_time() - mine) / len(milliseconds),
        "errors": errors[:5],
        "num_errors": len(errors),
        "resident_mib": memory,
    }


def service(workdir: Path, seconds: float, clients: int) -> dict:
    """The service in a process of its own, under load."""
    with socket.socket() as s:
        s.bind((HOST, 0))
        port = s.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "launch/serve.py", f"--workdir={workdir}", f"--port={port}"], stdout=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                httpx.get(f"http://{HOST}:{port}/health", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                if server.poll() is not None:
                    raise SystemExit("the service ended") from None
                time.sleep(0.5)
        process = psutil.Process(server.pid)
        asyncio.run(load(port, min(5.0, seconds), clients, process))  # the first requests warm up
        found = asyncio.run(load(port, seconds, clients, process))
        os.kill(server.pid, signal.SIGTERM)
        found["stop_status"] = server.wait(30)
    finally:
        server.kill()
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
