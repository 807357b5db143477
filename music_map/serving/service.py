"""The HTTP service over a Recommender: the ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi import Query as Parameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from music_map.errors import UserError
from music_map.events.event import Event, id_of
from music_map.events.store import Conflict, EventStore, History, Stored, StoreUnavailable
from music_map.reporter import SILENT, Reporter
from music_map.retrieval.answers import Answer, Query
from music_map.retrieval.filters import Filters
from music_map.retrieval.plays import Play
from music_map.retrieval.recommender import Recommender
from music_map.serving.batcher import Ask, Batcher, Line, Overloaded, lower_priority
from music_map.serving.bodies import (
    MOST_DIVERSE_K,
    MOST_K,
    AddedBody,
    AnswerBody,
    EventsRequest,
    RecommendRequest,
    Refused,
    SimilarRequest,
    SongsRequest,
    StoredBody,
    UserBody,
    recommend_request,
)
from music_map.serving.guard import LOOPBACK_NAMES, Guard
from music_map.serving.listeners import key_of, news_after, with_history
from music_map.serving.pages import MapPage, add_docs
from music_map.serving.served import Busy, Served
from music_map.serving.workers import Worker

# Batches of events that wait at once and those of one transaction; users whose events are read together.
_MOST_BATCHES, _BATCHES, _MOST_READERS, _READERS = 512, 64, 1_024, 64
# Seconds between looks at what other workers were told.
_FOLLOW_SECONDS = 0.2
_PATHS = frozenset(
    {
        "/",
        "/recommend",
        "/similar",
        "/events",
        "/users",
        "/songs",
        "/reload",
        "/health",
        "/metrics",
        "/docs",
        "/openapi.json",
    }
)


def _responses(model: Any, *statuses: int) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model}, **{status: {"model": Refused} for status in (401, *statuses)}}


def create_app(
    recommender: Recommender,
    *,
    store: EventStore | None = None,
    load: Callable[[], Recommender] | None = None,
    allowed_hosts: Iterable[str] = LOOPBACK_NAMES,
    any_address: bool = False,
    token: str | None = None,
    title: str = "Music Map",
    map_page: Path | None = None,
    reporter: Reporter = SILENT,
    worker: Worker | None = None,
) -> FastAPI:
    """The application: see docs/service.md for its paths, and /docs for their schema.

    Its `state.close` makes it refuse what waits: the end of a server's grace.

    Args:
      recommender: answers; its own filters are those of requests that bring none.
      store: of events; None: there are no events.
      load: loads the newest recommender for POST /reload and SIGHUP; None: neither is there.
      allowed_hosts, any_address, token: see Guard.
      title, map_page: of the map at /, see MapPage.
      reporter: is told of reloads by a signal.
      worker: that this process is among those of one port; it does what the others are told.
    """
    registry = CollectorRegistry()
    served, pages = Served(recommender, load), MapPage(title, map_page)

    def answer(queries: list[Query], k: int, filters: Filters, reasons: int) -> list[Answer | UserError]:
        return served.current.recommend_batch(queries, k=k, filters=filters, reasons=reasons)

    batcher = Batcher(answer)
    reloader = ThreadPoolExecutor(1, "reload", lower_priority, (10,))
    listeners = None if store is None else _Listeners(store, registry)
    lines: list[Any] = [batcher, *([] if listeners is None else listeners.lines)]

    async def reload_now() -> dict[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(reloader, served.reload)

    async def reload_at_signal() -> None:
        try:
            facts = await reload_now()
            reporter.note(f"reloaded: {facts['songs']} songs, step {facts['step']}")
        except (UserError, Busy) as e:
            reporter.warn(str(e))
        except Exception as e:  # of the new model, whatever it is: the old one answers
            reporter.warn(f"not reloaded, what was served before still answers: {type(e).__name__}: {e}")

    def add_songs(songs: list[dict[str, Any]]) -> None:
        try:
            served.add_songs(songs)
        except UserError as e:
            reporter.warn(f"songs that another worker has added: {e}")

    async def follow(worker: Worker) -> None:
        while not worker.is_orphan():
            await asyncio.sleep(_FOLLOW_SECONDS)
            for note in worker.notes.new():
                if "songs" in note:
                    await asyncio.get_running_loop().run_in_executor(reloader, add_songs, note["songs"])
                else:
                    await reload_at_signal()
        signal.raise_signal(signal.SIGTERM)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop, tasks = asyncio.get_running_loop(), set()
        by_signal = served.can_reload and threading.current_thread() is threading.main_thread()

        def hang_up() -> None:
            tasks.add(task := loop.create_task(reload_at_signal()))
            task.add_done_callback(tasks.discard)

        if by_signal:
            loop.add_signal_handler(signal.SIGHUP, hang_up)
        for line in lines:
            line.start()
        if worker is not None:
            # The model that was loaded is that of the last reload; the songs are not in it.
            for note in worker.notes.earlier:
                add_songs(note.get("songs", []))
            tasks.add(following := loop.create_task(follow(worker)))
        yield
        if worker is not None:
            following.cancel()
        if by_signal:
            loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for line in lines:
            await line.stop()
        reloader.shutdown(cancel_futures=True)
        pages.stop()

    app = FastAPI(
        title="Music Map",
        description="Songs that go with a song, a playlist or a user.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )

    def close() -> None:
        for line in lines:
            line.close()

    app.state.close, app.state.served = close, served
    app.add_middleware(
        Guard, allowed_hosts=allowed_hosts, any_address=any_address, token=token, paths=_PATHS, registry=registry
    )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # The rejected values are left out: one may be no JSON (NaN), another as large as a request may be.
        wrong = [".".join(str(part) for part in e["loc"][1:]) + f": {e['msg']}" for e in error.errors()[:5]]
        return JSONResponse({"detail": "; ".join(wrong)}, 422)

    def refuse(error: type[Exception], status: int, headers: dict[str, str] | None = None) -> None:
        @app.exception_handler(error)
        async def refused(request: Request, error: Exception) -> JSONResponse:
            return JSONResponse({"detail": str(error)}, status, headers)

    refuse(UserError, 422)
    refuse(Conflict, 409)
    refuse(Busy, 409)
    for error in (Overloaded, StoreUnavailable):
        refuse(error, 503, {"retry-after": "1"})

    async def ask(request: Request, query: Query, k: int, filters: Filters, reasons: int) -> Response:
        if filters.reorders and k > MOST_DIVERSE_K:
            raise UserError(f"k={k}: at most {MOST_DIVERSE_K} with diversity")
        if query.user is not None and listeners is not None:
            query = await listeners.asked(query, served.current)
        gone = request.scope.get("state", {}).get("gone", bool)
        found = await batcher.ask(Ask(query, k, filters, reasons, gone))
        return Response(orjson.dumps(found), media_type="application/json")

    async def recommend(asked: RecommendRequest, request: Request) -> Response:
        """Songs that go with a playlist, a user or both, best first, with the reasons. A user's events count."""
        filters = served.current.filters.replace(**asked.filters.model_dump(exclude_none=True))
        history = tuple(Play(entry.song, entry.time, entry.played, entry.kind) for entry in asked.history)
        query = Query(tuple(asked.songs), asked.user, tuple(asked.dislikes), asked.ordered, history, asked.now)
        return await ask(request, query, asked.k, filters, asked.reasons)

    # The class is made now, when all filters are registered, so the signature cannot name it.
    recommend.__annotations__["asked"] = recommend_request()
    answers = _responses(AnswerBody, 400, 413, 422, 503)
    app.post("/recommend", response_class=JSONResponse, responses=answers)(recommend)

    @app.post("/similar", response_class=JSONResponse, responses=answers)
    async def similar(asked: SimilarRequest, request: Request) -> Response:
        """The songs nearest to one song."""
        return await ask(request, Query((asked.song,)), asked.k, served.current.filters, 1)

    if listeners is not None:
        listeners.add_routes(app, served)

    @app.post("/songs", response_class=JSONResponse, responses=_responses(AddedBody, 400, 413, 422))
    async def songs(asked: SongsRequest) -> dict[str, list[str]]:
        """Adds songs that were not there at training, to this process for its life. They are recommended at once."""
        given = [song.model_dump(exclude_none=True) for song in asked.songs]
        loop = asyncio.get_running_loop()
        warnings = await loop.run_in_executor(reloader, served.add_songs, given)
        if worker is not None:
            worker.notes.post(songs=given)
        return {"warnings": warnings}

    if served.can_reload:

        @app.post("/reload", response_class=JSONResponse, responses=_responses(dict[str, Any], 409, 422))
        async def reload() -> dict[str, Any]:
            """Loads the newest model of the run's folder beside the one that answers, and puts it in its place."""
            facts = await reload_now()
            if worker is not None:
                worker.notes.post(reload=True)
            return facts

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the service answers, and with what. Needs no token."""
        return {"status": "ok", "process": os.getpid(), **served.facts()}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters and latencies in Prometheus' text format."""
        counted = registry
        if worker is not None:
            MultiProcessCollector(counted := CollectorRegistry())
        return Response(generate_latest(counted), media_type="text/plain; version=0.0.4")

    add_docs(app)
    pages.add(app, served)
    return app


class _Listeners:
    """The store behind the service: one thread writes and one reads, each for many requests in one call."""

    def __init__(self, store: EventStore, registry: CollectorRegistry):
        self._store = store
        self._events = Counter("music_map_events", "Events taken in.", ("outcome",), registry=registry)
        self._writes: Line[list[Event], Stored] = Line("write-events", store.append, most=_MOST_BATCHES, batch=_BATCHES)
        self._reads: Line[tuple[str, int | None], History] = Line(
            "read-events", self._histories, most=_MOST_READERS, batch=_READERS
        )
        # Of one user at a time, in a thread of their own.
        self._others: Line[Callable[[], Any], Any] = Line("users", lambda calls: [calls[0]()], most=64, batch=1)
        self.lines = (self._writes, self._reads, self._others)

    def _histories(self, asked: list[tuple[str, int | None]]) -> list[History]:
        # Twice the same user: a model is being replaced, and the earlier second has what both want.
        wanted: dict[str, int | None] = {}
        for user, after in asked:
            wanted[user] = after if user not in wanted or after is None else wanted[user] and min(wanted[user], after)
        found = self._store.histories(wanted)
        return [
            History([event for event in found[user].events if event.time > after], found[user].forgotten)
            if after is not None and not found[user].forgotten
            else found[user]
            for user, after in asked
        ]

    async def asked(self, query: Query, recommender: Recommender) -> Query:
        """The query with what its user did since the training."""
        key = key_of(query.user)
        if key is None:
            return query
        history = await self._reads.ask((key, news_after(recommender, self._store, query.user)))
        return with_history(query, recommender, self._store, history)

    def add_routes(self, app: FastAPI, served: Served) -> None:
        """Adds POST /events, and GET and DELETE /users/{user}."""
        store = self._store

        @app.post("/events", response_class=JSONResponse, responses=_responses(StoredBody, 400, 409, 413, 422, 503))
        async def events(asked: EventsRequest) -> dict[str, int]:
            """Stores a batch of events, all or none. What is answered with 200 is on the disk."""
            batch = [body.event for body in asked.events]
            for entry, event in enumerate(batch):
                if event.time < store.epoch:
                    raise UserError(f"events.{entry}.time: lies before the logs begin, at {store.epoch}")
            stored = await self._writes.ask(batch)
            for outcome, count in stored._asdict().items():
                self._events.labels(outcome).inc(count)
            return stored._asdict()

        @app.get("/users/{user:path}", responses=_responses(UserBody, 404, 422, 503))
        async def user(user: str, latest: Annotated[int, Parameter(ge=0, le=MOST_K)] = 0) -> Response:
            """What is known of a user, by the model and in the store of events; with the `latest` songs played."""
            key, recommender = id_of(user), served.current
            found = await self._others.ask(lambda: store.profile(key))
            in_model = found.forgotten is None and recommender.ids.users.index_of(user) >= 0
            if not found.events and not in_model:
                return JSONResponse({"detail": recommender.ids.users.unknown("user", [user])}, 404)
            songs = []
            if latest:
                query = await self.asked(Query(user=user), recommender)
                songs = await self._others.ask(lambda: recommender.played(query, most=latest))
            body = {"user": key, "in_model": in_model, "latest": songs, **found._asdict()}
            return JSONResponse({name: body[name] for name in UserBody.model_fields})

        @app.delete("/users/{user:path}", response_class=JSONResponse, responses=_responses(dict[str, int], 422, 503))
        async def forget(user: str) -> dict[str, int]:
            """Deletes a user's events, and has the model treat the user as unknown from here on."""
            key = id_of(user)
            return {"deleted": await self._others.ask(lambda: store.forget(key))}
