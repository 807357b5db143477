"""Listeners with events that a moment does not hold: new ones, and known ones who played since.

A moment has two things of every user: what the plays add to the songs' trends, and the user's column of the matrix that
walks over users go through. For guests both are corrected in the songs of their events, so their scores are those of a
moment that has their events, without making one. Other users' columns stay; a guest's events change nobody else's.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import sparse

from music_map.decay import decay
from music_map.preprocess.dataset import Events
from music_map.recency.history import HOUR, Histories, engagement, event_age
from music_map.recency.moment import TREND_HALF_LIVES, Moment, trend_features
from music_map.rows import offsets_of, row_of_each, select


@dataclasses.dataclass(frozen=True, eq=False)
class Guests:
    """B listeners.

    Attributes:
      embeddings: float32 [B, d].
      known: int32 [B], their index in the moment; -1 for new listeners.
      old: their events that the moment holds; none for new listeners.
      fresh: their other events, at any time.
    """

    embeddings: np.ndarray
    known: np.ndarray
    old: Histories
    fresh: Histories

    @functools.cached_property
    def histories(self) -> Histories:
        """Old and fresh events by time; of equal times the old ones first, then listens, likes and dislikes."""
        parts = [history.events() for history in (self.old, self.fresh)]
        joined = Events(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        fresh = np.repeat([0, 1], [len(part.user) for part in parts])
        order = np.lexsort((joined.kind, fresh, joined.timestamp, joined.user))
        return Histories.of(Events(*(column[order] for column in joined)), num_users=len(self.known))

    def select(self, rows: np.ndarray) -> Guests:
        """Some of them, in the given order."""
        return Guests(self.embeddings[rows], self.known[rows], self.old.select(rows), self.fresh.select(rows))

    def padded(self, size: int) -> Guests:
        """With new listeners without events at the end, `size` in all."""
        more = size - len(self.known)
        return Guests(
            np.pad(self.embeddings, ((0, more), (0, 0))),
            np.pad(self.known, (0, more), constant_values=-1),
            *(one._replace(offsets=np.pad(one.offsets, (0, more), "edge")) for one in (self.old, self.fresh)),
        )

    def columns(self, rows: np.ndarray, *, now: int, num_items: int) -> sparse.csr_array:
        """The walks' weights of some guests, float32 [len(rows), I], as `Moment.user_weights` has those of a user."""
        offsets, at = select(self.histories.offsets, rows)
        kind, played = self.histories.kind[at], self.histories.played_pct[at]
        strength = engagement(kind, played) * (self.histories.timestamp[at] <= now)
        counts = strength > 0
        row = row_of_each(offsets)[counts]
        ends = offsets_of(np.bincount(row, minlength=len(rows)))
        pairs = sparse.csr_array((strength[counts], self.histories.item[at[counts]], ends), (len(rows), num_items))
        pairs.sum_duplicates()
        pairs.data = np.log1p(pairs.data)
        norm = np.sqrt(pairs.multiply(pairs).sum(axis=1))
        pairs.data /= np.repeat(np.maximum(norm, 1e-12), np.diff(pairs.indptr))
        return pairs.astype(np.float32)

    def trends(self, rows: np.ndarray, moment: Moment, *, now: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The songs whose trend the fresh events of some guests change.

        Returns:
          places in `rows` and songs, int64 and int32 [N], ascending by both; the songs' trend for that guest, float32
          [N, T].
        """
        offsets, at = select(self.fresh.offsets, rows)
        row, timestamp = row_of_each(offsets), self.fresh.timestamp[at]
        known = timestamp <= now
        at, row, timestamp = at[known], row[known], timestamp[known]
        age, strength = event_age(timestamp, now), engagement(self.fresh.kind[at], self.fresh.played_pct[at])
        pairs, at = np.unique(row * moment.num_items + self.fresh.item[at], return_inverse=True)
        row, songs = np.divmod(pairs, moment.num_items)
        recent = np.stack(
            [np.bincount(at, strength * decay(age, h), minlength=len(pairs)) for h in TREND_HALF_LIVES], axis=1
        )
        first = np.full(len(pairs), np.iinfo(np.int64).max)
        np.minimum.at(first, at, timestamp.astype(np.int64))
        # A guest is a new listener of the songs with engagement that none of the old events has.
        offsets, old = select(self.old.offsets, rows)
        heard = engagement(self.old.kind[old], self.old.played_pct[old]) > 0
        heard = (row_of_each(offsets) * moment.num_items + self.old.item[old])[heard]
        played_now = np.bincount(at, strength, minlength=len(pairs))
        new = (played_now > 0) & ~np.isin(pairs, heard)
        since = decay((now - moment.now) / HOUR, np.array(TREND_HALF_LIVES))
        seen = moment.first[songs]
        changed = trend_features(
            moment.plays[songs] * since + recent,
            moment.total[songs] + played_now,
            moment.listener_counts[songs] + new,
            np.where(seen < 0, first, np.minimum(seen, first)),
            now,
        )
        return row, songs.astype(np.int32), changed


def no_events(num_users: int) -> Histories:
    """Histories of users without events."""
    types = (np.int32, np.uint32, np.uint8, np.uint16)
    return Histories(np.zeros(num_users + 1, np.int64), *(np.zeros(0, kind) for kind in types))
