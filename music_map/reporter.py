"""Messages and progress of the library: callers pass a Reporter; by default the library is silent.

A function that only reports progress takes a `Progress`, such as a Reporter's `bar`.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from music_map.text import printable, printable_lines


class Progress(Protocol):
    """Opens one progress bar; the returned context yields `advance(n)`, to be called with the units done."""

    def __call__(self, label: str, total: int | None, unit: str) -> AbstractContextManager[Callable[[int], object]]: ...


class Reporter(Protocol):
    """Where the library reports to: the terminal, a notebook, or nowhere."""

    bar: Progress

    def say(self, text: str = "") -> None:
        """Reports a result."""

    def note(self, text: str) -> None:
        """Reports a step on the way to the result."""

    def warn(self, text: str) -> None:
        """Reports a probable mistake, in one line."""


@contextlib.contextmanager
def silent(label: str, total: int | None, unit: str) -> Iterator[Callable[[int], object]]:
    """A Progress that shows nothing."""
    del label, total, unit
    yield lambda n: None


class _Silent:
    """A Reporter that shows nothing."""

    bar = staticmethod(silent)

    def say(self, text: str = "") -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...


SILENT: Reporter = _Silent()


class Stopped(Exception):
    """Raised at a bar of a `Stoppable` if the job should stop. Finished work is kept."""


class Stoppable:
    """A Reporter whose bars raise Stopped, between two units of work, if the job should stop.

    Args:
      reporter: gets all messages.
      should_stop: called at the beginning of each bar and whenever units are done.
    """

    def __init__(self, reporter: Reporter, should_stop: Callable[[], bool]):
        self.say, self.note, self.warn = reporter.say, reporter.note, reporter.warn
        self._bar, self._should_stop = reporter.bar, should_stop

    @contextlib.contextmanager
    def bar(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], object]]:
        self.check()
        with self._bar(label, total, unit) as advance:

            def advance_or_stop(n: int) -> None:
                advance(n)
                self.check()

            yield advance_or_stop

    def check(self) -> None:
        """Raises Stopped if the job should stop."""
        if self._should_stop():
            raise Stopped


class PrintReporter:
    """A Reporter for notebooks and scripts: prints, warns on stderr, and shows tqdm's bar (a widget if possible)."""

    def say(self, text: str = "") -> None:
        print(printable_lines(text), flush=True)

    def note(self, text: str) -> None:
        self.say(text)

    def warn(self, text: str) -> None:
        print("warning:", printable(text), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def bar(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], object]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in a notebook without ipywidgets tqdm warns and draws a text bar
            from tqdm.auto import tqdm
        with tqdm(total=total, desc=printable(label), unit=unit, unit_scale=True, dynamic_ncols=True) as progress:
            yield progress.update
