"""One event of a listener, and the ids it may have."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from music_map.errors import UserError
from music_map.text import printable

# The kinds, by their numbers in the store: the names of the logs in the singular.
KINDS = ("listen", "like", "dislike", "unlike", "undislike")
# Characters of an id.
MOST_ID, MOST_EVENT_ID = 1_024, 128


class Event(NamedTuple):
    """What a listener did.

    Attributes:
      id: of the event; the same id is the same event.
      user, song: ids as the logs have them; numbers as text.
      kind: one of KINDS.
      time: seconds since 1970, UTC.
      played: share of the song that was played, 0 to 1; 1 where the kind is not "listen".
    """

    id: str
    user: str
    song: str
    kind: str
    time: int
    played: float = 1.0


def id_of(value: str | int, most: int = MOST_ID) -> str:
    """An id as the store has it: 7 and "7" are one. Raises UserError for a text that is no id, without naming it."""
    text = str(value)
    if not 0 < len(text) <= most:
        raise UserError(f"must have 1 to {most} characters, not {len(text)}")
    if printable(text) != text:
        raise UserError("has a control character or half of a surrogate pair; ids are printable text")
    return text


def digest(user: str) -> str:
    """The sha256 (hex) of a user's id: what is kept of a user who was forgotten."""
    return hashlib.sha256(user.encode()).hexdigest()
