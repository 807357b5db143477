"""What preprocess does: the data section of a configuration."""

from __future__ import annotations

import dataclasses
import difflib

from music_map.errors import UserError

FORMATS = ("yambda", "text")
FILTERS = ("once", "k_core")
SPLITTERS = ("temporal", "global_temporal")


@dataclasses.dataclass(frozen=True)
class PreprocessSettings:
    """How raw logs become a processed data set.

    Attributes:
      format: "yambda" (Parquet logs) or "text" (train.txt, valid.txt, test.txt).
      size: name of the folder under raw_dir/flat.
      min_interactions: rows that a user and a song need to stay.
      filter: "once": users and songs are both counted over all rows before any is dropped; "k_core": repeated until
        nothing changes.
      split: "temporal": by time into train_fraction, val_fraction and the rest; "global_temporal": the last day is
        test, the day before it validation, each after a gap of 30 minutes (the Yambda benchmark's).
      train_fraction, val_fraction: shares of the rows; the rest is test.
      train_on_val: validation rows (and what lies in the gap before them) join train, and the val split is empty.
      chunk_size: rows per shard.
    """

    format: str
    size: str
    min_interactions: int
    filter: str
    split: str
    train_fraction: float
    val_fraction: float
    train_on_val: bool
    chunk_size: int

    def __post_init__(self) -> None:
        for field, choices in (("format", FORMATS), ("filter", FILTERS), ("split", SPLITTERS)):
            value = getattr(self, field)
            if value not in choices:
                near = difflib.get_close_matches(value, choices, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UserError(f"config.data.{field}={value!r}: must be one of {', '.join(choices)}{hint}")
        checks = [
            ("min_interactions", self.min_interactions >= 1, "at least 1"),
            ("chunk_size", self.chunk_size >= 1, "at least 1"),
            ("train_fraction", 0 < self.train_fraction < 1, "between 0 and 1"),
            ("val_fraction", 0 < self.val_fraction < 1 - self.train_fraction, "above 0 and leave a share for test"),
        ]
        for field, good, rule in checks:
            if not good:
                raise UserError(f"config.data.{field}={getattr(self, field)}: must be {rule}")
