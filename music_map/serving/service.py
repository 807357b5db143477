"""The HTTP service over a Recommender: the ASGI application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, generate_latest

from music_map.errors import UserError
from music_map.retrieval.answers import Answer, Query
from music_map.retrieval.filters import Filters
from music_map.retrieval.plays import Play
from music_map.retrieval.recommender import Recommender
from music_map.serving.batcher import Ask, Batcher, Overloaded
from music_map.serving.bodies import (
    MOST_DIVERSE_K,
    AnswerBody,
    RecommendRequest,
    Refused,
    SimilarRequest,
    recommend_request,
)
from music_map.serving.guard import LOOPBACK_NAMES, Guard

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": AnswerBody},
    **{status: {"model": Refused} for status in (400, 401, 413, 422, 503)},
}
# The page of the OpenAPI schema: its scripts and styles are its own, and it asks this service alone.
_PAGE = Path(__file__).with_name("page")
_PAGE_TYPES = {"docs.html": "text/html", "docs.js": "text/javascript", "docs.css": "text/css"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def _response(answer: Answer) -> Response:
    return Response(orjson.dumps(answer), media_type="application/json")


def create_app(
    recommender: Recommender,
    *,
    allowed_hosts: Iterable[str] = LOOPBACK_NAMES,
    any_address: bool = False,
    token: str | None = None,
) -> FastAPI:
    """The application: POST /recommend, POST /similar, GET /health, GET /metrics, and /docs with the OpenAPI schema.

    Its `state.close` makes it refuse what waits: the end of a server's grace.

    Args:
      recommender: answers; its own filters are those of requests that bring none.
      allowed_hosts, any_address, token: see Guard.
    """
    registry = CollectorRegistry()

    def answer(queries: list[Query], k: int, filters: Filters, reasons: int) -> list[Answer | UserError]:
        return recommender.recommend_batch(queries, k=k, filters=filters, reasons=reasons)

    batcher = Batcher(answer)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(
        title="Music Map",
        description="Songs that go with a song, a playlist or a user.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.close = batcher.close
    paths = frozenset({"/recommend", "/similar", "/health", "/metrics", "/docs", "/openapi.json"})
    app.add_middleware(
        Guard, allowed_hosts=allowed_hosts, any_address=any_address, token=token, paths=paths, registry=registry
    )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # The rejected values are left out: one may be no JSON (NaN), another as large as a request may be.
        wrong = [".".join(str(part) for part in e["loc"][1:]) + f": {e['msg']}" for e in error.errors()[:5]]
        return JSONResponse({"detail": "; ".join(wrong)}, 422)

    @app.exception_handler(UserError)
    async def refused(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(Overloaded)
    async def overloaded(request: Request, error: Overloaded) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"retry-after": "1"})

    async def ask(request: Request, query: Query, k: int, filters: Filters, reasons: int) -> Response:
        if filters.reorders and k > MOST_DIVERSE_K:
            raise UserError(f"k={k}: at most {MOST_DIVERSE_K} with diversity")
        gone = request.scope.get("state", {}).get("gone", bool)
        return _response(await batcher.ask(Ask(query, k, filters, reasons, gone)))

    async def recommend(asked: RecommendRequest, request: Request) -> Response:
        """Songs that go with a playlist, a user or both, best first, with the reasons."""
        filters = recommender.filters.replace(**asked.filters.model_dump(exclude_none=True))
        history = tuple(Play(entry.song, entry.time, entry.played, entry.kind) for entry in asked.history)
        query = Query(tuple(asked.songs), asked.user, tuple(asked.dislikes), asked.ordered, history, asked.now)
        return await ask(request, query, asked.k, filters, asked.reasons)

    # The class is made now, when all filters are registered, so the signature cannot name it.
    recommend.__annotations__["asked"] = recommend_request()
    app.post("/recommend", response_class=JSONResponse, responses=_ANSWERS)(recommend)

    @app.post("/similar", response_class=JSONResponse, responses=_ANSWERS)
    async def similar(asked: SimilarRequest, request: Request) -> Response:
        """The songs nearest to one song."""
        return await ask(request, Query((asked.song,)), asked.k, recommender.filters, 1)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the service answers, and with what. Needs no token."""
        return {"status": "ok", "songs": len(recommender.export.item_ids), "index": recommender.index.facts}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters and latencies in Prometheus' text format."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    def add_page(name: str, path: str) -> None:
        content = (_PAGE / name).read_bytes()
        headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}

        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            return Response(content, media_type=_PAGE_TYPES[name], headers=headers)

    for name in _PAGE_TYPES:
        add_page(name, "/docs" if name == "docs.html" else f"/docs/{name}")
    return app
