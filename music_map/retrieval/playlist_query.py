"""From playlists to what is looked for: the trained playlist query, as it is measured and as it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from music_map.playlist.attention import Head, attend, push_away
from music_map.playlist.companions import Companions
from music_map.playlist.heads import Heads
from music_map.playlist.tastes import MOST_TASTES, tastes_of
from music_map.retrieval.export import indices
from music_map.retrieval.search import NOTHING, Wanted
from music_map.unit import unit, unit_rows

# Programs are compiled for these numbers of songs in a playlist, disliked songs, and playlists.
WIDTHS = (16, 128, 1024)
MOST_DISLIKES = 128
BATCHES = (1, 8, 64, 512)


class Asked(NamedTuple):
    """A query in indices.

    Attributes:
      songs: int [n], the playlist, each song once, the latest last.
      ordered: whether their order is that of listening.
      taste: float32 [d], of a user.
      share: of the user in the query, 0 to 1.
      pushed: int [m], songs that it is turned away from, none of the playlist.
    """

    songs: np.ndarray
    ordered: bool
    taste: np.ndarray
    share: float
    pushed: np.ndarray


def _padded(count: int, sizes: Sequence[int]) -> int:
    return next((size for size in sizes if size >= count), sizes[-1])


@jax.jit
def _queries(
    vectors: jax.Array,
    popularity: jax.Array,
    songs: jax.Array,
    where: jax.Array,
    heads: tuple[Head, Head],
    ordered: jax.Array,
    taste: jax.Array,
    share: jax.Array,
    pushed: jax.Array,
    push_where: jax.Array,
    push: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Queries float32 [B, d] and attention weights float32 [B, n] of padded playlists, each of one taste."""
    rows = vectors[songs]
    made = [attend(rows, where, popularity[songs], head) for head in heads]
    query = jnp.where(ordered[:, None], made[0][0], made[1][0])
    weights = jnp.where(ordered[:, None], made[0][1], made[1][1])
    query = unit((1.0 - share)[:, None] * query + share[:, None] * taste)
    return push_away(query, vectors[pushed], push_where, strength=push), weights


_push_away = jax.jit(push_away)


class PlaylistQuery:
    """The playlist query over a catalogue.

    Args:
      vectors: of the songs in the playlist space, float32 [I, d], unit rows.
      popularity: float32 [I], see `music_map.retrieval.export.popularity_of`.
      heads: the trained parts.
      companions: songs listened to together; None: nothing is known.
      push: share of disliked songs' directions that is removed, 0 to 1.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        popularity: np.ndarray,
        heads: Heads,
        *,
        companions: Companions | None = None,
        push: float = 0.5,
    ):
        self._vectors, self._companions = vectors, companions
        self._device_vectors, self._popularity = jnp.asarray(vectors), jnp.asarray(popularity)
        self._heads = jax.tree.map(jnp.asarray, (heads.ordered, heads.unordered))
        self._push = push
        self._together, self._cohesion = float(heads.mixture.together), float(heads.mixture.cohesion)

    def __call__(self, asked: Sequence[Asked]) -> tuple[list[Wanted], list[np.ndarray]]:
        """What each query looks for, and the attention weights of its playlist."""
        vectors, weights = self._of_one_taste(asked)
        return [self._wanted(*one) for one in zip(asked, vectors, weights, strict=True)], weights

    def _of_one_taste(self, asked: Sequence[Asked]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Vectors float32 [B, d], and the attention weights of each playlist."""
        size = _padded(len(asked), BATCHES)
        songs, where = indices(
            [query.songs for query in asked], _padded(max(len(query.songs) for query in asked), WIDTHS)
        )
        pushed, push_where = self._pushed(asked)
        ordered, share = (np.array([getattr(query, name) for query in asked]) for name in ("ordered", "share"))
        taste = np.stack([query.taste for query in asked])

        def rows(x: np.ndarray) -> np.ndarray:
            return np.concatenate([x, np.zeros((size - len(x), *x.shape[1:]), x.dtype)]) if size > len(x) else x

        vectors, weights = _queries(
            self._device_vectors,
            self._popularity,
            *map(rows, (songs, where)),
            self._heads,
            *map(rows, (ordered, taste, share.astype(np.float32), pushed, push_where)),
            np.float32(self._push),
        )
        weights, sizes = np.asarray(weights), [len(query.songs) for query in asked]
        return np.asarray(vectors)[: len(asked)], [w[:n] for w, n in zip(weights, sizes, strict=False)]

    @staticmethod
    def _pushed(asked: Sequence[Asked]) -> tuple[np.ndarray, np.ndarray]:
        lists = [query.pushed for query in asked]
        return indices(lists, _padded(max(map(len, lists)), (1, 16, MOST_DISLIKES)))

    def _of_tastes(self, asked: Asked, tastes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Vectors of several tastes, float32 [H, d]: the weights are those of the whole playlist."""
        parts = np.where(tastes == np.arange(tastes.max() + 1)[:, None], weights, 0.0)
        query = unit_rows(parts @ self._vectors[asked.songs])
        query = unit_rows((1.0 - asked.share) * query + asked.share * asked.taste).astype(np.float32)
        if not len(asked.pushed):
            return query
        filled = np.zeros((MOST_TASTES, query.shape[1]), np.float32)
        filled[: len(query)] = query
        pushed, where = self._pushed([asked])
        away = _push_away(filled, self._vectors[pushed], np.broadcast_to(where, (MOST_TASTES, where.shape[1])),
                          strength=np.float32(self._push))  # fmt: skip
        return np.asarray(away)[: len(query)]

    def _wanted(self, asked: Asked, vector: np.ndarray, weights: np.ndarray) -> Wanted:
        tastes = tastes_of(self._vectors[asked.songs], self._cohesion)
        number = int(tastes.max(initial=0)) + 1
        vectors = vector[None] if number == 1 else self._of_tastes(asked, tastes, weights)
        shares = np.bincount(tastes, weights, number).astype(np.float32) if len(tastes) else np.ones(1, np.float32)
        plus = [NOTHING] * number
        if self._companions is not None and self._together > 0 and len(tastes):
            total = self._together * (1.0 - asked.share)
            own = (weights * (total / np.maximum(shares, 1e-12))[tastes]).astype(np.float32)
            plus = self._companions.among(asked.songs, own, tastes)
            if len(asked.pushed):
                plus = self._without(plus, asked.pushed, total * self._push)
        return Wanted(vectors, shares, plus)

    def _without(
        self, plus: Sequence[tuple[np.ndarray, np.ndarray]], pushed: np.ndarray, weight: float
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """`plus` with less for songs that come with disliked ones, at least 0."""
        ((away, less),) = self._companions.among(pushed, np.full(len(pushed), weight, np.float32))
        for songs, values in plus:
            _, at, other = np.intersect1d(songs, away, assume_unique=True, return_indices=True)
            values[at] = np.maximum(values[at] - less[other], 0.0)
        return list(plus)

    def together(self, playlist: np.ndarray, songs: np.ndarray) -> np.ndarray:
        """What each song of a playlist adds to the scores of songs by being listened to with them, float32 [m, n].

        Args:
          playlist: int [n].
          songs: int [m].
        """
        if self._companions is None or self._together <= 0 or not (len(playlist) and len(songs)):
            return np.zeros((len(songs), len(playlist)), np.float32)
        return self._together * self._companions.between(playlist, songs).T
