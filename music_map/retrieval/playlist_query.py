"""From playlists to what is looked for: the trained playlist query, as it is measured and as it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from music_map.playlist.attention import attend_to, push_away
from music_map.playlist.companions import Companions
from music_map.playlist.heads import Heads
from music_map.playlist.onward import Onward, go_on
from music_map.playlist.tastes import tastes_of
from music_map.retrieval.search import NOTHING, Wanted
from music_map.unit import unit_rows

# Disliked songs that a query is turned away from.
MOST_DISLIKES = 128


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


class PlaylistQuery:
    """The playlist query over a catalogue.

    Args:
      vectors: of the songs in the playlist space, float32 [I, d], unit rows.
      popularity: float32 [I], see `music_map.retrieval.export.popularity_of`.
      heads: the trained parts.
      companions: songs listened to together; None: nothing is known.
      onward: where sessions go on; None: nothing is known.
      push: share of disliked songs' directions that is removed, 0 to 1.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        popularity: np.ndarray,
        heads: Heads,
        *,
        companions: Companions | None = None,
        onward: Onward | None = None,
        push: float = 0.5,
    ):
        self._vectors, self._companions = vectors, companions
        self._popularity, self._heads, self._push = popularity, heads, push
        mixture = heads.mixture
        self._together, self._cohesion = float(mixture.together), float(mixture.cohesion)
        self._onward, self._strengths = onward, (float(mixture.one), float(mixture.several))

    def __call__(self, asked: Sequence[Asked]) -> tuple[list[Wanted], list[np.ndarray]]:
        """What each query looks for, and the attention weights of its playlist."""
        found = [self._of(one) for one in asked]
        return [wanted for wanted, _ in found], [weights for _, weights in found]

    def _of(self, asked: Asked) -> tuple[Wanted, np.ndarray]:
        rows, head = self._vectors[asked.songs], self._heads.ordered if asked.ordered else self._heads.unordered
        query, weights = attend_to(rows, self._popularity[asked.songs], head)
        tastes = tastes_of(rows, self._cohesion)
        number = int(tastes.max(initial=0)) + 1
        vectors, of = query[None], tastes == np.arange(number)[:, None]
        if number > 1:
            # The weights are those of the whole playlist.
            vectors = unit_rows(np.where(of, weights, 0.0) @ rows)
        if self._onward is not None and any(self._strengths):
            vectors = go_on(vectors, of @ rows, of.sum(axis=1), self._onward, self._strengths)
        if asked.share:
            vectors = unit_rows((1.0 - asked.share) * vectors + asked.share * asked.taste)
        vectors = push_away(vectors.astype(np.float32), self._vectors[asked.pushed], self._push)
        shares = np.bincount(tastes, weights, number).astype(np.float32) if len(tastes) else np.ones(1, np.float32)
        plus = [NOTHING] * number
        if self._companions is not None and self._together > 0 and len(tastes):
            total = self._together * (1.0 - asked.share)
            own = (weights * (total / np.maximum(shares, 1e-12))[tastes]).astype(np.float32)
            plus = self._companions.among(asked.songs, own, tastes)
            if len(asked.pushed):
                plus = self._without(plus, asked.pushed, total * self._push)
        return Wanted(vectors, shares, plus, tastes), weights

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
