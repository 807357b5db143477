"""Who asks, where the logs alone do not say it: somebody new, or a known user with newer plays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from music_map.preprocess.dataset import DISLIKE, Events
from music_map.preprocess.marks import standing
from music_map.recency.guests import Guests, no_events
from music_map.recency.history import Histories
from music_map.retrieval.export import UserSongs
from music_map.retrieval.plays import History


@dataclasses.dataclass(frozen=True, eq=False)
class Listener:
    """A listener with a history.

    Attributes:
      embedding: float32 [d].
      user: index of a known user, -1 for a new one.
      old: the known user's events in the logs, the only ones of Histories.
      fresh: events of the history that the logs do not hold, likewise.
      songs: what the listener, user 0, heard and dislikes, by the logs and the history.
      now: seconds.
    """

    embedding: np.ndarray
    user: int
    old: Histories
    fresh: Histories
    songs: UserSongs
    now: int


def listener_of(
    history: History, embedding: np.ndarray, user: int, old: Histories | None, known: UserSongs | None
) -> Listener:
    """Joins a history and what the logs know.

    An event that the logs have too, with the same song, time and kind, counts once. An undislike in the history takes
    back dislikes of the logs.

    Args:
      history: what the listener played.
      embedding: float32 [d].
      user: index of a known user, -1 for a new one.
      old: the user's events in the logs; None: not known.
      known: what users heard and dislike; None for a new listener.
    """
    old = no_events(1) if old is None else old
    fresh = _not_in(old, history.events)
    heard = fresh.item[fresh.kind != DISLIKE]
    num_items = 1 + max((int(x.max(initial=0)) for x in (fresh.item, history.withdrawals.item)), default=0)
    disliked = history.events.item[standing(history.events, history.withdrawals, DISLIKE, num_items=num_items)]
    if known is not None:
        heard = np.concatenate([known.heard_by(user), heard])
        taken_back = history.withdrawals.item[history.withdrawals.kind == DISLIKE]
        disliked = np.concatenate([np.setdiff1d(known.disliked_by(user), taken_back), disliked])
    heard, disliked = (np.unique(items).astype(np.int32) for items in (heard, disliked))
    songs = UserSongs(np.array([0, len(heard)]), heard, np.array([0, len(disliked)]), disliked)
    return Listener(embedding, user, old, Histories.of(fresh, num_users=1), songs, history.now)


def _not_in(old: Histories, events: Events) -> Events:
    """The events of which the old ones have none with the same song, time and kind."""

    def key(item: np.ndarray, timestamp: np.ndarray, kind: np.ndarray) -> np.ndarray:
        return (item.astype(np.int64) << 2 | kind) << 32 | timestamp

    new = ~np.isin(key(events.item, events.timestamp, events.kind), key(old.item, old.timestamp, old.kind))
    return Events(*(column[new] for column in events))


def guests_of(listeners: Sequence[Listener]) -> Guests:
    """The listeners as guests 0..B - 1 of a scorer."""
    return Guests(
        np.stack([listener.embedding for listener in listeners]),
        np.array([listener.user for listener in listeners], np.int32),
        _joined([listener.old for listener in listeners]),
        _joined([listener.fresh for listener in listeners]),
    )


def _joined(parts: Sequence[Histories]) -> Histories:
    """Histories of one user each as those of users 0, 1, ..."""
    ends = np.cumsum([0, *(part.offsets[-1] for part in parts)]).astype(np.int64)
    return Histories(ends, *(np.concatenate(columns) for columns in list(zip(*parts, strict=True))[1:]))
