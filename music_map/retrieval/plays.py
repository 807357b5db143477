"""Histories that queries bring along: what a listener played, liked and disliked, in the words of the logs."""

from __future__ import annotations

import dataclasses
import time as clock
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from music_map.errors import UserError
from music_map.ids import Ids
from music_map.preprocess.dataset import DISLIKE, EVENT_TYPES, LIKE, LISTEN, WITHDRAWAL_TYPES, Events, Withdrawals

KINDS = ("listen", "like", "dislike", "unlike", "undislike")
_CODES = {"listen": LISTEN, "like": LIKE, "dislike": DISLIKE, "unlike": LIKE, "undislike": DISLIKE}
_WITHDRAWN = ("unlike", "undislike")
# Most entries of a history; a listener of the Yambda logs has 27,617 listens at most.
MOST_PLAYS = 100_000
# Times that the logs' format holds.
_MOST_SECONDS = int(np.iinfo(EVENT_TYPES.timestamp).max)


class Play(NamedTuple):
    """An entry of a history; a tuple (song, time, played, kind) or a mapping with these keys is taken as well.

    Attributes:
      song: its id, as the logs have it.
      time: seconds, on the clock of the logs; None: now.
      played: share of the song that was played, 0 to 1; None: all of it. Of listens only.
      kind: "listen", "like", "dislike", or what withdraws one: "unlike", "undislike".
    """

    song: Any
    time: int | None = None
    played: float | None = None
    kind: str = "listen"


def plays_of(history: Iterable[Any]) -> tuple[Play, ...]:
    """The entries of a history, checked, apart from whether the songs are known.

    Raises:
      UserError: names the entry ("history[3]") and what is wrong with it.
    """
    if isinstance(history, str | bytes | Mapping) or not isinstance(history, Iterable):
        raise UserError("history: must be a list of entries (song, time, played, kind)")
    plays = tuple(entry if type(entry) is Play else _play(entry, at) for at, entry in enumerate(history))
    if len(plays) > MOST_PLAYS:
        raise UserError(f"history: {len(plays)} entries, at most {MOST_PLAYS}; give the latest of them")
    for at, (_, time, played, kind) in enumerate(plays):
        if kind not in KINDS:
            raise UserError(f"history[{at}]: kind={kind!r}: must be one of {', '.join(KINDS)}")
        if time is not None and not (_is_whole(time) and 0 <= time <= _MOST_SECONDS):
            raise UserError(f"history[{at}]: time={time!r}: must be whole seconds, 0 to {_MOST_SECONDS}, or null: now")
        # Also false for NaN.
        if played is not None and not (_is_number(played) and 0 <= played <= 1):
            raise UserError(f"history[{at}]: played={played!r}: must be the share of the song, 0 to 1, or null")
    return plays


def _play(entry: Any, at: int) -> Play:
    if isinstance(entry, Mapping):
        if unknown := [name for name in entry if name not in Play._fields]:
            raise UserError(f"history[{at}]: unknown field {unknown[0]!r}; fields are {', '.join(Play._fields)}")
        if "song" not in entry:
            raise UserError(f"history[{at}]: no song")
        return Play(**entry)
    if isinstance(entry, Sequence) and not isinstance(entry, str | bytes) and 1 <= len(entry) <= len(Play._fields):
        return Play(*entry)
    raise UserError(f"history[{at}]: must be (song, time, played, kind), or an object with these fields")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float | np.floating)


def _key(value: Any) -> Any:
    """What equal values have in common; they may be of any type."""
    try:
        return repr(value)
    except ValueError:  # Python refuses to write out integers of thousands of digits
        return id(value)


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """A history in indices, by time; of equal times listens, likes, dislikes, each in the order given.

    Attributes:
      events: of user 0; all organic.
      withdrawals: of user 0.
      unknown: ids of unknown songs, each once.
      now: seconds; no entry is later.
    """

    events: Events
    withdrawals: Withdrawals
    unknown: list[Any]
    now: int


def resolve(plays: Sequence[Play], songs: Ids, *, now: int | None, at_least: int = 0) -> History:
    """Looks up songs and times. An entry that is there twice, all its fields alike, counts once.

    Args:
      plays: of `plays_of`.
      songs: known ids.
      now: seconds; no entry may be later. None: the latest time, or `at_least`, and no entry may be later than the
        machine's clock.
      at_least: the least `now`, that of the logs.

    Raises:
      UserError: an entry is in the future; names it. `now` is no time, or earlier than the logs' end.
    """
    if now is not None and not (_is_whole(now) and at_least <= now <= _MOST_SECONDS):
        raise UserError(f"now={now!r}: must be whole seconds, from {at_least}, the end of the logs, to {_MOST_SECONDS}")
    times = [play.time for play in plays]
    latest = max((time for time in times if time is not None), default=0)
    limit = int(clock.time()) if now is None else now
    if latest > max(limit, at_least):
        at = next(i for i, time in enumerate(times) if time == latest)
        hint = "" if now is None else f", later than now={now}"
        raise UserError(f"history[{at}]: time={latest}: is in the future{hint}; times are seconds")
    now = max(latest, at_least) if now is None else int(now)
    item = songs.indices([play.song for play in plays])
    unknown = {_key(plays[at].song): plays[at].song for at in np.flatnonzero(item < 0)}
    of_kind = [play.kind for play in plays]
    kind = np.array([_CODES[name] for name in of_kind], EVENT_TYPES.kind)
    withdrawn = np.array([name in _WITHDRAWN for name in of_kind], bool)
    share = np.array([1.0 if play.played is None else play.played for play in plays], np.float64)
    percent = np.where((kind == LISTEN) & ~withdrawn, np.round(100 * share), 0).astype(EVENT_TYPES.played_pct)
    timestamp = np.array([now if time is None else time for time in times], EVENT_TYPES.timestamp)
    fields = (item, timestamp, kind, withdrawn, percent)
    # A stable sort: of equal entries the first is the first given.
    order = np.lexsort(fields)
    new = np.any([column[order][1:] != column[order][:-1] for column in fields], axis=0)
    first = order[np.append(True, new)[: len(order)]]
    first = first[item[first] >= 0]
    order = first[np.lexsort((first, kind[first], timestamp[first]))]
    events, marks = order[~withdrawn[order]], order[withdrawn[order]]
    zeros = np.zeros(len(plays), np.int32)
    organic = np.ones(len(plays), EVENT_TYPES.is_organic)
    columns = zeros, item.astype(np.int32), timestamp, kind, organic, percent
    return History(
        Events(*(column[events] for column in columns)),
        Withdrawals(*(column[marks].astype(t) for column, t in zip(columns, WITHDRAWAL_TYPES, strict=False))),
        list(unknown.values()),
        now,
    )
