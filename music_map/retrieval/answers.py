"""Queries and answers, in the ids that the logs have."""

from __future__ import annotations

import dataclasses
from typing import Any

Id = str | int


@dataclasses.dataclass(frozen=True)
class Query:
    """What to recommend for. Ids are those of the logs, numbers or texts; unknown ones may be of any type.

    Attributes:
      songs: in the order of listening, the latest last; duplicates count once, at their last place.
      user: its taste is mixed in, its dislikes are out; None: nobody.
      dislikes: songs to stay away from.
      ordered: whether the order of `songs` means something.
    """

    songs: tuple[Any, ...] = ()
    user: Any = None
    dislikes: tuple[Any, ...] = ()
    ordered: bool = True


@dataclasses.dataclass(frozen=True)
class Reason:
    """How one song of the query speaks for a recommendation.

    Attributes:
      item_id: the query's song.
      weight: its attention weight in the query.
      similarity: cosine between it and the recommended song.
    """

    item_id: Id
    weight: float
    similarity: float


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One recommended song.

    Attributes:
      rank: from 1.
      item_id: the song.
      score: what it was ranked by.
      artist_ids, album_ids: of the song.
      why: the query's songs by weight times similarity, the strongest ten first; empty for a user alone.
      name: "Artist - Title"; None where the logs did not tell.
    """

    rank: int
    item_id: Id
    score: float
    artist_ids: list[Id]
    album_ids: list[Id]
    why: list[Reason]
    name: str | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """Recommendations and what was noticed on the way (unknown songs, say)."""

    recommendations: list[Recommendation]
    warnings: list[str]
