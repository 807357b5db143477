"""The settings of preprocess, with their checks."""

from __future__ import annotations

import dataclasses
from typing import Any

from music_map.errors import UserError, require
from music_map.settings import Settings, setting
from music_map.sizes import OPEN

FORMATS = ("yambda", "text")
FILTERS = ("once", "k_core")
SPLIT_RULES = ("temporal", "global_temporal")


@dataclasses.dataclass(frozen=True)
class PreprocessSettings(Settings):
    """How logs become a data set: the configuration's `data` without the paths.

    Only train_on_val and chunk_size apply to the text format.
    """

    section = "config.data"
    format: str = setting(
        "yambda", '"yambda": Parquet logs; "text": train.txt, valid.txt, test.txt in data.path', choices=FORMATS
    )
    size: str = setting("50m", "folder of the log below flat/")
    min_interactions: int = setting(10, f"users and songs with fewer interactions are dropped; {OPEN}", at_least=0)
    filter: str = setting(
        "once",
        '"once": users and songs are counted once, before any is dropped; "k_core": repeated until nothing changes',
        choices=FILTERS,
    )
    split: str = setting(
        "temporal",
        '"temporal": shares of the events, in time order; "global_temporal": Yambda\'s 300 days, a gap, the last day',
        choices=SPLIT_RULES,
    )
    train_fraction: float = setting(0.8, "share of the events in train", above=0, below=1)
    val_fraction: float = setting(0.1, "share of the events in val; test has the rest", above=0, below=1)
    train_on_val: bool = setting(False, "the final run of a protocol: val joins train, only test is held out")
    cold_item_fraction: float = setting(
        0.0, "share of the songs held out altogether, for the protocol cold_start", at_least=0, below=1
    )
    cold_item_seed: int = setting(0, "another seed holds out other songs", at_least=0)
    # A shard of 2^27 rows takes 2 GiB of memory, which is a sensible upper bound.
    chunk_size: int = setting(1_000_000, "rows per shard", at_least=1, at_most=2**27, free=True)

    def check(self) -> None:
        good = bool(self.size) and "/" not in self.size and not self.size.startswith(".")
        require(good, "config.data.size", self.size, "the name of a folder below flat/, e.g. 50m")
        if not self.train_fraction + self.val_fraction < 1:
            raise UserError(
                f"config.data.train_fraction={self.train_fraction} and val_fraction={self.val_fraction} leave no "
                "events for test; their sum must be below 1"
            )
        if self.cold_item_fraction and self.format == "text":
            raise UserError(
                f"config.data.cold_item_fraction={self.cold_item_fraction}: the text format has no audio or metadata "
                "that could place a song without interactions; use Yambda logs, or 0"
            )

    def identity(self) -> dict[str, Any]:
        """The fields that determine the result, JSON-able; the folder's fingerprint is made from them."""
        if self.format == "text":
            return {"format": self.format, "train_on_val": self.train_on_val, "chunk_size": self.chunk_size}
        fields = dataclasses.asdict(self)
        if not self.cold_item_fraction:
            # Defaults are left out, so that fingerprints of data sets older than these fields stay valid.
            del fields["cold_item_fraction"], fields["cold_item_seed"]
        return fields
