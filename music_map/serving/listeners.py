"""What the store's events mean to a recommender: which of them are news, and whose."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from music_map.errors import UserError
from music_map.events.event import Event, id_of
from music_map.events.store import EventStore, History
from music_map.retrieval.answers import Query
from music_map.retrieval.plays import Play
from music_map.retrieval.recommender import Recommender

_MINUTE = 60


class _Unknown:
    """An id that no table knows, written as the one that it hides."""

    def __init__(self, user: Any):
        self._user = user

    def __repr__(self) -> str:
        return repr(self._user)


def key_of(user: Any) -> str | None:
    """A user's id in the store; None where it cannot have events, because it is no id."""
    try:
        return id_of(user)
    except UserError:
        return None


def news_after(recommender: Recommender, store: EventStore, user: Any) -> int | None:
    """The second after which a user's events are news to the model; None: all are, the model does not know the user."""
    if recommender.present is None or recommender.ids.users.index_of(user) < 0:
        return None
    return recommender.present + store.epoch


def with_history(query: Query, recommender: Recommender, store: EventStore, history: History) -> Query:
    """A query with its user's events, as the model needs them.

    A user whom the model knows keeps what it learned, and the events are added. One whom it does not know, or who was
    deleted, is what the events say and no more. The present is that of this machine's clock.

    Args:
      query: for a user; a history that it brings along is added.
      recommender: whose songs and users are meant.
      store: of the events.
      history: of the user, from the store.
    """
    if not history.events and not history.forgotten:
        return query
    # Clocks of clients may be fast. One present for all queries of a minute: they are ranked together.
    clock = int(time.time())
    now = -(-clock // _MINUTE) * _MINUTE - store.epoch if query.now is None else query.now
    plays = tuple(
        Play(event.song, min(event.time, clock) - store.epoch, _share(event), event.kind) for event in history.events
    )
    known = not history.forgotten and recommender.ids.users.index_of(query.user) >= 0
    user = query.user if known else None if plays or query.history else _Unknown(query.user)
    return dataclasses.replace(query, user=user, history=(*plays, *query.history), now=now if plays else query.now)


def _share(event: Event) -> float | None:
    return event.played if event.kind == "listen" else None
