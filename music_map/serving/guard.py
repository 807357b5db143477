"""What stands before the application: host names, the token, sizes, and the counts of requests."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Bytes of a request's body and of its head.
MOST_BYTES, MOST_HEAD_BYTES = 64 * 1024, 16 * 1024
# Where a body may be larger.
MOST_BYTES_OF = {"/events": 1024 * 1024, "/songs": 1024 * 1024}
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
# What needs no token: whether the service lives, and the page of its schema, which is the same everywhere.
_OPEN_PATHS = frozenset({"/health", "/docs", "/docs/docs.js", "/docs/docs.css", "/openapi.json"})


class Guard:
    """Refuses requests before they are parsed, and counts and times all of them.

    Args:
      app: the application.
      allowed_hosts: names in the Host header that are answered, without ports. A page elsewhere can have its name
        point to this machine (DNS rebinding) and would then read the answers in its visitors' browsers.
      any_address: whether IP addresses are answered besides: such a page has a name.
      token: what requests must bear, except for /health and the page of the schema; None: nothing. A browser that
        opens a page is asked for a name and a password: the password is the token.
      paths: that are counted by themselves, or as the beginning of others: "/users".
      registry: of the metrics.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Iterable[str],
        any_address: bool,
        token: str | None,
        paths: frozenset[str],
        registry: CollectorRegistry,
    ):
        self._app, self._paths = app, paths
        self._hosts = {host.lower().encode("latin-1") for host in allowed_hosts}
        self._any_address = any_address
        self._bearer = None if token is None else token.encode()
        self._requests = Counter("music_map_requests", "Requests answered.", ("path", "status"), registry=registry)
        self._seconds = Histogram(
            "music_map_request_seconds", "Seconds to answer.", ("path",), registry=registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500  # what is raised has no response yet

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await (self._refusal(scope) or self._app)(scope, receive, watched)
        finally:
            # Paths that do not exist would make a time series each.
            path = scope["path"] if scope["path"] in self._paths else f"/{scope['path'].split('/')[1]}"
            path = path if path in self._paths else "other"
            self._requests.labels(path, status).inc()
            self._seconds.labels(path).observe(time.perf_counter() - start)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """The answer to a request that is not let in; None: it is."""
        hosts, given, size, head = [], b"", b"0", len(scope.get("raw_path") or b"") + len(scope["query_string"])
        chunked, origin = False, b""
        for name, value in scope["headers"]:
            head += len(name) + len(value)
            if name == b"host":
                hosts.append(value)
            elif name == b"authorization":
                given = value
            elif name == b"origin":
                origin = value
            elif name == b"content-length":
                size = value
            elif name == b"transfer-encoding":
                chunked = True
        if head > MOST_HEAD_BYTES:
            return _refused(431, f"the head of a request may have {MOST_HEAD_BYTES} bytes")
        if len(hosts) != 1 or not self._is_allowed(hosts[0]):
            return _refused(400, "this Host is not served here; launch/serve.py --allowed_hosts names more")
        # A page elsewhere can have its visitors' browsers send requests here, though it cannot read the answers.
        if origin and origin.lower().partition(b"://")[2] != hosts[0].strip().lower():
            return _refused(403, "pages of other hosts may not ask this service")
        if self._bearer is not None and scope["path"] not in _OPEN_PATHS and not self._is_borne(given):
            scheme = "Basic realm=Music-Map" if scope["path"] == "/" else "Bearer"
            return _refused(401, "give the token: Authorization: Bearer ...", {"www-authenticate": scheme})
        most = MOST_BYTES_OF.get(scope["path"], MOST_BYTES)
        # Python refuses to read integers of thousands of digits.
        if chunked or not (size.isdigit() and len(size) < 20 and int(size) <= most):
            return _refused(413, f"a request may have {most} bytes, and says how many")
        return None

    def _is_borne(self, given: bytes) -> bool:
        scheme, _, token = given.partition(b" ")
        token = token.strip()
        if scheme.lower() == b"basic":
            try:
                token = base64.b64decode(token, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(token, self._bearer)

    def _is_allowed(self, host: bytes) -> bool:
        host = host.strip().lower()
        name = host if host.endswith(b"]") else host.rpartition(b":")[0] or host
        if name in self._hosts:
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name.decode("latin-1").strip("[]"))
        except ValueError:
            return False
        return True


def _refused(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    # The body is not read: the connection ends.
    return JSONResponse({"detail": detail}, status, {"connection": "close", **(headers or {})})
