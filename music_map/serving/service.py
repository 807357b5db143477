"""The HTTP service over a Recommender: the ASGI application, its limits, batching and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from music_map.errors import UserError
from music_map.retrieval.answers import Answer, Query
from music_map.retrieval.filters import FILTERS, Filter, Filters
from music_map.retrieval.recommender import MAX_SONGS, MOST_REASONS, Recommender

# Most songs asked for, bytes of a request, requests that wait at once: beyond, a request is refused at once.
MOST_K, MOST_BYTES, MOST_WAITING = 1_000, 64 * 1024, 1_024
# Requests answered together, and the seconds that the first of them waits for others where others are about.
_BATCH, _PATIENCE = 64, 0.001

# An id as the logs have it. Strict: true is no song.
Id = Annotated[int, Field(strict=True)] | Annotated[str, Field(strict=True, max_length=1_024)]


class RecommendRequest(BaseModel):
    """A playlist, a user or both."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"songs": [123, 456], "k": 10}]})
    songs: list[Id] = Field(default=[], max_length=MAX_SONGS)
    user: Id | None = None
    dislikes: list[Id] = Field(default=[], max_length=MAX_SONGS)
    ordered: bool = True
    k: int = Field(10, ge=1, le=MOST_K)
    reasons: int = Field(3, ge=0, le=MOST_REASONS, description="Songs of the playlist that an answer names, at most.")


def recommend_request() -> type[RecommendRequest]:
    """RecommendRequest with `filters`: a field for each filter of the table, in place of the service's own."""

    def field(entry: Filter) -> Any:
        rule = entry.rule
        if entry.kind == "songs":
            return list[Id] | None, Field(None, max_length=10_000, description=rule.doc)
        bounds = {"ge": rule.at_least, "gt": rule.above, "le": rule.at_most, "lt": rule.below}
        return entry.type | None, Field(None, description=rule.doc, **bounds)

    fields = {name: field(entry) for name, entry in FILTERS.all().items()}
    filters = create_model("FilterFields", __config__=ConfigDict(extra="forbid"), **fields)
    return create_model("RecommendRequest", __base__=RecommendRequest, filters=(filters, filters()))


class SimilarRequest(BaseModel):
    """One song."""

    model_config = ConfigDict(extra="forbid")
    song: Id
    k: int = Field(10, ge=1, le=MOST_K)


class AnswerBody(BaseModel):
    """What /recommend and /similar answer."""

    class Song(BaseModel):
        """One recommended song."""

        class Reason(BaseModel):
            """A song of the query, its attention weight and its cosine with the recommended song."""

            item_id: Id
            weight: float
            similarity: float

        rank: int
        item_id: Id
        score: float
        artist_ids: list[Id]
        album_ids: list[Id]
        why: list[Reason]
        name: str | None

    recommendations: list[Song]
    warnings: list[str]


class Refused(BaseModel):
    """What a request that cannot be answered gets: one line that names the field or the id, and why."""

    detail: str


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": AnswerBody},
    **{status: {"model": Refused} for status in (413, 422, 503)},
}


class Ask(NamedTuple):
    """A query and what it wants; those that agree in `shared` are answered together."""

    query: Query
    k: int
    filters: Filters
    reasons: int

    @property
    def shared(self) -> tuple[int, Filters, int]:
        return self[1:]


class Batcher:
    """Answers requests that come at about the same time in one call of the recommender, in one worker thread.

    Args:
      answer: from queries, k, filters and reasons to an answer or an error for each query.
    """

    def __init__(self, answer: Callable[[list[Query], int, Filters, int], list[Answer | UserError]]):
        self._answer = answer
        self._waiting: asyncio.Queue[tuple[Ask, asyncio.Future]] = asyncio.Queue(MOST_WAITING)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="recommend")
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Answers what waits, then ends."""
        await self._waiting.join()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._worker.shutdown()

    async def ask(self, asked: Ask) -> Answer:
        """The answer to a query. Raises UserError, or HTTPException 503 where too many wait."""
        future: asyncio.Future = asyncio.get_running_loop().create_future()
        try:
            self._waiting.put_nowait((asked, future))
        except asyncio.QueueFull as e:
            raise HTTPException(503, f"{MOST_WAITING} requests wait already; try again in a second") from e
        found = await future
        if isinstance(found, Exception):
            raise found
        return found

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        size = 1
        while True:
            batch = [await self._waiting.get()]
            # Clients that were answered together ask again at about the same time; a lone one waits for nobody.
            if size > 1 and self._waiting.qsize() + 1 < size:
                await asyncio.sleep(_PATIENCE)
            while len(batch) < _BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            size = len(batch)
            answers = await loop.run_in_executor(self._worker, self._answers, [asked for asked, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():  # the client may have gone
                    future.set_result(answer)
                self._waiting.task_done()

    def _answers(self, batch: list[Ask]) -> list[Answer | Exception]:
        groups: dict[tuple[int, Filters, int], list[int]] = {}
        for row, asked in enumerate(batch):
            groups.setdefault(asked.shared, []).append(row)
        found: dict[int, Answer | Exception] = {}
        for shared, rows in groups.items():
            try:
                answers: list[Any] = list(self._answer([batch[row].query for row in rows], *shared))
            except Exception as e:  # one bad group must not take the others with it
                answers = [e] * len(rows)
            found.update(zip(rows, answers, strict=True))
        return [found[row] for row in range(len(batch))]


class _Measured:
    """Counts and times requests, and refuses those that are too large or do not say how large they are."""

    def __init__(self, app: ASGIApp, *, paths: frozenset[str], requests: Counter, seconds: Histogram):
        self._app, self._paths, self._requests, self._seconds = app, paths, requests, seconds

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

        app = self._app
        for name, value in scope["headers"]:
            if (name == b"content-length" and not (value.isdigit() and int(value) <= MOST_BYTES)) or (
                name == b"transfer-encoding"
            ):
                app = JSONResponse({"detail": f"a request may have {MOST_BYTES} bytes, and says how many"}, 413)
        try:
            await app(scope, receive, watched)
        finally:
            # Paths that do not exist would make a time series each.
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._requests.labels(path, status).inc()
            self._seconds.labels(path).observe(time.perf_counter() - start)


def _response(answer: Answer) -> Response:
    return Response(orjson.dumps(answer), media_type="application/json")


def create_app(recommender: Recommender) -> FastAPI:
    """The application: POST /recommend, POST /similar, GET /health, GET /metrics, and /docs with the OpenAPI page.

    Args:
      recommender: answers; its own filters are those of requests that bring none.
    """
    registry = CollectorRegistry()
    requests = Counter("music_map_requests", "Requests answered.", ("path", "status"), registry=registry)
    seconds = Histogram(
        "music_map_request_seconds", "Seconds to answer.", ("path",), registry=registry,
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
    )  # fmt: skip

    def answer(queries: list[Query], k: int, filters: Filters, reasons: int) -> list[Answer | UserError]:
        return recommender.recommend_batch(queries, k=k, filters=filters, reasons=reasons)

    batcher = Batcher(answer)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(title="Music Map", description="Songs that go with a song, a playlist or a user.", lifespan=lifespan)
    paths = frozenset({"/recommend", "/similar", "/health", "/metrics"})
    app.add_middleware(_Measured, paths=paths, requests=requests, seconds=seconds)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # The rejected values are left out: one may be no JSON (NaN), another as large as a request may be.
        wrong = [".".join(str(part) for part in e["loc"][1:]) + f": {e['msg']}" for e in error.errors()[:5]]
        return JSONResponse({"detail": "; ".join(wrong)}, 422)

    @app.exception_handler(UserError)
    async def refused(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    async def recommend(asked: RecommendRequest) -> Response:
        """Songs that go with a playlist, a user or both, best first, with the reasons."""
        filters = recommender.filters.replace(**asked.filters.model_dump(exclude_none=True))
        query = Query(tuple(asked.songs), asked.user, tuple(asked.dislikes), asked.ordered)
        return _response(await batcher.ask(Ask(query, asked.k, filters, asked.reasons)))

    # The class is made now, when all filters are registered, so the signature cannot name it.
    recommend.__annotations__["asked"] = recommend_request()
    app.post("/recommend", response_class=JSONResponse, responses=_ANSWERS)(recommend)

    @app.post("/similar", response_class=JSONResponse, responses=_ANSWERS)
    async def similar(asked: SimilarRequest) -> Response:
        """The songs nearest to one song."""
        return _response(await batcher.ask(Ask(Query((asked.song,)), asked.k, recommender.filters, 1)))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the service answers, and with what."""
        return {"status": "ok", "songs": len(recommender.export.item_ids), "index": recommender.index.facts}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters and latencies in Prometheus' text format."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    return app
