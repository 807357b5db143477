"""The tables of the logs' own ids that a conversion writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from music_map.errors import UserError
from music_map.raw.reader import open_parquet


@dataclasses.dataclass(frozen=True)
class IdTable:
    """A table of numbers and ids.

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
            if file.schema_arrow.names[:2] != ["number", "id"]:
                raise UserError(f"{path}: its columns are not number and id; give a table of launch/convert.py")
            table = file.read(["number", "id"])
        pairs = list(zip(table["id"].to_pylist(), table["number"].to_pylist(), strict=True))
        return cls(dict(pairs), {number: own for own, number in pairs})
