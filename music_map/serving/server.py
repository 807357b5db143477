"""The server under the application: sockets, connections that may wait only so long, and an end without loss.

uvicorn bounds neither the connections, nor the size of a head with httptools, nor the time that a request may take to
arrive; its parser hands over a header only when it is complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from music_map.errors import UserError
from music_map.serving.guard import MOST_HEAD_BYTES
from music_map.text import printable_lines

# Seconds that a request may take to arrive whole and an answer to be read, connections.
REQUEST_SECONDS, ANSWER_SECONDS, MOST_CONNECTIONS = 10.0, 30.0, 1_024
# Seconds after SIGTERM in which what was accepted is still answered, and those in which refusals may be delivered.
GRACE_SECONDS, _LAST_SECONDS = 10, 5
# Connections that the system accepts before the service looks at them; files kept for all but the connections that may
# be there at once: libraries, and connections that have just come or are about to be closed.
_BACKLOG, _OTHER_FILES = 512, 352
# Seconds to read what has come already: before there is room made for a connection, and before the end.
_READING_SECONDS, _LAST_LOOK_SECONDS = 0.001, 0.2


class Config(uvicorn.Config):
    """uvicorn's configuration, and what its connections share.

    Attributes:
      waiting: connections that wait for their clients, the longest first, and since when.
      most_connections: at once.
    """

    def __init__(self, app: ASGIApp, *, most_connections: int, **options: Any):
        super().__init__(app, http=Connection, **options)
        self.waiting: dict[Connection, float] = {}
        self.most_connections = most_connections


class Connection(HttpToolsProtocol):
    """A connection whose client is waited for no longer than it may be.

    It waits for its client from the start or the last answer until the next request is there as a whole, and while the
    client does not read. Where there are too many connections, the one that has waited longest is closed.
    """

    config: Config
    # Of a request that has begun: whether its head is under way, and the bytes of it.
    _in_head, _head_bytes = False, 0
    # Whether the bytes that are being parsed end a head.
    _ended_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self.config.most_connections:
            # Requests that are there already are read first: their connections do not wait.
            self.loop.call_later(_READING_SECONDS, self._make_room)

    def connection_lost(self, error: Exception | None) -> None:
        self.config.waiting.pop(self, None)
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._ended_head = False
        super().data_received(data)
        # Bytes that end one head and begin another are not counted: they are few.
        if self._in_head and not self._ended_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(431)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head, self._ended_head = False, True
        super().on_headers_complete()
        cycle = self.cycle
        self.scope["state"]["gone"] = lambda: cycle.disconnected

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if not self.flow.write_paused:
            self.config.waiting.pop(self, None)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # The latest request may stand behind this one, whole or not.
        if self.cycle.response_complete or self.cycle.more_body:
            self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body):
            self.config.waiting.pop(self, None)

    def is_late(self, since: float) -> bool:
        """Whether its client has been waited for long enough."""
        reading = self.transport.get_write_buffer_size() > 0
        return self.loop.time() - since > (ANSWER_SECONDS if reading else REQUEST_SECONDS)

    def drop(self) -> None:
        """Ends the connection: with status 408 where a request has begun, and without what its client does not read."""
        begun = self._in_head or (self.cycle is not None and self.cycle.more_body)
        if begun and not self.transport.get_write_buffer_size():
            self._refuse(408)
        else:
            self.config.waiting.pop(self, None)
            self.transport.abort()

    def _make_room(self) -> None:
        if len(self.connections) <= self.config.most_connections or self.transport.is_closing():
            return
        oldest = next(iter(self.config.waiting), None)
        if oldest is None:  # all are being answered
            self._refuse(503, b"retry-after: 1\r\n")
        else:
            oldest.drop()

    def _wait(self) -> None:
        self.config.waiting.setdefault(self, self.loop.time())

    def _refuse(self, status: int, more: bytes = b"") -> None:
        """Answers with a status alone; what still comes is not read."""
        self.config.waiting.pop(self, None)
        phrase = HTTPStatus(status).phrase.encode()
        head = b"HTTP/1.1 %d %s\r\n%scontent-length: 0\r\nconnection: close\r\n\r\n" % (status, phrase, more)
        self.transport.write(head)
        self.transport.close()


class Server(uvicorn.Server):
    """Serves until SIGTERM or Ctrl-C; then answers what it has accepted, and refuses the rest when the grace is over.

    Args:
      config: see `serve`.
      close: makes the application refuse what waits.
    """

    config: Config

    def __init__(self, config: Config, close: Callable[[], None]):
        super().__init__(config)
        self._close = close

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        # uvicorn sends the signals that it noted again at the end; a service that was asked to end has done its job.
        if number == signal.SIGTERM:
            self.should_exit = True
        else:
            super().handle_exit(number, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._watch = asyncio.get_running_loop().create_task(self._drop_late())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # What the system has accepted is read; what has not arrived whole by then is nobody's work.
        await asyncio.sleep(_LAST_LOOK_SECONDS)
        for connection in list(self.config.waiting):
            connection.drop()
        timer = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._close)
        await super().shutdown(sockets=sockets)
        timer.cancel()
        self._watch.cancel()

    async def _drop_late(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            for connection in [c for c, since in self.config.waiting.items() if c.is_late(since)]:
                connection.drop()


class _Formatter(logging.Formatter):
    """Lines of a log in which nothing of a client's can move the cursor or begin a line."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine for itself alone. Raises UserError where it is no host."""
    return all(ipaddress.ip_address(address[0].partition("%")[0]).is_loopback for *_, address in _addresses(host, 0))


def is_wildcard(host: str) -> bool:
    """Whether a host stands for all addresses of this machine. Raises UserError where it is no host."""
    return any(ipaddress.ip_address(address[0].partition("%")[0]).is_unspecified for *_, address in _addresses(host, 0))


def _addresses(host: str, port: int) -> list[Any]:
    if not host.strip():
        raise UserError("is empty; give an address to listen on, such as 127.0.0.1")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not a host name"
        raise UserError(f"{host!r}: {reason}; give an address of this machine") from e
    return list(dict.fromkeys(found))


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to all addresses of a host; nobody can connect before `listen`.

    Raises:
      UserError: the port is taken, or the host is none of this machine.
    """
    addresses = _addresses(host, port)
    with contextlib.ExitStack() as opened:  # closes them where one fails
        found = []
        for family, kind, protocol, _, address in addresses:
            try:
                one = opened.enter_context(socket.socket(family, kind, protocol))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind(address)
            except OSError as e:
                # A name may have an address of IPv6 where the machine has none.
                if e.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and len(addresses) > 1:
                    continue
                raise UserError(f"{host}:{port}: {os.strerror(e.errno)}; choose another host or port") from e
            found.append(one)
        if not found:
            raise UserError(f"{host!r}: no address of this machine")
        opened.pop_all()
        return found


def listen(sockets: list[socket.socket]) -> None:
    """Lets clients connect. Raises UserError: another process was quicker to take the port."""
    for one in sockets:
        try:
            one.listen(_BACKLOG)
        except OSError as e:
            host, port = one.getsockname()[:2]
            raise UserError(f"{host}:{port}: {os.strerror(e.errno)}; choose another host or port") from e


def _most_connections() -> int:
    """MOST_CONNECTIONS, or fewer where the process may not open so many files; its limit is raised where it may be."""
    try:
        import resource  # not on Windows
    except ImportError:
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + _BACKLOG + _OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(16, min(MOST_CONNECTIONS, soft - _OTHER_FILES))


def serve(app: ASGIApp, sockets: list[socket.socket], *, close: Callable[[], None], access_log: bool = False) -> None:
    """Serves an application until SIGTERM, which ends it within GRACE_SECONDS and some, or Ctrl-C.

    Args:
      app: the application.
      sockets: of `bind`, after `listen`.
      close: makes the application refuse what waits, when the grace is over.
      access_log: whether each request is logged on stderr.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    log = logging.getLogger("uvicorn")
    log.addHandler(handler)
    log.propagate = False
    config = Config(
        app,
        most_connections=_most_connections(),
        log_config=None,
        log_level="info" if access_log else "warning",
        access_log=access_log,
        backlog=_BACKLOG,
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS + _LAST_SECONDS,
    )
    Server(config, close).run(sockets)
