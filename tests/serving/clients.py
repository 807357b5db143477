"""Clients of a running service: honest ones that ask one question after the other, and hostile ones.

Nothing but sockets: what is measured is the service, not a client library.
"""

import asyncio
import collections
import dataclasses
import json
import resource
import time

HOST = "127.0.0.1"


def request(body, path="/recommend", host="localhost", more=""):
    """A POST of a JSON body, as bytes."""
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{more}"
    return f"{head}content-length: {len(text)}\r\n\r\n".encode() + text


@dataclasses.dataclass
class Seen:
    """What clients saw.

    Attributes:
      statuses: how often each status came; None: the connection ended without an answer.
      seconds: of each answer with status 200.
      without_retry: answers with status 503 that had no Retry-After.
    """

    statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    seconds: list = dataclasses.field(default_factory=list)
    without_retry: int = 0

    def milliseconds(self, percent):
        """A percentile of the times of the answers, ms."""
        ordered = sorted(self.seconds)
        return 1e3 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else float("nan")


async def answer(reader):
    """Status, head and body of one answer; a status of None: there was none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        lengths = [line.split(":")[1] for line in lines if line.startswith("content-length:")]
        body = await reader.readexactly(int(lengths[0])) if lengths else b""
        return int(lines[0].split()[1]), head.decode("latin-1"), body
    except (asyncio.IncompleteReadError, ConnectionError):
        return None, "", b""


async def get(port, path="/health", *, host="localhost", timeout=5.0, more=""):
    """Status, head and body of a GET on a connection of its own; a status of None: no answer in time."""

    async def asked():
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n{more}connection: close\r\n\r\n".encode())
        found = await answer(reader)
        writer.close()
        return found

    try:
        return await asyncio.wait_for(asked(), timeout)
    except (TimeoutError, OSError):
        return None, "", b""


async def ask(port, requests, seen, *, until=0.0):
    """One client: sends the requests in turn, each after the last answer, once or until a time of the loop's clock."""
    loop, at = asyncio.get_running_loop(), 0
    while at == 0 or loop.time() < until:
        try:
            reader, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            seen.statuses[None] += 1
            if until == 0.0:
                return
            await asyncio.sleep(0.05)
            at += 1
            continue
        status = 200
        while status is not None and (at == 0 or loop.time() < until):
            start = time.perf_counter()
            try:
                writer.write(requests[at % len(requests)])
                status, head, _ = await answer(reader)
            except ConnectionError:
                status, head = None, ""
            at += 1
            seen.statuses[status] += 1
            if status == 200:
                seen.seconds.append(time.perf_counter() - start)
            if status == 503:
                seen.without_retry += "retry-after:" not in head.lower()
                await asyncio.sleep(0.02 if until else 0)
            if "connection: close" in head.lower():
                break
        writer.close()


async def half_sent(port, count, data=b"POST /recommend HTTP/1.1\r\nhost: localhost\r\nx-a: "):
    """Connections that begin a request and do not end it: their writers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 500)), hard))
    found = []
    for _ in range(count):
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(HOST, port), 2.0)
        except (TimeoutError, OSError):
            continue
        writer.write(data)
        found.append(writer)
    return found


async def endless_head(port, megabytes, *, seconds=20.0):
    """Bytes that the service takes of a head without an end; it should stop reading soon."""
    _, writer = await asyncio.open_connection(HOST, port)
    sent, piece, end = 0, b"x" * 65_536, asyncio.get_running_loop().time() + seconds
    try:
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-large: ")
        while sent < megabytes * 2**20 and asyncio.get_running_loop().time() < end:
            writer.write(piece)
            await asyncio.wait_for(writer.drain(), 2.0)
            sent += len(piece)
    except (ConnectionError, TimeoutError):
        pass
    writer.close()
    return sent
