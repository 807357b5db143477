"""Bodies of requests and answers, as the OpenAPI schema has them."""

from __future__ import annotations

import datetime
import functools
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from music_map.errors import UserError
from music_map.events.event import KINDS, MOST_EVENT_ID, MOST_ID, Event, id_of
from music_map.retrieval.filters import FILTERS, Filter
from music_map.retrieval.recommender import MAX_SONGS, MOST_REASONS

# Most songs asked for; with diversity the work grows with the square.
MOST_K, MOST_DIVERSE_K = 1_000, 100
# Most entries of a history.
MOST_HISTORY = 20_000

# An id as the logs have it. Strict: true is no song.
Id = Annotated[int, Field(strict=True)] | Annotated[str, Field(strict=True, max_length=1_024)]


class HistoryEntry(BaseModel):
    """What a listener played, liked or disliked."""

    model_config = ConfigDict(extra="forbid")
    song: Id
    time: int | None = Field(None, ge=0, strict=True, description="Seconds, on the clock of the logs; null: now.")
    played: float | None = Field(None, ge=0, le=1, description="Share of the song; null: all of it.")
    kind: Literal[KINDS] = "listen"  # type: ignore[valid-type]


class RecommendRequest(BaseModel):
    """A playlist, a user, a history, or several of these."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"songs": [123, 456], "k": 10}]})
    songs: list[Id] = Field(default=[], max_length=MAX_SONGS)
    user: Id | None = None
    dislikes: list[Id] = Field(default=[], max_length=MAX_SONGS)
    ordered: bool = Field(True, strict=True)
    history: list[HistoryEntry] = Field(
        default=[],
        max_length=MOST_HISTORY,
        description="With a user: plays newer than the logs. Without: all of somebody whom the model has never seen.",
    )
    now: int | None = Field(None, ge=0, strict=True, description="Seconds; null: the end of the logs or the last play.")
    k: int = Field(10, ge=1, le=MOST_K, strict=True, description=f"At most {MOST_DIVERSE_K} with diversity.")
    reasons: int = Field(
        3,
        ge=0,
        le=MOST_REASONS,
        strict=True,
        description="Songs of the playlist, or parts of the score, that an answer names, at most.",
    )


def recommend_request() -> type[RecommendRequest]:
    """RecommendRequest with `filters`: a field for each filter of the table, in place of the service's own."""

    def field(entry: Filter) -> Any:
        rule = entry.rule
        if entry.kind == "songs":
            return list[Id] | None, Field(None, max_length=10_000, description=rule.doc)
        bounds = {"ge": rule.at_least, "gt": rule.above, "le": rule.at_most, "lt": rule.below}
        return entry.type | None, Field(None, description=rule.doc, strict=True, **bounds)

    fields = {name: field(entry) for name, entry in FILTERS.all().items()}
    filters = create_model("FilterFields", __config__=ConfigDict(extra="forbid"), **fields)
    return create_model("RecommendRequest", __base__=RecommendRequest, filters=(filters, filters()))


class SimilarRequest(BaseModel):
    """One song."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"song": 123, "k": 10}]})
    song: Id
    k: int = Field(10, ge=1, le=MOST_K, strict=True)


class SongBody(BaseModel):
    """A song that was not there at training; its sound, artists and albums place it, as far as they are known."""

    model_config = ConfigDict(extra="forbid")
    id: Id
    audio: list[Annotated[float, Field(strict=True, allow_inf_nan=False)]] | None = Field(
        None, max_length=4_096, description="As many numbers as the data set's embeddings have."
    )
    artist: Id | Annotated[list[Id], Field(max_length=100)] | None = None
    album: Id | Annotated[list[Id], Field(max_length=100)] | None = None
    name: str | None = Field(None, max_length=1_024, description="Artist - Title")


class SongsRequest(BaseModel):
    """New songs, added as a whole or not at all."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"songs": [{"id": 999, "artist": 40, "album": [7]}]}]}
    )
    songs: list[SongBody] = Field(max_length=256)


class AddedBody(BaseModel):
    """What /songs answers."""

    warnings: list[str]


# Events of a batch, and seconds that a client's clock may be fast.
MOST_EVENTS, MOST_AHEAD = 1_000, 300


def _id(value: Any, most: int) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise PydanticCustomError("id", "must be an id, a whole number or a text")
    try:
        # Python refuses to write out integers of thousands of digits.
        return id_of(value, most) if isinstance(value, str) or abs(value) < 10**20 else id_of("x" * (most + 1), most)
    except UserError as e:
        raise PydanticCustomError("id", "{text}", {"text": str(e)}) from None


def _time(value: Any) -> int:
    """Seconds since 1970 from such a number, or from a time of ISO 8601 with its zone."""
    if isinstance(value, str):
        try:
            told = datetime.datetime.fromisoformat(value)
        except ValueError:
            told = None
        if told is None or told.tzinfo is None:
            raise PydanticCustomError(
                "time", "must be seconds since 1970, or ISO 8601 with a zone: 2026-01-31T12:00:00Z"
            )
        value = told.timestamp()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 2**53:
        raise PydanticCustomError("time", "must be seconds since 1970, a finite number")
    if value < 0:
        raise PydanticCustomError("time", "lies before 1970; it must be seconds since then")
    if value > time.time() + MOST_AHEAD:
        more = "; are these milliseconds?" if value > 2**33 else ""
        raise PydanticCustomError("time", "lies in the future; it must be seconds since 1970{more}", {"more": more})
    return int(value)


class EventBody(BaseModel):
    """What a listener did."""

    model_config = ConfigDict(extra="forbid")
    id: Annotated[str, BeforeValidator(functools.partial(_id, most=MOST_EVENT_ID), json_schema_input_type=Id)] = Field(
        description=f"Of the event, made by the client, at most {MOST_EVENT_ID} characters: the same id counts once."
    )
    user: Annotated[str, BeforeValidator(functools.partial(_id, most=MOST_ID), json_schema_input_type=Id)]
    song: Annotated[str, BeforeValidator(functools.partial(_id, most=MOST_ID), json_schema_input_type=Id)]
    kind: Literal[KINDS] = "listen"
    time: Annotated[int, BeforeValidator(_time, json_schema_input_type=float | str)] = Field(
        description="Seconds since 1970, or ISO 8601 with a zone; not in the future."
    )
    played: float | None = Field(
        None, ge=0, le=1, strict=True, allow_inf_nan=False,
        description="Share of the song that was played, of a listen alone; by default all of it.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _only_listens_have_a_share(self) -> EventBody:
        if self.played is not None and self.kind != "listen":
            raise PydanticCustomError("played", "played: only a listen has a share, not a {kind}", {"kind": self.kind})
        return self

    @property
    def event(self) -> Event:
        return Event(self.id, self.user, self.song, self.kind, self.time, 1.0 if self.played is None else self.played)


class EventsRequest(BaseModel):
    """A batch of events, stored as a whole or not at all."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"events": [{"id": "a1", "user": 7, "song": 123, "kind": "listen", "time": 1790000000, "played": 0.9}]}
            ]
        },
    )
    events: list[EventBody] = Field(max_length=MOST_EVENTS)


class StoredBody(BaseModel):
    """What became of a batch: events that are new, that were there already, and that a deleted user sent before."""

    stored: int
    repeated: int
    forgotten: int


class UserBody(BaseModel):
    """What is known of a user: the model's part, the events in the store by kind, and the latest songs if asked for."""

    user: str
    in_model: bool
    events: dict[str, int]
    songs: int
    first: int | None
    last: int | None
    latest: list[Id]


class AnswerBody(BaseModel):
    """What /recommend and /similar answer."""

    class Song(BaseModel):
        """One recommended song."""

        class Reason(BaseModel):
            """A song of the query, its attention weight and its cosine with the recommended song."""

            item_id: Id
            weight: float
            similarity: float
            name: str | None

        class Part(BaseModel):
            """A part of a listener's score that speaks for the song, with its gain and in words."""

            part: str
            gain: float
            text: str
            item_id: Id | None
            artist_id: Id | None
            album_id: Id | None

        rank: int
        item_id: Id
        score: float
        artist_ids: list[Id]
        album_ids: list[Id]
        why: list[Reason]
        name: str | None
        reasons: list[Part]

    class Taste(BaseModel):
        """A taste of the playlist: its songs, and the sum of their attention weights."""

        songs: list[Id]
        weight: float

    recommendations: list[Song]
    warnings: list[str]
    tastes: list[Taste]


class Refused(BaseModel):
    """What a request that is not answered gets: one line that names the field or the id, and why."""

    detail: str
