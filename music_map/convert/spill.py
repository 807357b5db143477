"""Sorts more events than memory holds: rows go to a file, then to a file for each range of users, which is sorted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# Packed, 19 bytes an event. user and item are codes until they are sorted.
ROW = np.dtype(
    [("user", "<u4"), ("time", "<u4"), ("item", "<u4"), ("organic", "u1"), ("played", "<u2"), ("seconds", "<u4")]
)
# 4 million rows are 76 MB, and some 200 MB while they are sorted.
PARTITION_ROWS = 4_000_000
_MOST_PARTITIONS = 256
_READ_ROWS = 1 << 18


class Spill:
    """Rows of one kind of event, in the order of arrival, in a file.

    Args:
      folder: for the files, which `sorted_rows` removes.
      name: of the files.
    """

    def __init__(self, folder: Path, name: str):
        self._folder, self._name = folder, name
        self._path = folder / f"{name}.rows"
        self._file = open(self._path, "wb")  # noqa: SIM115 - closed by close
        self._counts = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return int(self._counts.sum())

    def append(self, rows: np.ndarray) -> None:
        """Adds rows of dtype ROW."""
        counts = np.bincount(rows["user"], minlength=len(self._counts))
        counts[: len(self._counts)] += self._counts
        self._counts = counts
        self._file.write(rows.tobytes())

    def close(self) -> None:
        """Ends the appending."""
        self._file.close()

    def sorted_rows(
        self, users: np.ndarray, items: np.ndarray, *, partition_rows: int = PARTITION_ROWS
    ) -> Iterator[np.ndarray]:
        """Yields the rows with final numbers, sorted by user, then time; events of one user and time keep their order.

        Args:
          users, items: uint32, the final number of each code.
          partition_rows: rows that are sorted in memory at a time (more where one user has more).
        """
        self.close()
        if len(self):
            counts = np.zeros(len(users), np.int64)
            counts[: len(self._counts)] = self._counts
            for path in self._partitions(_ranges(counts, users, max(partition_rows, len(self) // _MOST_PARTITIONS))):
                rows = np.fromfile(path, ROW)
                path.unlink()
                rows["user"], rows["item"] = users[rows["user"]], items[rows["item"]]
                yield rows[np.lexsort((rows["time"], rows["user"]))]
        self._path.unlink(missing_ok=True)

    def _partitions(self, part_of: np.ndarray) -> list[Path]:
        """Deals the rows to a file for each part, given the part of each user code."""
        count = int(part_of.max()) + 1
        if count == 1:
            return [self._path]
        paths = [self._folder / f"{self._name}.{part:03d}.rows" for part in range(count)]
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, "wb")) for path in paths]
            with open(self._path, "rb") as spilled:
                while len(rows := np.fromfile(spilled, ROW, _READ_ROWS)):
                    part = part_of[rows["user"]]
                    order = np.argsort(part, kind="stable")
                    starts = np.flatnonzero(np.append(True, np.diff(part[order]) > 0))
                    for chunk in np.split(rows[order], starts[1:]):
                        files[part_of[chunk["user"][0]]].write(chunk.tobytes())
        self._path.unlink()
        return paths


def _ranges(counts: np.ndarray, users: np.ndarray, partition_rows: int) -> np.ndarray:
    """The part of each user code: int64 [codes]. Parts are ranges of final numbers of some partition_rows rows."""
    order = np.argsort(users)
    before = np.cumsum(counts[order]) - counts[order]
    part = np.empty(len(users), np.int64)
    # A part number may stay unused where one user spans it: np.unique closes the gaps.
    part[order] = np.unique(before // partition_rows, return_inverse=True)[1]
    return part
