"""Counting ids over a stream: memory grows with the number of distinct ids, not with the number of rows."""

from __future__ import annotations

import numpy as np

# Ids below this are counted in a dense array of 8 bytes each (256 MiB); larger ones in sorted arrays.
DENSE_BELOW = 1 << 25


class IdCounter:
    """Counts how often each unsigned integer occurs."""

    def __init__(self) -> None:
        self._dense = np.zeros(0, np.int64)
        self._ids = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)

    def add(self, ids: np.ndarray) -> None:
        """Counts a batch."""
        if not len(ids):
            return
        if int(ids.max()) >= DENSE_BELOW:
            high = ids[ids >= DENSE_BELOW]
            ids = ids[ids < DENSE_BELOW]
            new_ids, new_counts = np.unique(high.astype(np.int64), return_counts=True)
            self._ids, inverse = np.unique(np.concatenate([self._ids, new_ids]), return_inverse=True)
            self._counts = np.bincount(inverse, np.concatenate([self._counts, new_counts])).astype(np.int64)
        counts = np.bincount(ids)
        if len(counts) > len(self._dense):
            grown = np.zeros(len(counts), np.int64)
            grown[: len(self._dense)] = self._dense
            self._dense = grown
        self._dense[: len(counts)] += counts

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct ids int64, ascending, and how often each occurred, int64."""
        low = np.flatnonzero(self._dense)
        return np.concatenate([low, self._ids]), np.concatenate([self._dense[low], self._counts])

    def at_least(self, minimum: int) -> np.ndarray:
        """Ids that occurred at least `minimum` times, int64, ascending."""
        ids, counts = self.counts()
        return ids[counts >= minimum]


class IdIndex:
    """Maps ids to their position in an ascending array, -1 where absent; a table lookup where ids are small."""

    def __init__(self, ids: np.ndarray):
        self._ids = ids
        self._table = None
        if len(ids) and int(ids[-1]) < DENSE_BELOW:
            # The last entry stands for all ids beyond the largest.
            self._table = np.full(int(ids[-1]) + 2, -1, np.int32)
            self._table[ids] = np.arange(len(ids), dtype=np.int32)

    def __call__(self, wanted: np.ndarray) -> np.ndarray:
        """Positions int32 [len(wanted)]."""
        if not len(self._ids):
            return np.full(len(wanted), -1, np.int32)
        if self._table is not None:
            return self._table[np.minimum(wanted, len(self._table) - 1)]
        at = np.minimum(np.searchsorted(self._ids, wanted), len(self._ids) - 1)
        return np.where(self._ids[at] == wanted, at, -1).astype(np.int32)
