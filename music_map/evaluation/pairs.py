"""Sets of songs by user, as compressed sparse rows: targets, masks and histories."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from music_map.rows import distinct, offsets_of, row_of_each, select


class Pairs(NamedTuple):
    """Distinct (row, item) pairs; row r owns items[offsets[r]:offsets[r + 1]], ascending.

    Rows {7, 3}, {} and {5} are offsets [0, 2, 2, 3], items [3, 7, 5].

    Attributes:
      offsets: int64 [R + 1], from 0 to P.
      items: int32 [P], item indices, ascending within a row.
    """

    offsets: np.ndarray
    items: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, items: np.ndarray, *, num_rows: int, num_items: int) -> Pairs:
        """Collects pairs given in any order, duplicates allowed.

        Args:
          rows: integers [N] in [0, num_rows).
          items: integers [N] in [0, num_items).
          num_rows: number of rows, those without a pair included.
          num_items: number of items.
        """
        keys = distinct(np.asarray(rows, np.int64) * num_items + np.asarray(items, np.int64))
        offsets = np.searchsorted(keys, np.arange(num_rows + 1) * np.int64(num_items)).astype(np.int64)
        return cls(offsets, (keys % num_items).astype(np.int32))

    @property
    def num_rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Number of items of each row, int64 [R]."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """The row of each pair, int64 [P], ascending."""
        return row_of_each(self.offsets)

    def select(self, rows: np.ndarray) -> Pairs:
        """The given rows, in the given order (a row may be given twice), as rows 0, 1, ... of new pairs."""
        offsets, at = select(self.offsets, rows)
        return Pairs(offsets, self.items[at])

    def contains(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether each (row, item) is among the pairs; a negative item never is.

        Args:
          rows: integers in [0, R).
          items: integers, of a shape that broadcasts with `rows`.

        Returns:
          bool, of the common shape.
        """
        rows, items = np.broadcast_arrays(np.asarray(rows, np.int64), np.asarray(items, np.int64))
        if len(self.items) == 0:
            return np.zeros(rows.shape, bool)
        # One ascending key per pair; `width` exceeds every item of both, so keys of different rows differ.
        width = 1 + max(int(self.items.max()), int(items.max(initial=0)))
        keys = self.rows * width + self.items
        wanted = rows * width + items
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return (keys[at] == wanted) & (items >= 0)

    def minus(self, other: Pairs) -> Pairs:
        """The pairs that `other`, with as many rows, does not hold."""
        keep = ~other.contains(self.rows, self.items)
        sizes = np.bincount(self.rows[keep], minlength=self.num_rows)
        return Pairs(offsets_of(sizes), self.items[keep])
