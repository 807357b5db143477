"""Questions that come at about the same time are answered in one call; costly ones do not hold up the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from music_map.errors import UserError
from music_map.retrieval.answers import Answer, Query
from music_map.retrieval.filters import Filters

# Questions that wait at once, by class: beyond, a question is refused at once.
MOST_WAITING, MOST_HEAVY = 1_024, 256
# Questions answered together, and the seconds that the first of them waits for others where others are about.
_BATCH, _PATIENCE = 64, 0.001
# What makes a question heavy. On two cores with 254,000 songs a playlist of 50 songs and k = 10 takes 1 ms of a batch,
# one of 1,000 songs 15 ms, k = 1,000 150 ms, and k = 100 with diversity 40 ms.
_LIGHT_SONGS, _LIGHT_K, _LIGHT_DIVERSE_K, _LIGHT_LIST, _LIGHT_HISTORY = 128, 100, 20, 1_000, 500
# A niceness for the thread of heavy questions: the others' thread and the event loop go first.
_NICE = 10


class Overloaded(Exception):
    """The question is not answered now: too many wait, or the service is ending. Says which."""


class Ask(NamedTuple):
    """A query and what it wants; those that agree in `shared` are answered together.

    Attributes:
      gone: whether the client has left, so that nobody wants the answer.
    """

    query: Query
    k: int
    filters: Filters
    reasons: int
    gone: Callable[[], bool] = bool

    @property
    def shared(self) -> tuple[int, Filters, int]:
        return self.k, self.filters, self.reasons

    @property
    def heavy(self) -> bool:
        """Whether it takes much longer to answer than most."""
        filters = self.filters
        return (
            max(len(self.query.songs), len(self.query.dislikes)) > _LIGHT_SONGS
            or self.k > (_LIGHT_DIVERSE_K if filters.reorders else _LIGHT_K)
            or len(self.query.history) > _LIGHT_HISTORY
            or sum(len(songs) for _, songs in filters.active("songs")) > _LIGHT_LIST
        )


class Batcher:
    """Answers questions in two threads: light ones in batches, heavy ones one at a time and with lower priority.

    Args:
      answer: from queries, k, filters and reasons to an answer or an error for each query; two threads call it.
    """

    def __init__(self, answer: Callable[[list[Query], int, Filters, int], Sequence[Answer | UserError]]):
        self._lines = [
            _Line("recommend", answer, MOST_WAITING, _BATCH, nice=0),
            _Line("recommend-heavy", answer, MOST_HEAVY, 1, nice=_NICE),
        ]
        self._closed = False

    def start(self) -> None:
        """Starts to answer. Needs a running event loop."""
        for line in self._lines:
            line.start()

    def close(self) -> None:
        """Refuses what waits and what comes from here on; what is being worked on is answered."""
        self._closed = True
        for line in self._lines:
            line.refuse()

    async def stop(self) -> None:
        """Ends when all that waits is answered or refused."""
        for line in self._lines:
            await line.stop()

    async def ask(self, asked: Ask) -> Answer:
        """The answer to a question.

        Raises:
          UserError: it cannot be answered.
          Overloaded: it is not answered now.
        """
        if self._closed:
            raise Overloaded("the service is ending; ask again in a moment")
        return await self._lines[asked.heavy].ask(asked)


class _Line:
    """Questions of one class, and the thread that answers them."""

    def __init__(
        self, name: str, answer: Callable[..., Sequence[Answer | UserError]], most: int, batch: int, nice: int
    ):
        self._answer, self._most, self._batch = answer, most, batch
        self._waiting: deque[tuple[Ask, asyncio.Future]] = deque()
        self._wake = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, name, _lower_priority, (nice,))
        self._task: asyncio.Task | None = None
        self._ending = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def ask(self, asked: Ask) -> Answer:
        if len(self._waiting) >= self._most:
            raise Overloaded(f"{self._most} requests of this kind wait already; ask again in a moment")
        future: asyncio.Future = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        self._wake.set()
        return await future

    def refuse(self) -> None:
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(Overloaded("the service is ending; ask again in a moment"))

    async def stop(self) -> None:
        self._ending = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._worker.shutdown()

    async def _run(self) -> None:
        loop, size = asyncio.get_running_loop(), 1
        while self._waiting or not self._ending:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            # Clients that were answered together ask again at about the same time; a lone one waits for nobody.
            if size > 1 and len(self._waiting) < size:
                await asyncio.sleep(_PATIENCE)
            batch = self._next()
            size = len(batch)
            if not batch:
                continue
            answers = await loop.run_in_executor(self._worker, self._answers, [asked for asked, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # cancelled
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _next(self) -> list[tuple[Ask, asyncio.Future]]:
        """The questions to answer now; those that nobody waits for any more are left out."""
        batch = []
        while self._waiting and len(batch) < self._batch:
            asked, future = self._waiting.popleft()
            if future.done():
                continue
            if asked.gone():
                future.set_exception(Overloaded("the client has left"))
                continue
            batch.append((asked, future))
        return batch

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


def _lower_priority(nice: int) -> None:
    """Makes the calling thread give way to others. Linux alone has priorities of threads."""
    if nice and sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
