"""Values of a log's columns as numbers: each function gives them with the rows that hold none.

Columns are strings (text formats) or whatever type Parquet has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Seconds of the year 5138 are milliseconds of 1973: between the units lie three powers of ten.
_UNITS = (("s", 1e11, 1), ("ms", 1e14, 10**3), ("us", 1e17, 10**6), ("ns", np.inf, 10**9))
_PER_SECOND = {name: factor for name, _, factor in _UNITS}
_NUMBER = r"^[+-]?[0-9]{1,19}(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?$"
_WHOLE = r"^[0-9]{1,19}$"
_ZONE = r"[Zz]$|:.*[+-][0-9]{2}(:?[0-9]{2})?$"
_YES, _NO = ("1", "true", "t", "yes", "y"), ("0", "false", "f", "no", "n")


class Values(NamedTuple):
    """A column's values, and what is wrong with the rows that have none.

    Attributes:
      values: one a row; of no meaning where `bad`.
      bad: bool [rows].
      rule: what a good value is.
    """

    values: np.ndarray
    bad: np.ndarray
    rule: str


def _mask(column: pa.Array) -> np.ndarray:
    """A boolean column as NumPy, null as False."""
    return pc.fill_null(column, False).to_numpy(zero_copy_only=False)


def _nulls(column: pa.Array) -> np.ndarray:
    return column.is_null().to_numpy(zero_copy_only=False)


def is_text(column: pa.Array) -> bool:
    """Whether a column holds strings."""
    return pa.types.is_string(column.type) or pa.types.is_large_string(column.type)


def numbers(column: pa.Array, rule: str = "a number of at least 0") -> Values:
    """float64 [rows]; bad: null, no number, negative, NaN or infinite."""
    if is_text(column):
        good = pc.match_substring_regex(column, _NUMBER)
        column = pc.cast(pc.if_else(good, column, None), pa.float64())
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return Values(np.zeros(len(column)), np.ones(len(column), bool), f"{rule}, not {column.type}")
    values = pc.fill_null(pc.cast(column, pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
    bad = ~(np.isfinite(values) & (values >= 0))
    return Values(np.where(bad, 0.0, values), bad, rule)


def flags(column: pa.Array) -> Values:
    """uint8 [rows], 1 or 0, from booleans, 0 and 1, or words such as true, yes, f."""
    rule = "one of 1, true, yes, 0, false, no"
    if pa.types.is_boolean(column.type) or pa.types.is_integer(column.type):
        column = pc.cast(column, pa.string())
    if not is_text(column):
        return Values(np.zeros(len(column), np.uint8), np.ones(len(column), bool), f"{rule}, not {column.type}")
    text = pc.cast(pc.utf8_lower(column), pa.string())
    yes, no = (_mask(pc.is_in(text, pa.array(words))) for words in (_YES, _NO))
    return Values(yes.astype(np.uint8), ~(yes | no), rule)


def kinds(column: pa.Array, known: Mapping[str, int]) -> Values:
    """int8 [rows], the number of each row's word; bad: a word that is not known (compared in lower case)."""
    rule = f"one of {', '.join(known)} (--types=VALUE:KIND adds others)"
    if not is_text(column):
        column = pc.cast(column, pa.string())
    encoded = column.dictionary_encode()
    words = [None if word is None else known.get(word.lower()) for word in encoded.dictionary.to_pylist()]
    numbers_of = np.array([-1 if n is None else n for n in words] + [-1], np.int8)
    at = pc.fill_null(encoded.indices, len(words)).to_numpy(zero_copy_only=False)
    values = numbers_of[at]
    return Values(values, values < 0, rule)


@dataclasses.dataclass
class Times:
    """Reads times as whole seconds; with unit "auto" the first value tells the unit of all.

    Attributes:
      unit: "auto", "s", "ms", "us" or "ns", of numbers.
      time_format: strptime format of strings, None: numbers or ISO 8601.
    """

    unit: str = "auto"
    time_format: str | None = None
    _told: str | None = dataclasses.field(default=None, init=False)

    def read(self, column: pa.Array) -> Values:
        """int64 [rows], seconds since 1970 (or since whatever moment numbers count from), 0 to 2^32 - 1."""
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            return _dated(column)
        if is_text(column) and self.time_format is not None:
            told = pc.strptime(column, format=self.time_format, unit="s", error_is_null=True)
            return _dated(told, f"a time written as {self.time_format}")
        if self._told is None:
            self._told = self.unit if self.unit != "auto" else self._tell(column)
        if self._told == "iso":
            return _dated(_iso(column), "a time such as 2026-05-01T12:00:00Z")
        return self._numeric(column)

    def _tell(self, column: pa.Array) -> str | None:
        """The unit that the first value tells, "iso" for one that is no number; None where there is no value."""
        first = next((value for value in column.drop_null()), None)
        if first is None:
            return None
        if is_text(column) and not pc.match_substring_regex(first, _NUMBER).as_py():
            return "iso"
        return next(name for name, below, _ in _UNITS if float(first.as_py()) < below)

    def _numeric(self, column: pa.Array) -> Values:
        if self._told is None:  # nothing but nulls so far
            return Values(np.zeros(len(column), np.int64), np.ones(len(column), bool), "a time")
        told = numbers(column)
        seconds = self._whole(column, told.values)
        bad = told.bad | (seconds >= 2**32)
        rule = f"a time in {self._told} (give --time_unit where that is wrong) before the year 2106"
        if self.unit == "auto":
            # A value in another unit would lie decades away.
            names = [name for name, _, _ in _UNITS]
            at = names.index(self._told)
            bad |= told.values < (_UNITS[at - 1][1] if at else 0.0)
            rule = f"a time in {self._told}, as the first row is (--time_unit), before the year 2106"
        return Values(np.where(bad, 0, seconds), bad, rule)

    def _whole(self, column: pa.Array, values: np.ndarray) -> np.ndarray:
        factor = _PER_SECOND[self._told]
        # Beyond 2^53 a double does not hold every whole number: nanoseconds are divided as integers.
        if is_text(column) and _mask(pc.match_substring_regex(column, _WHOLE)).all():
            column = pc.cast(column, pa.uint64())
        if pa.types.is_integer(column.type) and not column.null_count:
            whole = column.to_numpy(zero_copy_only=False)
            return np.minimum(np.maximum(whole, 0) // factor, 2**32).astype(np.int64)
        return np.minimum(values / factor, 2.0**32).astype(np.int64)


def _dated(column: pa.Array, rule: str = "a time from 1970 to 2106") -> Values:
    if pa.types.is_date(column.type):
        column = pc.cast(column, pa.timestamp("s"), safe=False)
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
    missing = _nulls(column)
    seconds = pc.fill_null(pc.cast(column, pa.int64()), 0).to_numpy(zero_copy_only=False) // per_second
    outside = (seconds < 0) | (seconds >= 2**32)
    return Values(np.where(outside, 0, seconds), missing | outside, rule)


def _iso(column: pa.Array) -> pa.Array:
    """ISO 8601 strings as timestamps in UTC, null where they are none."""
    column = pc.cast(column, pa.string())
    zoned = pc.fill_null(pc.match_substring_regex(column, _ZONE), False)
    naive = _cast_or_null(pc.if_else(zoned, None, column), pa.timestamp("ns"))
    aware = _cast_or_null(pc.if_else(zoned, column, None), pa.timestamp("ns", "UTC"))
    return pc.coalesce(naive, pc.cast(aware, pa.timestamp("ns")))


def _cast_or_null(column: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return pc.cast(column, kind)
    except pa.ArrowInvalid:
        if len(column) == 1:
            return pa.nulls(1, kind)
    # Halves: the few bad values among many are found in a few steps each.
    half = len(column) // 2
    return pa.concat_arrays([_cast_or_null(column[:half], kind), _cast_or_null(column[half:], kind)])
