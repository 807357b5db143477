"""Which column of a log means what, and how its values are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from music_map.errors import UserError, require
from music_map.raw.layout import EVENTS

TIME_UNITS = ("auto", "s", "ms", "us", "ns")
PLAYED_UNITS = ("percent", "fraction", "seconds", "milliseconds")
DURATION_UNITS = ("seconds", "milliseconds")
BAD_ROWS = ("stop", "skip")
IGNORED = "ignore"
# By the end of a file's name.
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}

# What a column of event types may hold without being told; every value is compared in lower case.
EVENT_TYPES = {
    **{name.removesuffix("s"): name for name in EVENTS},
    **{name: name for name in EVENTS},
    "play": "listens",
    "scrobble": "listens",
    "love": "likes",
    "unlove": "unlikes",
    "ban": "dislikes",
    "unban": "undislikes",
}


@dataclasses.dataclass(frozen=True)
class ColumnMapping:
    """Columns of the user's files, and their units.

    Attributes:
      user, item, time: columns of every event. Numbers and strings of time may differ from file to file.
      played: column of how much of a song was played, None: all of it, always.
      played_unit: "percent", "fraction" (1 is the whole song), "seconds" or "milliseconds" (these two need `duration`).
      duration: column of the song's length, None: unknown.
      duration_unit: "seconds" or "milliseconds".
      organic: column that is true where the user chose the song, None: always.
      type: column of the kind of event, None: each file holds one kind.
      types: values of that column to "listens", "likes", "dislikes", "unlikes", "undislikes" or "ignore".
      artist, album: columns of the song's artist and album, None: unknown.
      time_unit: "auto" (told by the first value), "s", "ms", "us", "ns".
      time_format: strptime format, None: numbers, or ISO 8601. Times without a zone are taken as UTC.
      bad_rows: "stop" at the first row that cannot be read, or "skip" and count such rows.
    """

    user: str
    item: str
    time: str
    played: str | None = None
    played_unit: str = "percent"
    duration: str | None = None
    duration_unit: str = "seconds"
    organic: str | None = None
    type: str | None = None
    types: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(EVENT_TYPES))
    artist: str | None = None
    album: str | None = None
    time_unit: str = "auto"
    time_format: str | None = None
    bad_rows: str = "stop"

    def __post_init__(self) -> None:
        for name, choices in (
            ("played_unit", PLAYED_UNITS),
            ("duration_unit", DURATION_UNITS),
            ("time_unit", TIME_UNITS),
            ("bad_rows", BAD_ROWS),
        ):
            value = getattr(self, name)
            require(value in choices, f"--{name}", value, f"one of {', '.join(choices)}")
        for name in ("user", "item", "time"):
            require(bool(getattr(self, name)), f"--{name}", getattr(self, name), "the name of a column")
        if self.played_unit in DURATION_UNITS and self.played is not None and self.duration is None:
            raise UserError(
                f"--played_unit={self.played_unit}: a share needs the songs' length; give --duration=COLUMN"
            )
        for value, kind in self.types.items():
            if kind not in EVENTS and kind != IGNORED:
                raise UserError(
                    f"--types={value}:{kind}: {kind!r} is no kind of event; choose one of "
                    f"{', '.join(EVENTS)}, {IGNORED}"
                )

    def columns(self) -> dict[str, str]:
        """The columns that are read, by the name of the flag that gives them."""
        names = ("user", "item", "time", "played", "duration", "organic", "type", "artist", "album")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
