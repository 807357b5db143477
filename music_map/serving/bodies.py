"""Bodies of requests and answers, as the OpenAPI schema has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from music_map.retrieval.filters import FILTERS, Filter
from music_map.retrieval.plays import KINDS
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

    recommendations: list[Song]
    warnings: list[str]


class Refused(BaseModel):
    """What a request that is not answered gets: one line that names the field or the id, and why."""

    detail: str
