"""Why a song is recommended to a listener: the parts of the score that speak for it, with numbers and in words.

The recency head's score is a sum over parts (`music_map.recency.scores.PARTS`). A part speaks for a song by its gain:
what it adds to the song's score less the mean of what it adds to songs drawn at random. Without a recency head the
score is the similarity to the listener's embedding, and the nearest song that the listener played is named.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from music_map.ids import Ids
from music_map.preprocess.dataset import DISLIKE, LIKE
from music_map.recency.moment import TREND_HALF_LIVES
from music_map.recency.scores import Reading
from music_map.retrieval.answers import Part
from music_map.retrieval.export import Export, IdTables
from music_map.rows import row_of_each, select
from music_map.unit import unit_rows

# Songs drawn at random, whose mean contribution a gain is measured from.
_REFERENCE = 64
# Songs of a listener that a similar song is looked for among: those of most weight in the walks.
_MOST_SONGS = 500
# A song is "on the rise" if its share of plays of the last day, against the last month, is so many times the mean.
_RISE = 1.25
_DAY, _MONTH = TREND_HALF_LIVES.index(24.0), TREND_HALF_LIVES.index(720.0)


class Explainer:
    """Explains recommendations of one scorer.

    Args:
      export: artists and albums by song.
    """

    def __init__(self, export: Export):
        self._export = export
        played = np.flatnonzero(export.listeners > 0)
        self._reference = np.random.default_rng(0).permutation(played)[:_REFERENCE].astype(np.int32)

    def by_head(
        self, reading: Reading, items: Sequence[np.ndarray], ids: IdTables, *, most: int
    ) -> list[list[list[Part]]]:
        """The strongest parts, at most `most`, for each of some songs int [n] of each user of the head."""
        width = max(map(len, items), default=0)
        if not width or not most:
            return [[[] for _ in own] for own in items]
        asked = np.zeros((len(items), width), np.int64)
        for row, own in enumerate(items):
            asked[row, : len(own)] = own
        reference = np.broadcast_to(self._reference, (len(items), len(self._reference)))
        parts = reading.scorer.contributions(reading, np.concatenate([asked, reference], axis=1))
        names = list(parts)
        values = np.stack([parts[name] for name in names], axis=2)
        gains = values[:, :width] - values[:, width:].mean(axis=1, keepdims=True)
        order = np.argsort(-gains, axis=2, kind="stable")
        found = []
        for row, own in enumerate(items):
            told = _Told(self._export, reading, row, own, ids)
            found.append([told.parts(at, names, gains[row, at], order[row, at], most) for at in range(len(own))])
        return found

    def by_similarity(
        self, vectors: np.ndarray, scores: np.ndarray, heard: np.ndarray, items: np.ndarray, ids: IdTables, *, most: int
    ) -> list[list[Part]]:
        """The nearest of the songs that the listener heard, for each of some songs.

        Args:
          vectors: float32 [I, d], unit rows.
          scores: float32 [n], of the songs.
          heard: int [h], songs of the listener.
          items: int [n].
          ids: ids and names.
          most: 0: no reasons.
        """
        if not most or not len(heard):
            return [[] for _ in items]
        near = vectors[items] @ vectors[heard].T
        near[items[:, None] == heard[None]] = -np.inf
        best = near.argmax(axis=1)
        rows = zip(best, near.max(axis=1), scores, strict=True)
        return [
            [Part("embedding", float(score), *_like(ids.songs, heard[at]))] if np.isfinite(close) else []
            for at, close, score in rows
        ]


class _Told:
    """What the parts of the head say of some songs, in words, to one user. What is not asked for is not looked up.

    Args:
      export: artists and albums.
      reading: of the user, at `row`.
      items: int [n], the songs.
      ids: ids and names.
    """

    def __init__(self, export: Export, reading: Reading, row: int, items: np.ndarray, ids: IdTables):
        self._export, self._reading, self._row, self._items, self._ids = export, reading, row, items, ids

    def parts(self, at: int, names: Sequence[str], gains: np.ndarray, order: np.ndarray, most: int) -> list[Part]:
        """The parts that speak for the song at a place, at most `most`, the strongest first."""
        found: list[Part] = []
        for part in order.tolist():
            if not gains[part] > 0 or len(found) == most:
                break
            if (said := self._said(names[part], at)) is not None:
                found.append(Part(names[part], float(gains[part]), *said))
        return found

    def _said(self, part: str, at: int) -> tuple[Any, ...] | None:
        """The words, song, artist and album; None where the part has nothing to say."""
        export, ids = self._export, self._ids
        if part == "embedding":
            return "fits your taste", None, None, None
        if part == "trend":
            return "on the rise" if self._rises[at] else "popular now", None, None, None
        if part == "played before":
            return self._played_before(at)
        if part == "latest songs":
            return None if self._nearest[at] < 0 else _like(ids.songs, self._nearest[at])
        if part == "users":
            return self._by_listeners(at)
        if part == "artists":
            names = export.artists[slice(*export.artist_offsets[self._items[at] : self._items[at] + 2])]
            said = self._by_name(ids.artists, names, self._artists, "by {}, whom you play")
            return said and (said[0], None, said[1], None)
        names = export.albums[slice(*export.album_offsets[self._items[at] : self._items[at] + 2])]
        said = self._by_name(ids.albums, names, self._albums, "from {}, which you play")
        return said and (said[0], None, None, said[1])

    def _played_before(self, at: int) -> tuple[Any, ...] | None:
        scorer = self._reading.scorer
        histories, user = scorer.histories, self._reading.users[self._row]
        rows = slice(*histories.offsets[user : user + 2])
        mine = np.flatnonzero(histories.item[rows] == self._items[at]) + rows.start
        mine = mine[(histories.timestamp[mine] <= scorer.now) & (histories.kind[mine] != DISLIKE)]
        if not len(mine):
            return None
        liked = histories.kind[mine] == LIKE
        listens, ago = int((~liked).sum()), (scorer.now - int(histories.timestamp[mine].max())) / 86_400
        words = [f"played {listens} times" if listens > 1 else "played once"] if listens else []
        words += ["liked"] if liked.any() else []
        return f"{' and '.join(words)}, most recently {_ago(ago)}", None, None, None

    def _by_listeners(self, at: int) -> tuple[Any, ...] | None:
        best, shared = self._shared
        if shared[at] <= 0:
            return None
        label, name = _named(self._ids.songs, best[at])
        return f"played by listeners of {name}", label, None, None

    def _by_name(self, of: Ids, names: np.ndarray, share: np.ndarray, words: str) -> tuple[str, Any] | None:
        best = names[share[names].argmax()] if len(names) else -1
        if best < 0 or share[best] <= 0:
            return None
        label, name = _named(of, best)
        return words.format(name), label

    @functools.cached_property
    def _own(self) -> tuple[np.ndarray, np.ndarray]:
        """The user's songs of most weight in the walks, int32 [n], and their weights."""
        lists = self._reading.lists
        mine = slice(*lists.offsets[self._row : self._row + 2])
        weight = lists.starts[mine].sum(axis=1)
        strongest = np.argsort(-weight, kind="stable")[:_MOST_SONGS]
        return lists.items[mine][strongest], weight[strongest]

    @functools.cached_property
    def _shared(self) -> tuple[np.ndarray, np.ndarray]:
        """For each song the user's other song that shares most listeners with it, by weight, and how much; 0: none."""
        (own, weight), moment = self._own, self._reading.scorer.moment
        if not len(own):
            return np.full(len(self._items), -1), np.zeros(len(self._items))
        offsets, at = select(moment.user_offsets, self._items)
        of_items = np.zeros((moment.num_users, len(self._items)), np.float32)
        of_items[moment.users[at], row_of_each(offsets)] = moment.user_weights[at]
        offsets, at = select(moment.user_offsets, own)
        of_own = sparse.csr_array((moment.user_weights[at], moment.users[at], offsets), (len(own), moment.num_users))
        shared = np.where(own[:, None] == self._items, 0.0, (of_own @ of_items) * weight[:, None])
        return own[shared.argmax(axis=0)], shared.max(axis=0)

    @functools.cached_property
    def _artists(self) -> np.ndarray:
        return self._shares(self._export.artist_offsets, self._export.artists, len(self._ids.artists))

    @functools.cached_property
    def _albums(self) -> np.ndarray:
        return self._shares(self._export.album_offsets, self._export.albums, len(self._ids.albums))

    def _shares(self, offsets: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
        """The weight of the user's songs by artist or album."""
        own, weight = self._own
        ends, at = select(offsets, own)
        return np.bincount(values[at], weight[row_of_each(ends)], minlength=count)

    @functools.cached_property
    def _rises(self) -> np.ndarray:
        plays, (day, month) = (
            self._reading.scorer.moment.plays,
            self._reading.scorer.moment.plays_of_all[[_DAY, _MONTH]],
        )
        rise = plays[self._items, _DAY] / np.maximum(plays[self._items, _MONTH], 1e-9)
        return rise > _RISE * day / max(month, 1e-9)

    @functools.cached_property
    def _nearest(self) -> np.ndarray:
        """For each song the one of the user's latest, but itself, that is nearest by embedding: int [n], -1: none."""
        latest = self._reading.lists.latest.items[self._row]
        latest = np.unique(latest[latest >= 0])
        if not len(latest):
            return np.full(len(self._items), -1)
        rows = self._export.item_embeddings
        near = unit_rows(rows[self._items]) @ unit_rows(rows[latest]).T
        near[self._items[:, None] == latest[None]] = -np.inf
        return np.where(near.max(axis=1) > 0, latest[near.argmax(axis=1)], -1)


def _like(songs: Ids, song: int) -> tuple[Any, ...]:
    label, name = _named(songs, song)
    return f"like {name}, which you played", label, None, None


def _named(ids: Ids, at: int) -> tuple[Any, str]:
    """An id and what people call it."""
    label = ids.label(int(at))
    return label, ids.name(int(at)) or str(label)


def _ago(days: float) -> str:
    if days < 1:
        return "today"
    return "a day ago" if days < 2 else f"{int(days)} days ago"
