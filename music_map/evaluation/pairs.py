"""Sets of songs per user, as compressed rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Pairs(NamedTuple):
    """Distinct (row, song) pairs; the songs of row r are items[offsets[r]:offsets[r + 1]], ascending.

    Attributes:
      offsets: int64 [R + 1].
      items: int32 [P].
    """

    offsets: np.ndarray
    items: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """Songs per row, int64 [R]."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """Row of each pair, int64 [P]."""
        return np.repeat(np.arange(self.num_rows), self.counts)

    def take(self, rows: np.ndarray) -> Pairs:
        """The given rows, in the given order."""
        counts = self.counts[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        at = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - self.offsets[rows], counts)
        return Pairs(offsets, self.items[at])


def make_pairs(rows: np.ndarray, items: np.ndarray, *, num_rows: int, num_items: int) -> Pairs:
    """Builds Pairs from pairs in any order, repeated or not.

    Args:
      rows, items: integers [P].
      num_rows, num_items: sizes; every row is there, also where it is empty.
    """
    key = np.unique(rows.astype(np.int64) * num_items + items)
    row, item = np.divmod(key, num_items)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=num_rows))])
    return Pairs(offsets, item.astype(np.int32))


def member(pairs: Pairs, rows: np.ndarray, items: np.ndarray, *, num_items: int) -> np.ndarray:
    """Whether (row, item) is in `pairs`; items below 0 are not. bool, the broadcast shape of rows and items."""
    key = pairs.rows * num_items + pairs.items
    wanted = np.asarray(rows, np.int64) * num_items + items
    if not len(key):
        return np.zeros(np.broadcast(rows, items).shape, bool)
    at = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
    return (key[at] == wanted) & (np.asarray(items) >= 0)
