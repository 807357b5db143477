"""What preprocess can be told, checked."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from music_map.errors import UserError, require

FORMATS = ("yambda", "text")
FILTERS = ("once", "k_core")
SPLIT_RULES = ("temporal", "global_temporal")
# A shard of 2^27 rows fills 2 GiB in memory; more than that is no chunk.
_MOST = {"min_interactions": 2**31, "chunk_size": 2**27}


@dataclasses.dataclass(frozen=True)
class PreprocessSettings:
    """How logs become a data set; the names are those of the configuration's `data`.

    Attributes:
      format: "yambda" (Parquet logs) or "text" (train.txt, valid.txt, test.txt; of the fields below only
        train_on_val and chunk_size apply to it).
      size: folder of the log below flat/, e.g. "50m".
      min_interactions: users and songs with fewer interactions are dropped.
      filter: "once" counts both over all rows before anything is dropped; "k_core" repeats until nothing changes.
      split: "temporal" (shares of the events, by time) or "global_temporal" (last day, gaps of 30 minutes).
      train_fraction, val_fraction: shares of the events in train and val; test has the rest.
      train_on_val: val joins train, only test is held out.
      cold_item_fraction: share of the songs held out altogether, to measure cold start; see music_map.preprocess.cold.
      cold_item_seed: another seed holds out other songs.
      chunk_size: rows per shard.
    """

    format: str = "yambda"
    size: str = "50m"
    min_interactions: int = 10
    filter: str = "once"
    split: str = "temporal"
    train_fraction: float = 0.8
    val_fraction: float = 0.1
    train_on_val: bool = False
    cold_item_fraction: float = 0.0
    cold_item_seed: int = 0
    chunk_size: int = 1_000_000

    def __post_init__(self) -> None:
        for name, choices in (("format", FORMATS), ("filter", FILTERS), ("split", SPLIT_RULES)):
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"config.data.{name}={value!r}: choose one of {', '.join(choices)}")
        for name in ("min_interactions", "chunk_size"):
            if not 1 <= getattr(self, name) <= _MOST[name]:
                raise UserError(f"config.data.{name}={getattr(self, name)}: must be from 1 to {_MOST[name]:,}")
        if not self.size or "/" in self.size or self.size.startswith("."):
            raise UserError(f"config.data.size={self.size!r}: must name a folder below flat/, e.g. 50m")
        for name in ("train_fraction", "val_fraction"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 < value < 1):
                raise UserError(f"config.data.{name}={value}: must be between 0 and 1")
        if not self.train_fraction + self.val_fraction < 1:
            raise UserError(
                f"config.data.train_fraction={self.train_fraction} and val_fraction={self.val_fraction} leave no "
                "events for test; their sum must be below 1"
            )
        fraction = self.cold_item_fraction
        require(0 <= fraction < 1, "config.data.cold_item_fraction", fraction, "at least 0 and below 1")
        require(self.cold_item_seed >= 0, "config.data.cold_item_seed", self.cold_item_seed, "at least 0")
        if fraction and self.format == "text":
            raise UserError(
                f"config.data.cold_item_fraction={fraction}: the text format has no audio or metadata that could place "
                "a song without interactions; use Yambda logs, or 0"
            )

    def identity(self) -> dict[str, Any]:
        """The fields that shape the result, JSON-able: what the folder's fingerprint is made from."""
        if self.format == "text":
            return {"format": self.format, "train_on_val": self.train_on_val, "chunk_size": self.chunk_size}
        fields = dataclasses.asdict(self)
        if not self.cold_item_fraction:
            # As before there was such a thing: data sets made then stay valid.
            del fields["cold_item_fraction"], fields["cold_item_seed"]
        return fields
