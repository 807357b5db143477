"""Work that comes at about the same time is done in one call; costly work does not hold up the rest.

A `Line` is a queue with a thread; the `Batcher` has one for light questions and one for heavy ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

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
_ENDING = "the service is ending; ask again in a moment"
# A niceness for the thread of heavy questions: the others' thread and the event loop go first.
_NICE = 10


_Work, _Done = TypeVar("_Work"), TypeVar("_Done")


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


class Line(Generic[_Work, _Done]):
    """Work of one class, and the thread that does it, many pieces in one call.

    Args:
      name: of the thread.
      do: from pieces of work to a result, or an error, for each; if it raises, the error is that of all.
      most: pieces that wait at once; beyond, one is refused.
      batch: pieces of one call.
      nice: of the thread, see setpriority(2).
      gone: whether nobody wants a piece's result any more.
    """

    def __init__(
        self,
        name: str,
        do: Callable[[list[_Work]], Sequence[_Done | Exception]],
        *,
        most: int,
        batch: int,
        nice: int = 0,
        gone: Callable[[_Work], bool] = lambda work: False,
    ):
        self._do, self._most, self._batch, self._gone = do, most, batch, gone
        self._waiting: deque[tuple[_Work, asyncio.Future]] = deque()
        self._wake = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, name, lower_priority, (nice,))
        self._task: asyncio.Task | None = None
        self._closed = self._ending = False

    def start(self) -> None:
        """Starts to work. Needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def ask(self, work: _Work) -> _Done:
        """The result of a piece of work; raises its error, or Overloaded where it is not done now."""
        if self._closed:
            raise Overloaded(_ENDING)
        if len(self._waiting) >= self._most:
            raise Overloaded(f"{self._most} requests of this kind wait already; ask again in a moment")
        future: asyncio.Future = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        self._wake.set()
        return await future

    def close(self) -> None:
        """Refuses what waits and what comes from here on; what is being worked on is done."""
        self._closed = True
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(Overloaded(_ENDING))

    async def stop(self) -> None:
        """Ends when all that waits is done or refused."""
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
            done = await loop.run_in_executor(self._worker, self._results, [work for work, _ in batch])
            for (_, future), result in zip(batch, done, strict=True):
                if future.done():  # cancelled
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _next(self) -> list[tuple[_Work, asyncio.Future]]:
        """The work to do now; that for which nobody waits any more is left out."""
        batch = []
        while self._waiting and len(batch) < self._batch:
            work, future = self._waiting.popleft()
            if future.done():
                continue
            if self._gone(work):
                future.set_exception(Overloaded("the client has left"))
                continue
            batch.append((work, future))
        return batch

    def _results(self, batch: list[_Work]) -> Sequence[_Done | Exception]:
        try:
            return self._do(batch)
        except Exception as e:
            return [e] * len(batch)


class Batcher:
    """Answers questions in two threads: light ones in batches, heavy ones one at a time and with lower priority.

    Args:
      answer: from queries, k, filters and reasons to an answer or an error for each query; two threads call it.
    """

    def __init__(self, answer: Callable[[list[Query], int, Filters, int], Sequence[Answer | UserError]]):
        self._answer = answer
        gone = operator.methodcaller("gone")
        self._light: Line[Ask, Answer] = Line("recommend", self._answers, most=MOST_WAITING, batch=_BATCH, gone=gone)
        self._heavy: Line[Ask, Answer] = Line(
            "recommend-heavy", self._answers, most=MOST_HEAVY, batch=1, nice=_NICE, gone=gone
        )
        self.lines = (self._light, self._heavy)

    def start(self) -> None:
        """Starts to answer. Needs a running event loop."""
        for line in self.lines:
            line.start()

    def close(self) -> None:
        """Refuses what waits and what comes from here on; what is being worked on is answered."""
        for line in self.lines:
            line.close()

    async def stop(self) -> None:
        """Ends when all that waits is answered or refused."""
        for line in self.lines:
            await line.stop()

    async def ask(self, asked: Ask) -> Answer:
        """The answer to a question.

        Raises:
          UserError: it cannot be answered.
          Overloaded: it is not answered now.
        """
        return await (self._heavy if asked.heavy else self._light).ask(asked)

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


def lower_priority(nice: int) -> None:
    """Makes the calling thread give way to others. Linux alone has priorities of threads."""
    if nice and sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
