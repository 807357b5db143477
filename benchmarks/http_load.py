"""The service as a process of its own, and clients of it that ask all the time."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

HOST = "127.0.0.1"


def request(path: str, body: Any) -> bytes:
    """A POST of a JSON body."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


class Service:
    """launch/serve.py, once it answers.

    Args:
      workdir: of a run.
      flags: more of them.
    """

    def __init__(self, workdir: Path, *flags: str):
        with socket.socket() as s:
            s.bind((HOST, 0))
            self.port = s.getsockname()[1]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, "launch/serve.py", f"--workdir={workdir}", f"--port={self.port}", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.errors)
        while not self.answers():
            if self.process.poll() is not None:
                raise SystemExit(f"the service ended: {self.told()}")
            time.sleep(0.2)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://{HOST}:{self.port}/health", timeout=5).status_code == 200
        return False

    def told(self) -> str:
        """What it wrote on stderr."""
        self.errors.seek(0)
        return self.errors.read()

    def stop(self) -> int:
        """Ends it by SIGTERM; its status."""
        os.kill(self.process.pid, signal.SIGTERM)
        return self.process.wait(30)


@contextlib.contextmanager
def running(workdir: Path, *flags: str) -> Iterator[Service]:
    """A service that is killed at the end where it still runs."""
    service = Service(workdir, *flags)
    try:
        yield service
    finally:
        service.process.kill()
        service.process.wait()


@dataclasses.dataclass
class Seen:
    """What clients saw, by kind of request: seconds of answers; and errors."""

    seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    errors: list[str] = dataclasses.field(default_factory=list)


class Client(asyncio.Protocol):
    """Asks as soon as it is answered, on one connection; as little of a client as HTTP allows.

    Args:
      ask: makes the next request: its kind, its bytes, and how often "rank" stands in a good answer.
      seen: what comes back.
      end: of the clock, when to stop.
      done: set at the end.
      told: called with the kind and the bytes of each good answer.
    """

    def __init__(
        self,
        ask: Callable[[], tuple[str, bytes, int]],
        seen: Seen,
        end: float,
        done: asyncio.Future,
        told: Callable[[str, bytes], object] | None = None,
    ):
        self._next, self._seen, self._end, self.done, self._told = ask, seen, end, done, told

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._answer, self._length = b"", 0
        self._kind, data, self._ranks = self._next()
        self._start = time.perf_counter()
        self._transport.write(data)

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
        self._seen.seconds.setdefault(self._kind, []).append(now - self._start)
        if not self._answer.startswith(b"HTTP/1.1 200") or self._answer.count(b'"rank":') != self._ranks:
            self._seen.errors.append(f"{self._kind}: {self._answer[:200].decode(errors='replace')}")
        elif self._told is not None:
            self._told(self._kind, self._answer)
        if now < self._end:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None or time.perf_counter() < self._end:
            self._seen.errors.append(f"connection lost: {error}")
        self.done.set_result(None)


async def load(
    service: Service,
    asks: Sequence[Callable[[], tuple[str, bytes, int]]],
    seconds: float,
    *,
    told: Callable[[str, bytes], object] | None = None,
    beside: Callable[[float], Any] | None = None,
) -> dict[str, Any]:
    """What clients that ask all the time see, and what it costs the service and the clients.

    Args:
      service: asked.
      asks: for each client.
      seconds: how long.
      told: see Client.
      beside: a coroutine function that runs with them, given the end.
    """
    end, seen = time.perf_counter() + seconds, Seen()
    loop, memory, many, process = asyncio.get_running_loop(), [], [], psutil.Process(service.process.pid)
    # With its workers.
    processes = [process, *process.children()]

    def used() -> float:
        return sum(sum(one.cpu_times()[:2]) for one in processes)

    def resident() -> float:
        return sum(one.memory_info().rss for one in processes) / 2**20

    before, mine = used(), time.process_time()
    other = loop.create_task(beside(end)) if beside else None
    for ask in asks:
        client = Client(ask, seen, end, loop.create_future(), told)
        many.append(client)
        await loop.create_connection(lambda client=client: client, HOST, service.port)
    while time.perf_counter() < end:
        memory.append(resident())
        await asyncio.sleep(min(10.0, max(0.0, end - time.perf_counter())))
    await asyncio.gather(*(client.done for client in many), *([other] if other else []))
    memory.append(resident())
    everything = [s for times in seen.seconds.values() for s in times]
    return {
        "requests": len(everything),
        "per_second": len(everything) / seconds,
        **_percentiles(everything),
        "kinds": {
            kind: {"requests": len(times), **_percentiles(times)} for kind, times in sorted(seen.seconds.items())
        },
        "service_core_ms": 1e3 * (used() - before) / len(everything),
        "client_core_ms": 1e3 * (time.process_time() - mine) / len(everything),
        "errors": seen.errors[:5],
        "num_errors": len(seen.errors),
        "resident_mib": memory,
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{p}_ms": float(np.percentile(1e3 * np.array(seconds), p)) for p in (50, 95, 99)}
