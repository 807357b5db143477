"""Which column of a log means what, and how its values are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from music_map.errors import UserError, require
from music_map.raw.layout import EVENTS

TIME_UNITS = ("auto", "s", "ms", "us", "ns", "excel")
PLAYED_UNITS = ("percent", "fraction", "stars", "seconds", "milliseconds")
DURATION_UNITS = ("seconds", "milliseconds")
BAD_ROWS = ("stop", "skip")
IGNORED = "ignore"
# Seconds that a sitting or a playlist lasts in the logs, whatever its length: the place in it is what counts, and the
# split by time holds the last part of each out. Shorter than the pause that ends a session.
SPAN = 1000
SONGS = "songs"  # files that describe songs, and hold no event

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
# Ids that name nobody and nothing, as spreadsheets, databases, pandas and Python write a missing value.
MISSING = ("NULL", "null", "\\N", "NaN", "nan", "None", "<NA>", "NaT", "#N/A")
ROLES = (
    "user", "item", "time", "played", "duration", "organic", "type", "artist", "album", "title", "artist_name",
    "album_name", "genre",
)  # fmt: skip
# Roles of files that hold one kind of event (likes, ...), and of files that describe songs.
MARK_ROLES, SONG_ROLES = (
    ("user", "item", "time"),
    ("item", "artist", "album", "title", "artist_name", "album_name", "genre"),
)


@dataclasses.dataclass(frozen=True)
class ColumnMapping:
    """Columns of the user's files, and their units.

    A column may lie inside another: "track_metadata.track_name". The item, the artist and the album may be made of
    several columns, joined by " - ": "artist,title".

    Attributes:
      user: column of the user, None: every event is of `user_value`.
      item: column of the song.
      time: column of the time; its form may differ from file to file. None: there are no times. Each user's events then
        come in an order that is random, but the same in every conversion; an event's time is its place in it.
      user_value: the user of a log without a column of users.
      played: column of how much of a song was played, None: all of it, always.
      played_unit: "percent", "fraction" (1 is the whole song), "stars" (5 is), "seconds" or "milliseconds".
      played_threshold: seconds that count as the whole song where `played` is a time and there is no `duration`: this
        long or longer is 100 %, less is 0 %.
      duration: column of the song's length, None: unknown.
      duration_unit: "seconds" or "milliseconds".
      organic: column that is true where the user chose the song, None: always.
      type: column of the kind of event, None: each file holds one kind.
      types: values of that column to "listens", "likes", "dislikes", "unlikes", "undislikes" or "ignore".
      artist, album: columns of the song's artist and album, None: their names, where those are given, else unknown.
      title, artist_name, album_name: columns of the names, None: unknown.
      genre: column of the song's genre, None: unknown.
      time_unit: unit of times that are numbers: "auto" (told by all values of the file), "s", "ms", "us", "ns", or
        "excel" (days since 30 December 1899).
      time_format: strptime format, None: numbers, or ISO 8601.
      time_zone: IANA name of the zone of times without one.
      missing: ids that mean that there is none.
      optional: columns that a file may lack.
      sittings: minutes of pause that end a sitting; each sitting then counts as a user, and an event's time is its
        place in the sitting. None: users are users, times are times.
      bad_rows: "stop" at the first row that cannot be read, or "skip" and count such rows.
    """

    user: str | None
    item: str
    time: str | None
    user_value: str = "me"
    played: str | None = None
    played_unit: str = "percent"
    played_threshold: float | None = None
    duration: str | None = None
    duration_unit: str = "seconds"
    organic: str | None = None
    type: str | None = None
    types: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(EVENT_TYPES))
    artist: str | None = None
    album: str | None = None
    title: str | None = None
    artist_name: str | None = None
    album_name: str | None = None
    genre: str | None = None
    time_unit: str = "auto"
    time_format: str | None = None
    time_zone: str = "UTC"
    missing: tuple[str, ...] = MISSING
    optional: tuple[str, ...] = ()
    sittings: float | None = None
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
        for name in ("item", "time"):
            good = bool(getattr(self, name)) or (name == "time" and self.time is None)
            require(good, f"--{name}", getattr(self, name), "the name of a column")
        if self.time is None and self.sittings is not None:
            raise UserError(f"--sittings={self.sittings:g}: a sitting ends with a pause, and this log has no times")
        if not self.user and not self.user_value:
            raise UserError("--user: needs the column of the user, or --user_value=NAME where all events are of one")
        seconds = self.played_threshold
        require(seconds is None or 0 < seconds < 86400, "--played_threshold", seconds, "seconds, above 0")
        if self.played_unit in DURATION_UNITS and self.played is not None and self.duration is None and seconds is None:
            raise UserError(
                f"--played_unit={self.played_unit}: a share needs the songs' length; give --duration=COLUMN, or "
                "--played_threshold=30, the seconds that count as a whole song"
            )
        pause = self.sittings
        require(pause is None or 0 < pause <= 1440, "--sittings", pause, "minutes, above 0 and at most 1440")
        for value, kind in self.types.items():
            if kind not in EVENTS and kind != IGNORED:
                raise UserError(
                    f"--types={value}:{kind}: {kind!r} is no kind of event; choose one of "
                    f"{', '.join(EVENTS)}, {IGNORED}"
                )

    def columns(self, kind: str = "listens") -> dict[str, list[str]]:
        """The columns to read of a file, by role, the name of the flag that gives them.

        Args:
          kind: what the file holds: a kind of event, or "songs".
        """
        roles = ROLES if kind == "listens" else SONG_ROLES if kind == "songs" else MARK_ROLES
        found = {}
        for role in roles:
            if value := getattr(self, role) or self._known_by_name(role):
                found[role] = value.split(",") if role in ("item", "artist", "album") else [value]
        return found

    def _known_by_name(self, role: str) -> str | None:
        """The columns that stand for the id of an artist or album where none is given; albums need their artist's."""
        if role == "artist":
            return self.artist_name
        return (
            ",".join(filter(None, (self.artist_name, self.album_name))) if role == "album" and self.album_name else None
        )
