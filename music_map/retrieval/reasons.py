"""Why a song is recommended to a listener: the parts of the score that speak for it, with numbers and in words.

The recency head's score is a sum over parts (`music_map.recency.scores.PARTS`). A part speaks for a song by its gain:
what it adds to the song's score less the mean of what it adds to songs drawn at random. Without a recency head the
score is the similarity to the listener's embedding, and the nearest song that the listener played is named.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from music_map.ids import Ids
from music_map.preprocess.dataset import DISLIKE, LIKE
from music_map.recency.moment import TREND_HALF_LIVES
from music_map.recency.scores import RecencyScorer
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
        self, scorer: RecencyScorer | None, user: int, items: np.ndarray, ids: IdTables, *, most: int
    ) -> list[list[Part]]:
        """The strongest parts, at most `most`, for each of some songs for a user of the head; none without a head."""
        if scorer is None or not len(items) or not most:
            return [[] for _ in items]
        asked = np.concatenate([items, self._reference]).astype(np.int32)
        parts = scorer.contributions(user, asked)
        gains = {name: values[: len(items)] - values[len(items) :].mean() for name, values in parts.items()}
        told = self._told_by_head(scorer, user, items, ids)
        found = []
        for row in range(len(items)):
            ranked = sorted(gains, key=lambda name: -gains[name][row])
            mine = [(name, told[name](row)) for name in ranked if gains[name][row] > 0]
            found.append([Part(name, float(gains[name][row]), *said) for name, said in mine if said][:most])
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

    def _told_by_head(
        self, scorer: RecencyScorer, user: int, items: np.ndarray, ids: IdTables
    ) -> dict[str, Callable[[int], tuple[Any, ...] | None]]:
        """By part: the words, song, artist and album for the n-th song; None where the part has nothing to say."""
        lists, moment = scorer.read(np.array([user], np.int32)), scorer.moment
        history = scorer.histories.select(np.array([user]))
        known = history.timestamp <= scorer.now
        item, when, kind = history.item[known], history.timestamp[known], history.kind[known]
        latest = lists.latest.items[0]
        latest = np.unique(latest[latest >= 0])
        weight = lists.starts.sum(axis=1)
        strongest = np.argsort(-weight, kind="stable")[:_MOST_SONGS]
        own, weight = lists.items[strongest], weight[strongest]
        like_latest = self._nearest(items, latest)
        shared = (moment.listeners[items] @ moment.listeners[own].T).toarray() * weight if len(own) else None
        plays = moment.plays
        rise = plays[items, _DAY] / np.maximum(plays[items, _MONTH], 1e-9)
        usual = plays[:, _DAY].sum() / max(plays[:, _MONTH].sum(), 1e-9)

        def played_before(row: int) -> tuple[Any, ...] | None:
            mine = (item == items[row]) & (kind != DISLIKE)
            if not mine.any():
                return None
            listens, ago = int((mine & (kind != LIKE)).sum()), (scorer.now - int(when[mine].max())) / 86_400
            words = [f"played {listens} times" if listens > 1 else "played once"] if listens else []
            words += ["liked"] if (mine & (kind == LIKE)).any() else []
            return f"{' and '.join(words)}, most recently {_ago(ago)}", None, None, None

        def by_latest(row: int) -> tuple[Any, ...] | None:
            return None if like_latest[row] < 0 else _like(ids.songs, like_latest[row])

        def by_listeners(row: int) -> tuple[Any, ...] | None:
            if shared is None:
                return None
            of = np.where(own == items[row], 0.0, shared[row])
            at = int(of.argmax())
            if of[at] <= 0:
                return None
            label, name = _named(ids.songs, own[at])
            return f"played by listeners of {name}", label, None, None

        def by_name(of: Ids, offsets: np.ndarray, values: np.ndarray, words: str, place: int) -> Callable:
            ends, at = select(offsets, own)
            share = np.bincount(values[at], weight[row_of_each(ends)], minlength=len(of))

            def told(row: int) -> tuple[Any, ...] | None:
                names = values[slice(*offsets[items[row] : items[row] + 2])]
                best = names[share[names].argmax()] if len(names) else -1
                if best < 0 or share[best] <= 0:
                    return None
                label, name = _named(of, best)
                found: list[Any] = [words.format(name), None, None, None]
                found[place] = label
                return tuple(found)

            return told

        export = self._export
        return {
            "embedding": lambda row: ("fits your taste", None, None, None),
            "latest songs": by_latest,
            "users": by_listeners,
            "artists": by_name(ids.artists, export.artist_offsets, export.artists, "by {}, whom you play", 2),
            "albums": by_name(ids.albums, export.album_offsets, export.albums, "from {}, which you play", 3),
            "trend": lambda row: ("on the rise" if rise[row] > _RISE * usual else "popular now", None, None, None),
            "played before": played_before,
        }

    def _nearest(self, items: np.ndarray, others: np.ndarray) -> np.ndarray:
        """For each song the one of `others`, but itself, that is nearest by embedding: int [n], -1 for none."""
        if not len(others):
            return np.full(len(items), -1)
        rows = self._export.item_embeddings
        near = unit_rows(rows[items]) @ unit_rows(rows[others]).T
        near[items[:, None] == others[None]] = -np.inf
        return np.where(near.max(axis=1) > 0, others[near.argmax(axis=1)], -1)


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
