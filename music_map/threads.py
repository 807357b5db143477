"""Work on several cores within one process: NumPy, Arrow, hashlib and files release the interpreter while they work."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

# More threads than this only wait for the one that reads.
_MOST_WORKERS = 8


def num_workers() -> int:
    """Threads worth having on this machine: the cores this process may use, at most 8."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _MOST_WORKERS)


def ordered_map(
    function: Callable[[_Argument], _Result], arguments: Iterable[_Argument], *, pool: Executor, ahead: int
) -> Iterator[_Result]:
    """`map` on a pool's threads: results in the order of the arguments, at most `ahead` of them under way.

    Arguments are drawn in the calling thread, one when a place is free: reading (there) and working (in the pool)
    overlap, and what is in memory stays bounded. An exception of `function` is raised where its result would come.
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
