"""Counting and looking up original ids, in memory that follows the number of ids, not of events."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from music_map.ids import index_of

# Values up to this limit are counted in a table with a slot of 4 bytes for each possible value: at most 512 MiB, for
# ids up to 134 million. Yambda's song ids (below 10 million) and timestamps (26 million, in steps of 5) take 40 and
# 21 MiB.
_DENSE_VALUES = 1 << 27
# Ids up to this limit are looked up in a bit map, with 2 bits for each possible id: 128 MiB.
_MAPPED_IDS = 1 << 29
# Without a table, new values are collected and merged when there are this many, or as many as known values.
_WAITING_VALUES = 1 << 21


class Counts(NamedTuple):
    """How often each value came.

    Attributes:
      values: int64 [V], ascending and distinct.
      counts: int64 [V], at least 1.
    """

    values: np.ndarray
    counts: np.ndarray

    @property
    def total(self) -> int:
        return int(self.counts.sum())


class Counter:
    """Counts unsigned 32-bit values that come batch by batch.

    While values lie close together, they index a table; otherwise sorted distinct values are merged. If all values
    differ by multiples of a step, as timestamps often do, the table has one slot per step. For steps of 5 seconds that
    is a fifth of the size, which fits a processor's cache.
    """

    def __init__(self, *, dense_values: int = _DENSE_VALUES):
        self._dense_values = dense_values
        self._table: np.ndarray | None = np.zeros(0, np.uint32)
        self._base, self._step = 0, 0
        self._known = Counts(np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._waiting: list[Counts] = []
        self._total = 0

    @property
    def is_dense(self) -> bool:
        """Whether `seen` can be called."""
        return self._table is not None

    def add(self, values: np.ndarray, times: np.ndarray | None = None) -> None:
        """Counts every element of `values`, integers [n], once, or as often as `times` [n] says."""
        if len(values) == 0:
            return
        self._total += len(values) if times is None else int(times.sum())
        slots = self._slots(values)
        if slots is None:
            self._waiting.append(_count(values, times))
            if sum(len(w.values) for w in self._waiting) > max(_WAITING_VALUES, len(self._known.values)):
                self._merge()
            return
        # An array of ones: a scalar would be cast for every element.
        np.add.at(self._table, slots, np.ones(len(values), np.uint32) if times is None else times.astype(np.uint32))

    def seen(self, values: np.ndarray) -> np.ndarray:
        """How often each of `values` came so far: uint32 [n]. All must have been added; needs `is_dense`."""
        slots = values.astype(np.int64)
        slots -= self._base
        return self._table.take(slots if self._step == 1 else slots // self._step, mode="clip")

    def result(self) -> Counts:
        """The distinct values and how often each came."""
        if self._table is not None:
            found = self._found()
        else:
            self._merge()
            found = self._known
        if found.total != self._total:
            raise OverflowError("a value occurs more than 4,294,967,295 times; a slot of the table holds 32 bits")
        return found

    def _slots(self, values: np.ndarray) -> np.ndarray | None:
        """The slots of values, int64 [n], in a table enlarged to hold them; None if there is no table any more."""
        if self._table is None:
            return None
        low, high = int(values.min()), int(values.max())
        if not self._step:
            self._base = low
            # The step is guessed from a few thousand values; the code below notices a wrong guess, now or later.
            self._step = int(np.gcd.reduce(values[:4096].astype(np.int64) - low)) or 1
        offsets = values.astype(np.int64)
        offsets -= self._base
        slots = offsets if self._step == 1 else offsets // self._step
        if self._step > 1 and (slots * self._step != offsets).any():
            slots = offsets
            self._widen()
        if self._table is None:
            return None
        first, size = self._reach((low - self._base) // self._step, (high - self._base) // self._step)
        if size > self._dense_values:
            self._give_up()
            return None
        if first:
            slots -= first
        return slots

    def _reach(self, low: int, high: int) -> tuple[int, int]:
        """Enlarges the table to hold slots from `low` (negative: before its start) to `high`.

        Returns: how far the start moved (0 or below), and the needed size. If that exceeds dense_values, the table is
        not enlarged.
        """
        size = len(self._table)
        first, end = min(low, 0), max(high + 1, size)
        if end - first > self._dense_values or (first == 0 and end == size):
            return 0, end - first
        # At least double the size, in the needed direction: the total of copies stays linear in the final size.
        spare = max(0, min(2 * size, self._dense_values) - (end - first))
        if first < 0:
            # No value is below 0.
            first = max(first - spare, -(self._base // self._step))
        else:
            end += spare
        grown = np.zeros(end - first, np.uint32)
        grown[-first : size - first] = self._table
        self._table = grown
        self._base += first * self._step
        return first, end - first

    def _widen(self) -> None:
        """Gives every value a slot of its own, after the guessed step proved wrong."""
        if len(self._table) * self._step > self._dense_values:
            self._give_up()
            return
        table = np.zeros(len(self._table) * self._step, np.uint32)
        table[:: self._step] = self._table
        self._table, self._step = table, 1

    def _give_up(self) -> None:
        self._known, self._table = self._found(), None

    def _found(self) -> Counts:
        at = np.flatnonzero(self._table != 0)
        return Counts(at * self._step + self._base, self._table[at].astype(np.int64))

    def _merge(self) -> None:
        self._known = merge_counts([self._known, *self._waiting])
        self._waiting = []


def _count(values: np.ndarray, times: np.ndarray | None) -> Counts:
    if times is None:
        return Counts(*(column.astype(np.int64) for column in np.unique(values, return_counts=True)))
    return merge_counts([Counts(values, times)])


def merge_counts(counts: list[Counts]) -> Counts:
    """The sum of several counts."""
    values, at = np.unique(np.concatenate([c.values for c in counts]), return_inverse=True)
    # Exact in float64 up to 2^53.
    summed = np.bincount(at, np.concatenate([c.counts for c in counts]), len(values))
    return Counts(values.astype(np.int64), summed.astype(np.int64))


class IdIndex:
    """Original ids -> positions.

    A bit map of the ids and, for every word of 32 bits, the number of ids before it. An id's position is that number
    plus the number of bits below its own. For song ids up to 22 million this takes 5.5 MiB, which fits a processor's
    cache; a table of positions would take 88 MiB.

    Args:
      ids: uint32 [N], ascending and distinct.
    """

    def __init__(self, ids: np.ndarray, *, mapped_ids: int = _MAPPED_IDS):
        self.ids = ids
        self._words: np.ndarray | None = None
        if len(ids) and int(ids[-1]) < mapped_ids:
            # The last word has no bit and stands for all ids beyond the map.
            words, counts = np.unique(ids >> 5, return_counts=True)
            starts = np.concatenate([[0], np.cumsum(counts)])
            self._words = np.zeros(int(words[-1]) + 2, np.uint32)
            self._words[words] = np.bitwise_or.reduceat(np.uint32(1) << (ids & np.uint32(31)), starts[:-1])
            # Minus one, because the count of bits includes the id's own bit.
            self._before = np.zeros(len(self._words), np.int32)
            self._before[words] = starts[:-1] - 1

    def __len__(self) -> int:
        return len(self.ids)

    def lookup(self, wanted: np.ndarray) -> np.ndarray:
        """Positions int32 [n] of the ids `wanted`, uint32 [n]; -1 for unknown ids."""
        if self._words is None:
            return index_of(self.ids, wanted).astype(np.int32)
        at = (wanted >> 5).astype(np.int64)
        # The shift makes the id's own bit the highest and removes the bits above it.
        bits = self._words.take(at, mode="clip") << (~wanted & np.uint32(31))
        found = self._before.take(at, mode="clip") + np.bitwise_count(bits)
        found[bits < np.uint32(1 << 31)] = -1
        return found
