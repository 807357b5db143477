"""Walking the sorted event files together, a range of users at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from music_map.raw.reader import Columns


class _Stream:
    """One file's batches, buffered up to the users not yet handed out."""

    def __init__(self, batches: Iterator[Columns]):
        self._batches = batches
        self._buffer: Columns | None = None
        self.ended = False

    def fill(self) -> None:
        """Reads one more batch."""
        batch = next(self._batches, None)
        if batch is None:
            self.ended = True
        elif self._buffer is None:
            self._buffer = batch
        else:
            self._buffer = {name: np.concatenate([self._buffer[name], batch[name]]) for name in batch}

    @property
    def last_uid(self) -> int:
        """The highest user in the buffer; -1 while there is none."""
        return -1 if self._buffer is None or not len(self._buffer["uid"]) else int(self._buffer["uid"][-1])

    def take_below(self, uid: int) -> Columns | None:
        """Hands out the rows of users below `uid`."""
        if self._buffer is None:
            return None
        cut = int(np.searchsorted(self._buffer["uid"], uid))
        taken = {name: column[:cut] for name, column in self._buffer.items()}
        self._buffer = {name: column[cut:] for name, column in self._buffer.items()}
        return taken if cut else None


class UserRange(NamedTuple):
    """All rows of a range of users: per file its columns, or None where it has no such rows."""

    files: dict[str, Columns | None]


def walk_users(files: dict[str, Iterator[Columns]]) -> Iterator[UserRange]:
    """Yields ranges of users with all their rows of all files.

    Args:
      files: per name the batches of a file sorted by uid; batches have a "uid" column.

    Yields:
      Ranges in ascending order of users; no user is in two ranges. A range holds at most about a batch of each file
      and one user.
    """
    streams = {name: _Stream(batches) for name, batches in files.items()}
    while True:
        for stream in streams.values():
            if not stream.ended and stream.last_uid < 0:
                stream.fill()
        open_streams = [s for s in streams.values() if not s.ended]
        if not open_streams:
            yield UserRange({name: s.take_below(1 << 40) for name, s in streams.items()})
            return
        # The last user of an open file may go on in its next batch.
        bound = min(s.last_uid for s in open_streams)
        parts = {name: s.take_below(bound) for name, s in streams.items()}
        if any(part is not None for part in parts.values()):
            yield UserRange(parts)
        for stream in open_streams:
            if stream.last_uid <= bound:
                stream.fill()
