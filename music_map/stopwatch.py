"""The time that a long job spends, by stage."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator

_OTHER = "other"


@dataclasses.dataclass
class Spent:
    """The time and memory of a stage so far.

    Attributes:
      wall: seconds.
      processor: seconds of all threads of this process.
      peak: largest resident memory in the stage, bytes; 0 if it was not measured.
    """

    wall: float = 0.0
    processor: float = 0.0
    peak: int = 0


class Stages:
    """A stopwatch of stages. The time of an inner stage does not count in the outer one, so the stages add up.

        stages = Stages()
        with stages("train"):
            ...
            with stages("validate"):
                ...
        stages.seconds()    # {"train": 71.3, "validate": 2.0, "other": 0.1}

    Args:
      memory: measure each stage's peak of resident memory too. Linux only; it resets the peak that the system keeps of
        this process.
    """

    def __init__(self, *, memory: bool = False) -> None:
        self.spent: dict[str, Spent] = {}
        self._memory = memory
        self._open = [_OTHER]
        self._now = time.perf_counter(), time.process_time()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A context whose time counts for the stage. It may be entered many times."""
        self._lap()
        self._open.append(name)
        self.spent.setdefault(name, Spent())
        try:
            yield
        finally:
            self._lap()
            self._open.pop()

    def seconds(self) -> dict[str, float]:
        """Wall seconds by stage in the order in which they began; the time outside all stages is "other", the last."""
        self._lap()
        other = self.spent.pop(_OTHER)
        self.spent[_OTHER] = other
        return {name: round(spent.wall, 3) for name, spent in self.spent.items()}

    def _lap(self) -> None:
        now = time.perf_counter(), time.process_time()
        spent = self.spent.setdefault(self._open[-1], Spent())
        spent.wall += now[0] - self._now[0]
        spent.processor += now[1] - self._now[1]
        self._now = now
        if self._memory:
            spent.peak = max(spent.peak, _peak())


def table(seconds: dict[str, float]) -> str:
    """Seconds by stage as text, a line each; stages of less than a tenth of a second are left out."""
    shown = {name: value for name, value in seconds.items() if value >= 0.05} | {"total": sum(seconds.values())}
    width = max(map(len, shown))
    return "\n".join(f"{name:<{width}}{value:>10.1f} s" for name, value in shown.items())


def _peak() -> int:
    """The peak of this process's resident memory since the last call, bytes; 0 if the system does not report it."""
    try:
        with open("/proc/self/status") as status:
            found = re.search(r"^VmHWM:\s+(\d+) kB", status.read(), re.MULTILINE)
        with open("/proc/self/clear_refs", "w") as peaks:
            peaks.write("5")
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
