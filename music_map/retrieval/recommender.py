"""Recommendations for one song, a playlist or a user, with the reasons."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from music_map.errors import UserError
from music_map.preprocess.dataset import index_of
from music_map.retrieval.export import Export
from music_map.retrieval.index import build_index, search_allowed
from music_map.retrieval.playlist import attend


@dataclasses.dataclass(frozen=True)
class Reason:
    """How one song of the query speaks for a recommendation.

    Attributes:
      item_id: the query's song.
      weight: its attention weight in the query.
      similarity: cosine between it and the recommended song.
    """

    item_id: int
    weight: float
    similarity: float


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One recommended song; `why` has the query's songs by weight times similarity, the strongest first."""

    rank: int
    item_id: int
    score: float
    artist_ids: list[int]
    album_ids: list[int]
    why: list[Reason]


@dataclasses.dataclass(frozen=True)
class Answer:
    """Recommendations and what was noticed on the way (unknown songs, say)."""

    recommendations: list[Recommendation]
    warnings: list[str]


def _unit_rows(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return (x / np.where(norm > 0, norm, 1.0)).astype(np.float32)


def _unknown(kind: str, wanted: Sequence[int], known: np.ndarray) -> str:
    """One line that names ids which the model does not have."""
    named = ", ".join(map(str, wanted[:10])) + (", ..." if len(wanted) > 10 else "")
    plural = "s" if len(wanted) > 1 else ""
    return f"unknown {kind}{plural} {named}: not in the logs, or with too few interactions; ids are like {known[0]}"


class Recommender:
    """Answers queries over an Export.

    Args:
      export: embeddings and ids.
      index: backend, see `music_map.retrieval.index.build_index`.
      attention_temperature: see `music_map.retrieval.playlist.attend`.
    """

    def __init__(self, export: Export, *, index: str, attention_temperature: float):
        if attention_temperature <= 0:
            raise UserError(f"config.retrieval.attention_temperature={attention_temperature}: must be above 0")
        self.export = export
        self._temperature = attention_temperature
        # Cosine for songs: what makes a song similar is its direction, its length is popularity.
        self._songs = _unit_rows(export.item_embeddings)
        self._index = build_index(self._songs, backend=index)

    def recommend(
        self,
        *,
        songs: Sequence[int] = (),
        user: int | None = None,
        k: int = 10,
        exclude: Sequence[int] | np.ndarray = (),
        user_share: float = 0.3,
        user_scores: np.ndarray | None = None,
    ) -> Answer:
        """The k songs most similar to a playlist, to a user, or to both.

        Args:
          songs: original song ids; duplicates count once, unknown ids are named in the warnings.
          user: original user id: the query becomes (1 - user_share) of the playlist and user_share of the user; a
            user alone is a query too.
          k: songs wanted.
          exclude: original ids never to recommend (songs disliked or heard); the query's own are left out anyway.
          user_share: 0..1.
          user_scores: float [I], what ranks the songs for a user alone; None: the similarity to the user's embedding.

        Returns:
          Fewer than k recommendations only where the catalogue has no more.

        Raises:
          UserError: nothing to start from: no known song and no user, an unknown user, or k below 1.
        """
        if k < 1:
            raise UserError(f"k={k}: must be at least 1")
        export, warnings = self.export, []
        wanted = list(dict.fromkeys(int(s) for s in songs))
        found = index_of(export.item_ids, np.array(wanted, np.int64))
        missing = [s for s, at in zip(wanted, found, strict=True) if at < 0]
        if missing and len(missing) == len(wanted) and user is None:
            raise UserError(_unknown("song", missing, export.item_ids))
        if missing:
            warnings.append(_unknown("song", missing, export.item_ids))
        playlist = found[found >= 0]
        if not len(playlist) and user is None:
            raise UserError("an empty playlist: give at least one song (--songs) or a user (--user)")

        query, weights = np.zeros(self._songs.shape[1], np.float32), np.zeros(0, np.float32)
        if len(playlist):
            query, weights = self._attend(playlist)
        if user is not None:
            at = int(index_of(export.user_ids, np.array([user]))[0])
            if at < 0:
                raise UserError(_unknown("user", [user], export.user_ids))
            share = user_share if len(playlist) else 1.0
            taste = _unit_rows(export.user_embeddings[at : at + 1])[0]
            query = _unit_rows(((1.0 - share) * query + share * taste)[None, :])[0]

        allowed = export.recommendable.copy()
        allowed[playlist] = False
        barred = index_of(export.item_ids, np.asarray(exclude, np.int64))
        allowed[barred[barred >= 0]] = False
        if user is not None and not len(playlist) and user_scores is not None:
            # Stable: equal scores by ascending index, as the index search has them.
            items = np.argsort(-np.where(allowed, user_scores, -np.inf), kind="stable")[: min(k, int(allowed.sum()))]
            scores = user_scores[items]
        else:
            items, scores = search_allowed(self._index, self._songs, query, k, allowed)
        if len(items) < k:
            warnings.append(f"only {len(items)} of {k} songs: the catalogue has no more candidates")
        return Answer(
            [
                self._explained(rank, int(item), float(score), playlist, weights)
                for rank, (item, score) in enumerate(zip(items, scores, strict=True), 1)
            ],
            warnings,
        )

    def _attend(self, playlist: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Padded to a power of two: a new playlist length does not compile a new program.
        width = 1 << (len(playlist) - 1).bit_length()
        rows = np.zeros((width, self._songs.shape[1]), np.float32)
        rows[: len(playlist)] = self._songs[playlist]
        query, weights = attend(jnp.asarray(rows), jnp.arange(width) < len(playlist), jnp.float32(self._temperature))
        return np.asarray(query), np.asarray(weights)[: len(playlist)]

    def _explained(
        self, rank: int, item: int, score: float, playlist: np.ndarray, weights: np.ndarray
    ) -> Recommendation:
        export = self.export
        similarity = self._songs[playlist] @ self._songs[item]
        order = np.argsort(-weights * similarity, kind="stable")
        artists = export.artists[export.artist_offsets[item] : export.artist_offsets[item + 1]]
        albums = export.albums[export.album_offsets[item] : export.album_offsets[item + 1]]
        return Recommendation(
            rank=rank,
            item_id=int(export.item_ids[item]),
            score=score,
            artist_ids=export.artist_ids[artists].tolist(),
            album_ids=export.album_ids[albums].tolist(),
            why=[Reason(int(export.item_ids[playlist[j]]), float(weights[j]), float(similarity[j])) for j in order],
        )
