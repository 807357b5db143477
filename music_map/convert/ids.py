"""Numbers for ids: whole numbers stay as they are, anything else is numbered, and the table is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from music_map.convert.values import is_text
from music_map.errors import UserError
from music_map.raw.reader import open_parquet

_CANONICAL = "^(0|[1-9][0-9]{0,9})$"


class Numbering:
    """Codes 0, 1, ... of the distinct ids of a column, in the order of their first appearance."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def codes(self, column: pa.Array) -> np.ndarray:
        """int64 [rows], -1 where there is no id (null or an empty string)."""
        column = pc.cast(column, pa.string())
        encoded = column.dictionary_encode()
        known = self._codes
        own = [known.setdefault(value, len(known)) if value else -1 for value in encoded.dictionary.to_pylist()]
        at = pc.fill_null(encoded.indices, len(own)).to_numpy(zero_copy_only=False)
        return np.array([*own, -1], np.int64)[at]

    def numbers(self) -> tuple[np.ndarray, bool]:
        """The final number of each code, uint32 [codes], and whether they are the ids themselves.

        Ids that are all whole numbers from 0 to 4294967295 stay. Otherwise they are numbered from 0 in the order of
        their bytes, so that the order of the rows does not matter.
        """
        ids = pa.array(list(self._codes), pa.string())
        if pc.all(pc.match_substring_regex(ids, _CANONICAL)).as_py():
            values = pc.cast(ids, pa.int64()).to_numpy(zero_copy_only=False)
            if not len(values) or values.max() < 2**32:
                return values.astype(np.uint32), True
        if len(ids) > 2**32:
            raise UserError(f"{len(ids)} different ids: at most 4294967296 can be numbered")
        numbers = np.empty(len(ids), np.uint32)
        numbers[pc.sort_indices(ids).to_numpy()] = np.arange(len(ids), dtype=np.uint32)
        return numbers, False

    def write(self, path: Path, numbers: np.ndarray) -> None:
        """Writes the table of numbers and ids, in the order of the numbers: what IdTable reads."""
        order = np.argsort(numbers)
        table = pa.table(
            {
                "number": pa.array(numbers[order], pa.uint32()),
                "id": pa.array(list(self._codes), pa.string()).take(order),
            }
        )
        pq.write_table(table, path, compression="zstd")


def check_ids(column: pa.Array, where: str) -> None:
    """Raises UserError for a type that names nothing: ids are strings or whole numbers."""
    if not (is_text(column) or pa.types.is_integer(column.type)):
        raise UserError(f"{where} is {column.type}; cast it to a string or an integer")


def no_ids(column: pa.Array) -> np.ndarray:
    """Rows without an id: null or an empty string. bool [rows]."""
    missing = pc.equal(column, "") if is_text(column) else pc.is_null(column)
    return pc.fill_null(missing, True).to_numpy(zero_copy_only=False)


@dataclasses.dataclass(frozen=True)
class IdTable:
    """A table written by `Numbering.write`.

    Attributes:
      number_of: the number of each id of the logs.
      id_of: the id of each number.
    """

    number_of: dict[str, int]
    id_of: dict[int, str]

    @classmethod
    def load(cls, path: Path) -> IdTable:
        """Reads a table. Raises UserError where the file is no such table."""
        with open_parquet(path) as file:
            if file.schema_arrow.names != ["number", "id"]:
                raise UserError(f"{path}: its columns are not number and id; give a table of launch/convert.py")
            table = file.read()
        pairs = list(zip(table["id"].to_pylist(), table["number"].to_pylist(), strict=True))
        return cls(dict(pairs), {number: own for own, number in pairs})
