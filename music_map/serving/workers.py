"""Several processes that serve one port: the parent binds it and looks after its workers, which accept from it.

A worker is the same command once more, with the parent's sockets. What one worker alone is told, new songs and reloads,
is a line of a file that the others follow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# What a worker is told by its parent, in the environment.
_HANDOVER = "MUSIC_MAP_WORKER"
# Seconds between looks at the workers, and from the end of one to the start of another in its place.
_LOOK_SECONDS, _PAUSE_SECONDS = 0.5, 1.0


class Notes:
    """What some worker was told and all must know, in the order in which it came.

    Args:
      path: of the file, made by the parent.

    Attributes:
      earlier: what was told before this process began.
    """

    def __init__(self, path: Path):
        self._path, self._at = path, 0
        self.earlier = self.new()

    def post(self, **note: Any) -> None:
        """Tells the other workers."""
        line = json.dumps({"by": os.getpid(), **note}).encode() + b"\n"
        # Appended by one call: lines of several processes do not mix.
        at = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(at, line)
        finally:
            os.close(at)

    def new(self) -> list[dict[str, Any]]:
        """What others have told since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        return [note for note in map(json.loads, whole.splitlines()) if note["by"] != os.getpid()]


@dataclasses.dataclass(frozen=True)
class Worker:
    """What the process has from its parent.

    Attributes:
      sockets: bound, to accept from.
      notes: of all workers.
      parent: its process.
    """

    sockets: list[socket.socket]
    notes: Notes
    parent: int
    _ready: int

    @classmethod
    def of_environment(cls) -> Worker | None:
        """The worker that this process is; None: it is none."""
        if (text := os.environ.pop(_HANDOVER, None)) is None:
            return None
        given = json.loads(text)
        sockets = [socket.socket(fileno=at) for at in given["sockets"]]
        return cls(sockets, Notes(Path(given["notes"])), os.getppid(), given["ready"])

    def is_ready(self) -> None:
        """Tells the parent that the worker serves."""
        os.write(self._ready, b".")
        os.close(self._ready)

    def is_orphan(self) -> bool:
        """Whether the parent has gone."""
        return os.getppid() != self.parent


class _Process:
    """A worker as the parent sees it."""

    def __init__(self, sockets: Sequence[socket.socket], folder: str):
        self._told, ready = os.pipe()
        fds = [one.fileno() for one in sockets]
        handed = json.dumps({"sockets": fds, "notes": f"{folder}/notes", "ready": ready})
        env = os.environ | {_HANDOVER: handed, "PROMETHEUS_MULTIPROC_DIR": folder}
        command = [sys.executable, *sys.orig_argv[1:]]
        # In a group of its own: Ctrl-C reaches the parent, which ends the workers as SIGTERM does.
        self._process = subprocess.Popen(command, env=env, pass_fds=(*fds, ready), process_group=0)
        os.close(ready)
        self.ready = False

    def look(self, seconds: float) -> int | None:
        """Waits so long at most until the worker is ready; its status, None: it runs."""
        if not self.ready and select.select([self._told], [], [], seconds)[0]:
            # Nothing to read: the worker has ended.
            self.ready = os.read(self._told, 1) != b""
            if not self.ready:
                return self._process.wait()
        return self._process.poll()

    def send(self, number: int) -> None:
        """Sends a signal, if the worker runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def wait(self) -> int:
        """Waits for the end; the status."""
        os.close(self._told)
        return self._process.wait()


def supervise(count: int, sockets: Sequence[socket.socket], warn: Callable[[str], object]) -> int:
    """Runs the same command as `count` workers until SIGTERM or Ctrl-C, which end them all as they end one service.

    The first one starts alone: it compiles what the others find compiled, and where it cannot start, none can. SIGHUP
    has all reload. A worker that ends by itself is replaced.

    Args:
      count: of workers.
      sockets: of `server.bind`.
      warn: is told of workers that ended.

    Returns:
      the exit status.
    """
    ending, workers = [], []

    def end(number: int, frame: object) -> None:
        ending.append(number)
        for worker in workers:
            worker.send(signal.SIGTERM)

    before: dict[int, Any] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="music-map-") as folder:
            Path(folder, "notes").touch(mode=0o600)
            notes = Notes(Path(folder, "notes"))
            handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: lambda *_: notes.post(reload=True)}
            before |= {number: signal.signal(number, handler) for number, handler in handlers.items()}
            status = _run(count, lambda: _Process(sockets, folder), workers, ending, warn)
            for worker in workers:
                worker.send(signal.SIGTERM)
            statuses = [worker.wait() for worker in workers]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGINT in ending:
        raise KeyboardInterrupt
    # One that had not begun to serve dies of the signal.
    return status or next((one for one in statuses if one not in (0, -signal.SIGTERM)), 0)


def _run(
    count: int,
    start: Callable[[], _Process],
    workers: list[_Process],
    ending: list[int],
    warn: Callable[[str], object],
) -> int:
    """Keeps the workers running until the end; the status of one that could not start, or 0."""
    while not ending:
        if len(workers) < count and all(worker.ready for worker in workers):
            workers.append(start())
        for worker in list(workers):
            status = worker.look(_LOOK_SECONDS / count)
            if status is None or ending:
                continue
            workers.remove(worker)
            worker.wait()
            if not worker.ready:
                return status or 1
            warn(f"a worker ended with status {status}; another takes its place")
            time.sleep(_PAUSE_SECONDS)
        if all(worker.ready for worker in workers):
            time.sleep(_LOOK_SECONDS)
    return 0
