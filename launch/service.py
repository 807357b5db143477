"""The HTTP service over a Recommender: the ASGI application, its limits, batching and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from music_map.errors import UserError
from music_map.retrieval.filters import Filters
from music_map.retrieval.recommender import MAX_SONGS, Answer, Query, Recommender

# Most songs asked for, bytes of a request, requests that wait at once: beyond, a request is refused at once.
MOST_K, MOST_BYTES, MOST_WAITING = 1_000, 64 * 1024, 1_024
# Requests answered together, and the seconds that the first of them waits for others.
_BATCH, _PATIENCE = 64, 0.001


class FilterFields(BaseModel):
    """Filters of a request, in place of the service's own."""

    model_config = ConfigDict(extra="forbid")
    heard: bool | None = None
    max_per_artist: int | None = Field(None, ge=0)
    max_per_album: int | None = Field(None, ge=0)
    min_listeners: int | None = Field(None, ge=0)
    only_with_audio: bool | None = None
    diversity: float | None = Field(None, ge=0, lt=1)
    allow: list[int] | None = Field(None, max_length=10_000)
    deny: list[int] | None = Field(None, max_length=10_000)


class RecommendRequest(BaseModel):
    """A playlist, a user or both."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"songs": [123, 456], "k": 10}]})
    songs: list[int] = Field(default=[], max_length=MAX_SONGS)
    user: int | None = Field(None, ge=0, lt=2**32)
    dislikes: list[int] = Field(default=[], max_length=MAX_SONGS)
    ordered: bool = True
    k: int = Field(10, ge=1, le=MOST_K)
    filters: FilterFields = FilterFields()


class SimilarRequest(BaseModel):
    """One song."""

    model_config = ConfigDict(extra="forbid")
    song: int = Field(ge=0, lt=2**32)
    k: int = Field(10, ge=1, le=MOST_K)


class AnswerBody(BaseModel):
    """What /recommend and /similar answer."""

    class Song(BaseModel):
        """One recommended song."""

        class Reason(BaseModel):
            """A song of the query, its attention weight and its cosine with the recommended song."""

            item_id: int
            weight: float
            similarity: float

        rank: int
        item_id: int
        score: float
        artist_ids: list[int]
        album_ids: list[int]
        why: list[Reason]

    recommendations: list[Song]
    warnings: list[str]


_ANSWER: dict[int | str, dict[str, Any]] = {200: {"model": AnswerBody}}


class Batcher:
    """Answers requests that come at about the same time in one call of the recommender, in one worker thread.

    Args:
      answer: from queries, k and filters to an answer or an error for each query.
    """

    def __init__(self, answer: Callable[[list[Query], int, Filters], list[Answer | UserError]]):
        self._answer = answer
        self._waiting: asyncio.Queue[tuple[Query, int, Filters, asyncio.Future]] = asyncio.Queue(MOST_WAITING)
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

    async def ask(self, query: Query, k: int, filters: Filters) -> Answer:
        """The answer to a query. Raises UserError, or HTTPException 503 where too many wait."""
        future: asyncio.Future = asyncio.get_running_loop().create_future()
        try:
            self._waiting.put_nowait((query, k, filters, future))
        except asyncio.QueueFull as e:
            raise HTTPException(503, f"{MOST_WAITING} requests wait already; try again in a second") from e
        found = await future
        if isinstance(found, Exception):
            raise found
        return found

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            # Whoever came while the last batch was answered is here already; a lone first one waits a moment.
            until = loop.time() + _PATIENCE
            while len(batch) < _BATCH:
                if self._waiting.empty():
                    if loop.time() >= until:
                        break
                    await asyncio.sleep(0)
                    continue
                batch.append(self._waiting.get_nowait())
            await loop.run_in_executor(self._worker, self._serve, batch, loop)
            for _ in batch:
                self._waiting.task_done()

    def _serve(self, batch: list[tuple[Query, int, Filters, asyncio.Future]], loop: asyncio.AbstractEventLoop) -> None:
        groups: dict[tuple[int, Filters], list[tuple[Query, asyncio.Future]]] = {}
        for query, k, filters, future in batch:
            groups.setdefault((k, filters), []).append((query, future))
        for (k, filters), asked in groups.items():
            try:
                answers: list[Any] = list(self._answer([query for query, _ in asked], k, filters))
            except Exception as e:  # one bad group must not take the others with it
                answers = [e] * len(asked)
            for (_, future), answer in zip(asked, answers, strict=True):
                loop.call_soon_threadsafe(_resolve, future, answer)


def _resolve(future: asyncio.Future, answer: Answer | Exception) -> None:
    if not future.done():  # the client may have gone
        future.set_result(answer)


def _told(answer: Answer) -> Response:
    # vars() and not dataclasses.asdict, which copies every value it meets: hundreds of reasons in an answer.
    found = [vars(r) | {"why": [vars(reason) for reason in r.why]} for r in answer.recommendations]
    text = json.dumps({"recommendations": found, "warnings": answer.warnings}, separators=(",", ":"))
    return Response(text, media_type="application/json")


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
    batcher = Batcher(lambda queries, k, filters: recommender.recommend_batch(queries, k=k, filters=filters))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(title="Music Map", description="Songs that go with a song, a playlist or a user.", lifespan=lifespan)
    paths = {"/recommend", "/similar", "/health"}

    @app.middleware("http")
    async def measured(request: Request, call_next: Callable) -> Response:
        length = request.headers.get("content-length", "0")
        start = time.perf_counter()
        if (
            not length.isdigit()
            or int(length) > MOST_BYTES
            or "chunked" in request.headers.get("transfer-encoding", "")
        ):
            response: Response = JSONResponse(
                {"detail": f"a request may have {MOST_BYTES} bytes, and says how many"}, 413
            )
        else:
            response = await call_next(request)
        # Paths that do not exist would make a time series each.
        path = request.url.path if request.url.path in paths else "other"
        requests.labels(path, response.status_code).inc()
        seconds.labels(path).observe(time.perf_counter() - start)
        return response

    @app.exception_handler(UserError)
    async def refused(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.post("/recommend", response_class=JSONResponse, responses=_ANSWER)
    async def recommend(asked: RecommendRequest) -> Response:
        """Songs that go with a playlist, a user or both, best first, with the reasons."""
        given = asked.filters.model_dump(exclude_none=True)
        lists = {name: tuple(given[name]) for name in ("allow", "deny") if name in given}
        filters = dataclasses.replace(recommender.filters, **{**given, **lists})
        query = Query(tuple(asked.songs), asked.user, tuple(asked.dislikes), asked.ordered)
        return _told(await batcher.ask(query, asked.k, filters))

    @app.post("/similar", response_class=JSONResponse, responses=_ANSWER)
    async def similar(asked: SimilarRequest) -> Response:
        """The songs nearest to one song."""
        return _told(await batcher.ask(Query((asked.song,)), asked.k, recommender.filters))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the service answers, and with what."""
        return {"status": "ok", "songs": len(recommender.export.item_ids), "index": recommender.index.facts}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters and latencies in Prometheus' text format."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    return app
