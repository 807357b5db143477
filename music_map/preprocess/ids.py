"""Counting and looking up original ids, in memory that follows the number of ids, not of events."""

from __future__ import annotations

import numpy as np

from music_map.preprocess.dataset import index_of

# Up to here a table with one slot per possible value is used: 8 bytes x 2^25 = 256 MiB. Yambda's song ids (below
# 10 million) and timestamps (26 million) fit.
_DENSE_VALUES = 1 << 25


class Counter:
    """Counts unsigned 32-bit values that come batch by batch.

    A table indexed by value where the largest is small, else a merge of sorted distinct values.

    Args:
      first: no value is below it (timestamps may start anywhere).
    """

    def __init__(self, first: int = 0, *, dense_values: int = _DENSE_VALUES):
        self._first = first
        self._dense_values = dense_values
        self._table: np.ndarray | None = np.zeros(0, np.int64)
        self._values = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Counts every element of `values`, integers [n]."""
        if len(values) == 0:
            return
        offsets = values.astype(np.int64) - self._first
        size = int(offsets.max()) + 1
        if self._table is not None and size > self._dense_values:
            self._values = np.flatnonzero(self._table)
            self._counts = self._table[self._values]
            self._table = None
        if self._table is None:
            values, counts = np.unique(offsets, return_counts=True)
            merged, at = np.unique(np.concatenate([self._values, values]), return_inverse=True)
            self._counts = np.bincount(at, np.concatenate([self._counts, counts]), len(merged)).astype(np.int64)
            self._values = merged
            return
        if size > len(self._table):
            # Doubling keeps the copies linear in the final size.
            grown = np.zeros(min(max(size, 2 * len(self._table)), self._dense_values), np.int64)
            grown[: len(self._table)] = self._table
            self._table = grown
        np.add.at(self._table, offsets, 1)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct values, ascending, int64 [V], and how often each came, int64 [V]."""
        if self._table is None:
            return self._values + self._first, self._counts
        values = np.flatnonzero(self._table)
        return values + self._first, self._table[values]


class IdIndex:
    """Original ids -> positions.

    Args:
      ids: uint32 [N], ascending and distinct.
    """

    def __init__(self, ids: np.ndarray, *, dense_values: int = _DENSE_VALUES):
        self.ids = ids
        self._table: np.ndarray | None = None
        if len(ids) and int(ids[-1]) < dense_values:
            self._table = np.full(int(ids[-1]) + 1, -1, np.int32)
            self._table[ids] = np.arange(len(ids), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.ids)

    def lookup(self, wanted: np.ndarray) -> np.ndarray:
        """Positions of the ids `wanted`, int32 [n]; -1 where an id is not there."""
        if self._table is None:
            return index_of(self.ids, wanted).astype(np.int32)
        # Ids beyond the table are clipped to its last slot, which holds a kept id, and masked after.
        last = len(self._table) - 1
        found = self._table[np.minimum(wanted, last)]
        found[wanted > last] = -1
        return found
