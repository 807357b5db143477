"""Queries and answers, in the ids that the logs have."""

from __future__ import annotations

import dataclasses
from typing import Any

from music_map.text import html_table, shortened

Id = str | int


@dataclasses.dataclass(frozen=True)
class Query:
    """A question for recommendations. Ids are those of the logs, numbers or texts; unknown ones may be of any type.

    Attributes:
      songs: in the order of listening, the latest last; duplicates count once, at their last place.
      user: its taste is mixed in, its dislikes are left out; None: no user.
      dislikes: songs to stay away from.
      ordered: whether the order of `songs` means something.
      history: what the listener played, see `music_map.retrieval.plays.Play`: with a user, events newer than the logs;
        without, all that is known of somebody whom the model has never seen.
      now: seconds; None: the end of the logs, or the latest time in `history` if that is later.
    """

    songs: tuple[Any, ...] = ()
    user: Any = None
    dislikes: tuple[Any, ...] = ()
    ordered: bool = True
    history: tuple[Any, ...] = ()
    now: int | None = None


@dataclasses.dataclass(frozen=True)
class Reason:
    """The contribution of one song of the query to a recommendation.

    Attributes:
      item_id: the query's song.
      weight: its attention weight in the query.
      similarity: cosine between it and the recommended song.
      name: "Artist - Title" of the query's song; None if the logs have no names.
    """

    item_id: Id
    weight: float
    similarity: float
    name: str | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a listener's score that speaks for a recommendation; see `music_map.retrieval.reasons`.

    Attributes:
      part: "played before", "latest songs", "artists", "albums", "users" (with the same listeners), "trend" or
        "embedding".
      gain: what it adds to the score beyond what it adds to a random song; without a recency head, the score.
      text: in words.
      item_id, artist_id, album_id: the song, artist or album that the words name; None: none.
    """

    part: str
    gain: float
    text: str
    item_id: Id | None = None
    artist_id: Id | None = None
    album_id: Id | None = None


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One recommended song.

    Attributes:
      rank: from 1.
      item_id: the song.
      score: by which it is ranked.
      artist_ids, album_ids: of the song.
      why: the query's songs by weight times similarity, the strongest ten first; empty for a user alone.
      name: "Artist - Title"; None if the logs have no names.
      reasons: for a listener alone: the parts of the score by gain, the strongest first; empty for a playlist.
    """

    rank: int
    item_id: Id
    score: float
    artist_ids: list[Id]
    album_ids: list[Id]
    why: list[Reason]
    name: str | None = None
    reasons: list[Part] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Taste:
    """A taste of a playlist, see `music_map.playlist.tastes`.

    Attributes:
      songs: of the playlist, in its order.
      weight: the sum of their attention weights.
    """

    songs: list[Id]
    weight: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """Recommendations, warnings such as unknown songs, and the tastes of the playlist."""

    recommendations: list[Recommendation]
    warnings: list[str]
    tastes: list[Taste] = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        songs = [shortened(str(r.item_id), 40) for r in self.recommendations]
        width = max([10, *map(len, songs)])
        named = any(r.name for r in self.recommendations)
        # Where songs have no id but their names, one column says both.
        same = named and all(r.name in (None, str(r.item_id)) for r in self.recommendations)
        about = "" if same else f"{'name':<40} " if named else f"{'artists':<20} {'albums':<20} "
        lines = [f"{'rank':>4} {'item_id':>{width}} {'score':>7}  {about}{self._why}"]
        for r, song in zip(self.recommendations, songs, strict=True):
            artists, albums = (shortened(" ".join(map(str, ids[:3])), 20) for ids in (r.artist_ids, r.album_ids))
            about = f"{shortened(r.name or '', 40):<40} " if named else f"{artists:<20} {albums:<20} "
            lines.append(f"{r.rank:>4} {song:>{width}} {r.score:>7.4f}  {'' if same else about}{_reasons(r)}")
        return "\n".join(lines)

    @property
    def _why(self) -> str:
        return "why" if any(r.reasons for r in self.recommendations) else "why (song: weight x similarity)"

    def _repr_html_(self) -> str:
        rows = [
            (f"{r.rank}", shortened(str(r.item_id), 40), shortened(r.name or "", 60), f"{r.score:.4f}", _reasons(r))
            for r in self.recommendations
        ]
        notes = [("warning", text, "", "", "") for text in self.warnings]
        return html_table(("rank", "song", "name", "score", self._why), rows + notes)


def _reasons(song: Recommendation) -> str:
    """The strongest reasons of a recommendation: two parts in words, or three songs."""
    if song.reasons:
        return "; ".join(shortened(reason.text, 60) for reason in song.reasons[:2])
    return ", ".join(
        f"{shortened(x.name or str(x.item_id), 40)}: {x.weight:.2f} x {x.similarity:.2f}" for x in song.why[:3]
    )
