"""A loopback server that speaks the part of the hub's protocol that downloads use, and fails on demand.

HEAD and GET /datasets/REPO/resolve/REVISION/PATH answer as the hub does: a large file is a redirect to a content server
(another origin), with commit, size and sha256 in headers; a file kept in git is sent at once, its ETag the blob's sha1.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote

COMMIT = "c0ffee" + "0" * 34


class Request(NamedTuple):
    method: str
    path: str
    first_byte: int | None  # of a range request
    authorization: str | None


class FakeHub:
    """State of the server; tests set what shall go wrong.

    Attributes:
      files: content by path in the repository.
      in_git: paths of files kept in git itself.
      status: HTTP status to answer instead, by path; 0: an answer without the hub's headers.
      served: bytes to send in place of the right ones, by path.
      cuts: by path, for one transfer after the other, the bytes sent before the connection breaks; then all is well.
      reset: break connections by a reset, not an early end.
      ignore_ranges: answer range requests with the whole file.
      stall: by path, bytes to send before waiting until the client goes away.
      headers: of the hub's own answers, in place of the right ones or besides them.
      trickle: seconds between two bytes of content; 0: all at once.
      endless: content has no length and goes on after its end, up to so many bytes.
      garbage: sent in place of an HTTP answer.
      sent: bytes of content.
      requests: what was asked, in order.
    """

    def __init__(self, files: dict[str, bytes]):
        self.files = files
        self.in_git: set[str] = set()
        self.status: dict[str, int] = {}
        self.served: dict[str, bytes] = {}
        self.cuts: dict[str, list[int]] = {}
        self.reset = False
        self.ignore_ranges = False
        self.stall: dict[str, int] = {}
        self.stalled = threading.Event()
        self.headers: dict[str, str] = {}
        self.trickle = 0.0
        self.endless = 0
        self.garbage = b""
        self.sent = 0
        self.requests: list[Request] = []
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def transfers(self, path: str | None = None) -> list[Request]:
        """GET requests that reached content: of one file, or of all."""
        wanted = ("/content/",) if path is None else (f"/content/{path}",)
        git = [f"/{p}" for p in self.in_git if path in (None, p)]
        return [
            r
            for r in self.requests
            if r.method == "GET" and (r.path.startswith(wanted) or any(r.path.endswith(p) for p in git))
        ]

    def blob_sha1(self, path: str) -> str:
        content = self.files[path]
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self.files[path]).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, asked = self.hub, unquote(self.path)
        first = self.headers["Range"]
        hub.requests.append(
            Request(
                self.command,
                asked,
                int(first.removeprefix("bytes=").removesuffix("-")) if first else None,
                self.headers["Authorization"],
            )
        )
        if hub.garbage:
            self.close_connection = True
            return self._write(hub.garbage)
        if asked.startswith("/content/"):
            path = asked.removeprefix("/content/")
            return self._send(path)
        prefix = "/datasets/yandex/yambda/resolve/"
        if not asked.startswith(prefix):
            return self._head(404, {"X-Error-Code": "RepoNotFound"})
        revision, _, path = asked.removeprefix(prefix).partition("/")
        if path in hub.status:
            return self._head(hub.status[path] or 200, hub.headers)
        if revision not in ("main", COMMIT):
            return self._head(404, {"X-Error-Code": "RevisionNotFound"})
        if path not in hub.files:
            return self._head(404, {"X-Error-Code": "EntryNotFound"})
        if path in hub.in_git:
            return self._send(path, {"X-Repo-Commit": COMMIT, "ETag": f'"{hub.blob_sha1(path)}"'})
        self._head(
            302,
            {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{hub.sha256(path)}"',
                "X-Linked-Size": str(len(hub.files[path])),
                "X-Xet-Hash": "f" * 64,
                # By name, not by number: another origin, as the hub's content servers are.
                "Location": f"http://localhost:{hub.port}/content/{path}",
                **hub.headers,
            },
        )

    def _head(self, status: int, headers: dict[str, str], length: int = 0) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, path: str, headers: dict[str, str] | None = None) -> None:
        hub = self.hub
        content = hub.served.get(path, hub.files[path])
        first = None if hub.ignore_ranges else hub.requests[-1].first_byte
        headers = dict(headers or {})
        if first is not None:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        body = content[first or 0 :]
        if hub.endless and self.command == "GET":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            blocks = range(hub.endless // len(content))
            return next((None for _ in blocks if not self._write(content)), None)
        self._head(206 if first is not None else 200, headers, len(body))
        if self.command == "HEAD":
            return
        if path in hub.stall:
            self._write(body[: hub.stall[path]])
            hub.stalled.set()
            self.rfile.read(1)  # until the client closes
            self.close_connection = True
        elif hub.cuts.get(path):
            self._write(body[: hub.cuts[path].pop(0)])
            if hub.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        elif hub.trickle:
            for byte in body:
                if not self._write(bytes([byte])):
                    break
                threading.Event().wait(hub.trickle)
        else:
            self._write(body)

    def _write(self, data: bytes) -> bool:
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)
            self.wfile.flush()
            self.hub.sent += len(data)
            return True
        return False

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()


@contextlib.contextmanager
def serve(files: dict[str, bytes]) -> Iterator[FakeHub]:
    """Runs a FakeHub on a free loopback port."""
    hub = FakeHub(files)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    """A loopback port on which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
