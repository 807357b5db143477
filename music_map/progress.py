"""How the library reports progress without printing: callers pass a Progress, by default `silent`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Progress(Protocol):
    """Opens one progress bar; the returned context yields `advance(n)`, to be called with the units done."""

    def __call__(self, label: str, total: int | None, unit: str) -> AbstractContextManager[Callable[[int], object]]: ...


@contextlib.contextmanager
def silent(label: str, total: int | None, unit: str) -> Iterator[Callable[[int], object]]:
    """A Progress that shows nothing."""
    del label, total, unit
    yield lambda n: None
