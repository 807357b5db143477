"""Hostile clients of launch/serve.py: honest ones beside them get the same answers; the service ends with status 0."""

import asyncio
import contextlib
import functools
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import ROOT, SAME

sys.path.append(str(Path(__file__).resolve().parents[1] / "serving"))

from clients import HOST, Seen, answer, ask, endless_head, get, half_sent, request


@contextlib.contextmanager
def service(scene):
    """The port and process of a service of the trained state, and the file that it says errors in."""
    scene.put("trained")
    with socket.socket() as s:
        s.bind((HOST, 0))
        port = s.getsockname()[1]
    command = [sys.executable, "launch/serve.py", f"--workdir={scene.folder}/work", f"--port={port}"]
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        try:
            while asyncio.run(get(port))[0] != 200:
                if process.poll() is not None:
                    raise RuntimeError(f"the service ended with status {process.returncode}")
                time.sleep(0.2)
            yield port, process, errors
        finally:
            process.kill()


async def _mutated(port, rng, seen, songs):
    """Requests with bytes changed, left out and doubled."""
    good = request({"songs": songs, "k": 5, "filters": {"diversity": 0.3}})
    for _ in range(20):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randint(0, 3)] = bytes(rng.randrange(256) for _ in range(rng.randint(0, 3)))
        try:
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(bytes(data))
            writer.write_eof()
            seen.statuses[(await asyncio.wait_for(answer(reader), 15))[0]] += 1
            writer.close()
        except (OSError, TimeoutError):
            pass


def _hostile(kind, port, rng, seen, songs):
    """The coroutines of one kind of client."""
    many = [rng.choice(songs) for _ in range(1_000)]
    return {
        "half-sent requests": lambda: [half_sent(port, 1_100)],
        "silent connections": lambda: [half_sent(port, 1_100, b"")],
        "bodies that do not come": lambda: [
            half_sent(port, 600, b"POST /recommend HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{")
        ],
        "endless heads": lambda: [endless_head(port, 50, seconds=10) for _ in range(8)],
        "heavy requests": lambda: [
            ask(port, [request({"songs": many, "k": 100, "filters": {"diversity": 0.5}})] * 20, seen) for _ in range(16)
        ],
        "long answers": lambda: [ask(port, [request({"songs": many, "k": 1_000})] * 5, seen) for _ in range(16)],
        "mutated requests": lambda: [_mutated(port, rng, seen, songs) for _ in range(16)],
        "other hosts": lambda: [ask(port, [request({"songs": many}, host="a.example")] * 20, seen) for _ in range(16)],
    }[kind]()


KINDS = (
    "half-sent requests", "silent connections", "bodies that do not come", "endless heads", "heavy requests",
    "long answers", "mutated requests", "other hosts",
)  # fmt: skip


async def _beside(kind, port, rng, songs):
    """What is wrong with the answers that honest clients get beside hostile ones; None: nothing."""
    question = request({"songs": songs[:2], "k": 5})

    async def honest():
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(question)
        status, _, body = await answer(reader)
        writer.close()
        return status, body

    wanted = await honest()
    others, seen = Seen(), Seen()
    tasks = [asyncio.create_task(one) for one in _hostile(kind, port, rng, others, songs)]
    await asyncio.sleep(0.3)
    for _ in range(10):
        try:
            start = time.monotonic()
            found = await asyncio.wait_for(honest(), 10.0)
            seen.seconds.append(time.monotonic() - start)
        except (OSError, TimeoutError) as e:
            return f"an honest client got no answer ({type(e).__name__})"
        if found != wanted:
            return f"an honest client got another answer, status {found[0]}"
    health, _, _ = await get(port, timeout=5.0)
    for held in await asyncio.gather(*tasks):
        for writer in held if isinstance(held, list) else ():
            writer.close()
    if 500 in others.statuses:
        return f"a hostile client got status 500: {dict(others.statuses)}"
    return None if health == 200 else f"/health: {health}"


def _trial(scene, kind, seed):
    rng = random.Random(seed)
    with service(scene) as (port, process, errors):
        songs = np.load(scene.folder / "work" / "embeddings" / "item_ids.npy").tolist()
        wrong = asyncio.run(_beside(kind, port, rng, songs))
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        errors.seek(0)
        said = errors.read()
    if wrong is None and (status != 0 or "Traceback" in said):
        wrong = f"status {status}: {said[-300:]}"
    return SAME if wrong is None else wrong


def hostile_clients(scene, rng):
    """Hostile clients of each kind; a service for each."""
    for kind in rng.sample(KINDS, len(KINDS)):
        yield kind, functools.partial(_trial, scene, kind, rng.randrange(2**32))
