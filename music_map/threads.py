"""Work on several cores within one process: NumPy, Arrow, hashlib and files release the interpreter while they work."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

# Further threads would only wait for the reading thread.
_MOST_WORKERS = 8


def num_workers() -> int:
    """The useful number of threads: the cores that this process may use, at most 8."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _MOST_WORKERS)


def ordered_map(
    function: Callable[[_Argument], _Result], arguments: Iterable[_Argument], *, pool: Executor, ahead: int
) -> Iterator[_Result]:
    """`map` on a pool's threads: results in the order of the arguments, with at most `ahead` calls in progress.

    The calling thread takes the next argument when fewer are in progress. So reading (in the calling thread) overlaps
    with work (in the pool), and memory stays bounded. An exception of `function` is raised in place of its result.
    """
    under_way: deque[Future[_Result]] = deque()
    try:
        for argument in arguments:
            if len(under_way) == ahead:
                yield under_way.popleft().result()
            under_way.append(pool.submit(function, argument))
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()
