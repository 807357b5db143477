"""What the service does under hostile clients and at SIGTERM: python tests/serving/measure.py WORKDIR

Three tables: SIGTERM with 800 accepted requests; /health beside 1,010 half-sent requests; 48 clients with and without
16 others whose requests are heavy. WORKDIR is a trained run; benchmarks/workdir.py generates one of 254,000 songs.
"""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clients import HOST, Seen, ask, get, half_sent, request

ROOT = Path(os.environ.get("SERVED_CODE", Path(__file__).resolve().parents[2]))


def playlists(songs, count, length, **more):
    rng = random.Random(length)
    return [request({"songs": [rng.choice(songs) for _ in range(length)], **more}) for _ in range(count)]


class Service:
    """launch/serve.py as a process of its own; `start_seconds` until it answered."""

    def __init__(self, workdir):
        with socket.socket() as s:
            s.bind((HOST, 0))
            self.port = s.getsockname()[1]
        start = time.monotonic()
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        # The usual limit of open files, whatever the shell has.
        command = f"ulimit -S -n 1024; exec {sys.executable} launch/serve.py --workdir={workdir} --port={self.port}"
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            ["sh", "-c", command], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=self.errors
        )
        while asyncio.run(get(self.port))[0] != 200:
            assert self.process.poll() is None, "the service ended"
            time.sleep(0.1)
        self.start_seconds = time.monotonic() - start

    def stop(self):
        """Seconds to the end after SIGTERM, status and tracebacks."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(180)
        self.errors.seek(0)
        return time.monotonic() - start, status, self.errors.read().count("Traceback")


async def terminate(service, name, requests):
    seen = Seen()
    tasks = [asyncio.create_task(ask(service.port, [one], seen)) for one in requests]
    await asyncio.sleep(1.0)
    start, loop = time.monotonic(), asyncio.get_running_loop()
    ended = loop.run_in_executor(None, service.stop)
    await asyncio.gather(*tasks)
    answered = time.monotonic() - start
    seconds, status, tracebacks = await ended
    print(
        f"SIGTERM, {len(requests)} requests {name}: {dict(seen.statuses)}; last answer after {answered:.1f} s, end "
        f"after {seconds:.1f} s, status {status}, {tracebacks} tracebacks, {seen.without_retry} 503 without Retry-After"
    )


async def half_open(port):
    held = await half_sent(port, 1_010)
    start = time.perf_counter()
    status, _, _ = await get(port, timeout=10.0)
    print(f"{len(held)} half-sent requests: /health {status} after {time.perf_counter() - start:.2f} s")
    for writer in held:
        writer.close()


async def beside(port, cheap, heavy, seconds, name):
    seen, others = Seen(), Seen()
    until = asyncio.get_running_loop().time() + seconds
    await asyncio.gather(
        *(ask(port, cheap[n:] + cheap[:n], seen, until=until) for n in range(48)),
        *(ask(port, heavy, others, until=until) for _ in range(16 if heavy else 0)),
    )
    print(
        f"{name}: 48 clients {len(seen.seconds) / seconds:.0f} answers a second, p50 {seen.milliseconds(50):.0f} ms, "
        f"p99 {seen.milliseconds(99):.0f} ms, {dict(seen.statuses)}; the others {len(others.seconds) / seconds:.1f} "
        f"a second, {dict(others.statuses)}",
        flush=True,
    )


def main():
    workdir = Path(sys.argv[1]).resolve()
    songs = list(range(254_000)) if len(sys.argv) == 2 else [int(x) for x in sys.argv[2].split(",")]
    service = Service(workdir)
    print(f"answers {service.start_seconds:.1f} s after its start")
    cheap = playlists(songs, 480, 50, k=10)
    tries = {
        "alone": [],
        "beside 16 of 1,000 songs, k=1000, MMR": playlists(songs, 1, 1_000, k=1_000, filters={"diversity": 0.3}),
        "beside 16 of 1,000 songs, k=100, MMR": playlists(songs, 16, 1_000, k=100, filters={"diversity": 0.3}),
        "beside 16 of 1,000 songs, k=1000": playlists(songs, 16, 1_000, k=1_000),
    }
    asyncio.run(beside(service.port, cheap, [], 3.0, "first"))
    for name, heavy in tries.items():
        asyncio.run(beside(service.port, cheap, heavy, 6.0, name))
    asyncio.run(
        terminate(service, "of 1,000 songs with MMR", playlists(songs, 800, 1_000, k=100, filters={"diversity": 0.3}))
    )
    service = Service(workdir)
    # Each is answered by itself.
    own = [playlists(songs, 1, 50, k=10, filters={"min_listeners": n % 200, "deny": [n]})[0] for n in range(800)]
    asyncio.run(terminate(service, "with filters of their own", own))
    service = Service(workdir)
    asyncio.run(half_open(service.port))
    print("stopped after {:.1f} s, status {}, {} tracebacks".format(*service.stop()))


if __name__ == "__main__":
    main()
