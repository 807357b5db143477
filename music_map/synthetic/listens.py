"""Listens of a block of users: sessions, played shares, times, and the songs.

A listen either draws a song or repeats an earlier listen of its user. A repeat stores the position of the listen that
it repeats. Chains of these pointers are resolved by pointer doubling, so a whole block is computed by array operations,
in the order of the file: by user, then time.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np

from music_map.synthetic.catalogue import DAY, NEW_FOR_DAYS, Catalogue, draw_rows
from music_map.synthetic.settings import DURATION, TICK, Settings
from music_map.synthetic.users import Tastes, pick

RECOMMENDED_SHARE = 0.487
ZERO_SHARE = 0.0745
OVER_SHARE = 0.0047
MOST_PLAYED_PCT = 159
MOST_TIED = 160  # listens of a burst; with neighbours in the same five seconds about 163, as in Yambda-50M


class Kind(enum.IntEnum):
    """Where a listen's song comes from."""

    REPEAT = 0  # an earlier listen of the user
    FOCUS = 1  # the session's artist
    FAVOURITE = 2  # an artist that the user likes in the session's niche
    NICHE = 3  # the session's niche
    NEW = 4  # the latest releases of the niche
    NEARBY = 5  # a similar niche
    HIT = 6  # everything, by popularity


# Shares of the kinds after REPEAT among the songs that are drawn: by the user, and by the recommender, which knows the
# user's taste approximately.
_BY_USER = np.cumsum([0.25, 0.19, 0.30, 0.14, 0.12, 0.0])
_BY_RECOMMENDER = np.cumsum([0.06, 0.10, 0.34, 0.12, 0.24, 0.14])
_REPEATS_BY_USER, _REPEATS_BY_RECOMMENDER = 0.68, 0.50
# By kind: relative probability that a listen is skipped at once, and probability that it is played to the end.
_SKIPPED = np.array([0.8, 0.6, 0.7, 1.0, 1.2, 2.0, 2.6])
_FULL = np.array([0.60, 0.60, 0.56, 0.50, 0.46, 0.36, 0.32])
_FAVOURITE_SHARES = np.cumsum([0.34, 0.24, 0.18, 0.14, 0.10])
_RETRIES = 3
_CELL = 256  # of this many consecutive listens, at most one starts a burst
_BURSTS_PER_CELL = 0.04


class Listens(NamedTuple):
    """E listens, sorted by user, then timestamp.

    Attributes:
      user: int32 [E], position in the block.
      timestamp: uint32 [E], seconds, multiples of 5.
      song: int64 [E], index into the catalogue.
      is_organic: uint8 [E].
      played_pct: uint16 [E].
      kind: uint8 [E], Kind.
      root: int64 [E], position of the listen that drew the song; its own for a draw.
    """

    user: np.ndarray
    timestamp: np.ndarray
    song: np.ndarray
    is_organic: np.ndarray
    played_pct: np.ndarray
    kind: np.ndarray
    root: np.ndarray


class _Sessions(NamedTuple):
    """Attributes of S sessions; `of_listen` is the session of each of E listens."""

    of_listen: np.ndarray
    slot: np.ndarray
    niche: np.ndarray
    artist: np.ndarray
    recommended: np.ndarray
    replay: np.ndarray


def _sessions(
    tastes: Tastes, user: np.ndarray, nth: np.ndarray, moment: np.ndarray, rng: np.random.Generator
) -> _Sessions:
    """Cuts each user's listens into sessions (or moods of them) of one niche, and mostly of one artist.

    Args:
      user: int32 [E].
      nth: int64 [E], position among the user's listens.
      moment: float64 [E], roughly the time as a share of the duration of the logs.
      rng: of the block.
    """
    num_users = len(tastes.niche)
    length = rng.uniform(6, 22, num_users)
    begins = (rng.random(len(user), np.float32) < (1 / length).astype(np.float32)[user]) | (nth == 0)
    first = np.flatnonzero(begins)
    who = user[first]
    at = moment[first, None]
    weight = tastes.weight_start[who] * (1 - at) + tastes.weight_end[who] * at
    slot = pick(np.cumsum(weight, axis=1), rng.random(len(first)))
    favourite = np.searchsorted(_FAVOURITE_SHARES[:-1], rng.random(len(first)), "right")
    reliance = rng.beta(2, 2, num_users)
    # The share is taken over listens, not users, whose activity differs by orders of magnitude.
    for _ in range(3):
        reliance = np.minimum(reliance * (RECOMMENDED_SHARE / reliance[user].mean()), 0.98)
    return _Sessions(
        of_listen=np.cumsum(begins) - 1,
        slot=slot,
        niche=tastes.niche[who, slot],
        artist=tastes.favourites[who, slot, favourite],
        recommended=rng.random(len(first)) < reliance[who],
        replay=rng.random(len(first)) < 0.25,
    )


def _kinds(sessions: _Sessions, nth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Kind of each listen, uint8 [E]; repeats grow more frequent with the number of earlier listens."""
    recommended = sessions.recommended[sessions.of_listen]
    most = np.where(recommended, np.float32(_REPEATS_BY_RECOMMENDER), np.float32(_REPEATS_BY_USER))
    known = (nth / (nth + 25.0)).astype(np.float32)
    drawn = np.flatnonzero(rng.random(len(nth), np.float32) >= most * known)
    uniform = rng.random(len(drawn))
    kind = np.zeros(len(nth), np.uint8)
    kind[drawn] = 1 + np.where(
        recommended[drawn],
        np.searchsorted(_BY_RECOMMENDER[:-1], uniform, "right"),
        np.searchsorted(_BY_USER[:-1], uniform, "right"),
    )
    return kind


def _run_heads(sessions: _Sessions, runs: float, rng: np.random.Generator) -> np.ndarray:
    """The listen that each listen goes on with, the first of its run (see Settings.artist_runs): int64 [E]."""
    row = np.arange(len(sessions.of_listen))
    if not runs:
        return row
    begins = (rng.random(len(row), np.float32) >= runs) | (np.diff(sessions.of_listen, prepend=-1) > 0)
    return np.maximum.accumulate(np.where(begins, row, 0))


def _played(kind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Played share of each listen in percent, uint16 [E]: 0 for a skip, 100 mostly, a few replays above."""
    skipped = _SKIPPED * (ZERO_SHARE / max(_SKIPPED[kind].mean(), 1e-9))
    uniform = rng.random(len(kind), np.float32)
    part = rng.random(len(kind), np.float32)
    zero = skipped.astype(np.float32)[kind]
    # Most listens that are not played to the end stop early.
    played = (1 + 99 * part**1.7).astype(np.uint16)
    played[uniform < zero + _FULL.astype(np.float32)[kind]] = 100
    played[uniform < zero] = 0
    over = np.flatnonzero(uniform >= np.float32(1 - OVER_SHARE))
    played[over] = 101 + ((MOST_PLAYED_PCT - 100) * part[over] ** 3).astype(np.uint16)
    return played


def _timestamps(
    user: np.ndarray,
    first: np.ndarray,
    begins: np.ndarray,
    played: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Times from gaps: the played time within a session, heavy-tailed pauses between sessions; uint32 [E].

    Args:
      user: int32 [E], ascending.
      first: int64 [B'], position of the first listen of each user with listens.
      begins: bool [E], whether a session begins.
      played: uint16 [E].
      start, end: float64 [B], the user's span: the first listen is at its start, the last at its end.
      rng: of the block.
    """
    count = len(user)
    listened = played[:-1] * np.float32(0.01) * rng.uniform(140, 250, count - 1).astype(np.float32)
    gap = np.zeros(count)
    gap[1:] = listened + 6 * rng.random(count - 1, np.float32)

    cells = count // _CELL
    burst = np.flatnonzero(rng.random(cells) < _BURSTS_PER_CELL)
    size = np.minimum(3 / (1e-6 + rng.random(len(burst))), MOST_TIED).astype(np.int64)
    at = burst * _CELL + (rng.random(len(burst)) * (_CELL - size)).astype(np.int64)
    edges = np.zeros(count + 1, np.int32)
    edges[at + 1] += 1
    edges[at + size] -= 1
    tied = np.cumsum(edges[:-1]) > 0

    pause = np.zeros(count)
    pause[begins] = rng.standard_exponential(begins.sum()) ** 1.6
    gap[begins | tied] = 0
    pause[tied] = 0
    gap[first] = pause[first] = 0

    # Pauses fill a user's span. Listening time is compressed to at most 70 % of it.
    present = user[first]
    span = (end - start)[present]
    inside, outside = np.add.reduceat(gap, first), np.add.reduceat(pause, first)
    faster = np.minimum(1, np.where(outside > 0, 0.7, 1.0) * span / np.maximum(inside, 1))
    slower = np.where(outside > 0, (span - inside * faster) / np.maximum(outside, 1e-9), 0)
    factor = np.zeros((2, len(start)))
    factor[:, present] = faster, slower
    elapsed = np.cumsum(gap * factor[0][user] + pause * factor[1][user])
    begin = np.zeros(len(start))
    begin[present] = start[present] - elapsed[first]
    # Rounding of the sums must not move the last listen beyond the end.
    seconds = np.minimum(elapsed + begin[user], DURATION) + 1e-3
    return (seconds / TICK).astype(np.uint32) * np.uint32(TICK)


def _ranges(
    catalogue: Catalogue,
    kind: np.ndarray,
    niche: np.ndarray,
    artist: np.ndarray,
    recommended: np.ndarray,
    day: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `draw_cdf` from which listens of the given kinds draw: int64 [K], [K]. All arguments have length K."""
    songs = catalogue.num_songs
    by_artist = (kind == Kind.FOCUS) | (kind == Kind.FAVOURITE)
    low = np.where(by_artist, catalogue.artist_songs[artist], catalogue.niche_songs[niche])
    high = np.where(by_artist, catalogue.artist_songs[artist + 1], catalogue.niche_songs[niche + 1])
    hit = kind == Kind.HIT
    low[hit], high[hit] = 0, songs
    shift = recommended * np.int64(songs)
    low += shift
    high += shift

    new = np.flatnonzero(kind == Kind.NEW)
    today = day[new].astype(np.int64)
    first = catalogue.new_offsets[niche[new], np.maximum(today - NEW_FOR_DAYS, 0)]
    last = catalogue.new_offsets[niche[new], today + 1]
    some = first < last
    # A niche without recent releases keeps its whole range.
    low[new[some]] = 2 * songs + first[some]
    high[new[some]] = 2 * songs + last[some]
    return low, high


def _draw(
    catalogue: Catalogue, low: np.ndarray, high: np.ndarray, day: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A song of each range of rows, int64 [K], and the positions for which every draw was a song not yet released."""
    song, todo = np.zeros(len(low), np.int64), np.arange(len(low))
    for _ in range(_RETRIES):
        rows = draw_rows(catalogue.draw_cdf, low[todo], high[todo], rng.random(len(todo)))
        song[todo] = _song_of_row(catalogue, rows)
        todo = todo[catalogue.release_day[song[todo]] > day[todo]]
    return song, todo


def _song_of_row(catalogue: Catalogue, row: np.ndarray) -> np.ndarray:
    songs = catalogue.num_songs
    song = np.where(row >= songs, row - songs, row)
    new = np.flatnonzero(row >= 2 * songs)
    song[new] = catalogue.new_songs[row[new] - 2 * songs]
    return song


def _repeated(sessions: _Sessions, nth: np.ndarray, repeats: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many listens back each repeat points, int64 [len(repeats)], in 1..nth.

    The distance is exp(sqrt(uniform) * log(nth + 1)): recent listens are likelier, but any can be repeated. A session
    that replays has one distance for all its listens, so it repeats an earlier stretch of listening. Other sessions
    make two draws and take the second if only that one is of the session's niche.
    """
    session = sessions.of_listen[repeats]
    n = nth[repeats]
    log_n = np.log(n + 1.0)

    def distance(uniform: np.ndarray) -> np.ndarray:
        return np.clip(np.exp(np.sqrt(uniform) * log_n).astype(np.int64), 1, n)

    back = distance(rng.random(len(repeats)))
    other = distance(rng.random(len(repeats)))
    slot = sessions.slot[session]
    strays = sessions.slot[sessions.of_listen[repeats - back]] != slot
    fits = sessions.slot[sessions.of_listen[repeats - other]] == slot
    back = np.where(strays & fits, other, back)
    replay = sessions.replay[session]
    shared = rng.random(len(sessions.slot))[session[replay]]
    far = np.clip(np.exp(np.sqrt(shared) * log_n[replay]).astype(np.int64), 1, n[replay])
    back[replay] = far
    return back


def _continue_runs(
    catalogue: Catalogue,
    head: np.ndarray,
    more: np.ndarray,
    day: np.ndarray,
    song: np.ndarray,
    root: np.ndarray,
    kind: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draws songs of the artists of runs' first listens for the others, `more`; writes to `song`, `root` and `kind`."""
    artist = np.searchsorted(catalogue.artist_songs, song[head[more]], "right") - 1
    low, high = catalogue.artist_songs[artist], catalogue.artist_songs[artist + 1]
    todo, unreleased = np.arange(len(more)), np.zeros(len(more), bool)
    for _ in range(_RETRIES):
        rows = more[todo]
        song[rows], late = _draw(catalogue, low[todo], high[todo], day[rows], rng)
        unreleased[todo] = False
        unreleased[todo[late]] = True
        # Another one instead of the song before it, or the one before that in the run.
        second = np.maximum(rows - 2, head[rows])
        todo = todo[(song[rows] == song[rows - 1]) | (song[rows] == song[second])]
    # A run whose first listen had to repeat the one before it does so too.
    again = more[unreleased | (kind[more] == Kind.REPEAT)]
    root[again], kind[again] = again - 1, Kind.REPEAT


def listens_of_block(
    catalogue: Catalogue,
    tastes: Tastes,
    num_listens: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    rng: np.random.Generator,
    *,
    settings: Settings,
) -> Listens:
    """Draws the listens of a block of B users.

    Args:
      catalogue: the songs.
      tastes: of the B users.
      num_listens: int64 [B], 0 allowed.
      start, end: float64 [B], seconds.
      rng: of the block.
      settings: its moods_per_session and artist_runs.
    """
    num_users = len(num_listens)
    user = np.repeat(np.arange(num_users, dtype=np.int32), num_listens)
    count = len(user)
    if count == 0:
        empty = np.zeros(0, np.int64)
        return Listens(
            user,
            empty.astype(np.uint32),
            empty,
            empty.astype(np.uint8),
            empty.astype(np.uint16),
            empty.astype(np.uint8),
            empty,
        )
    offset = np.cumsum(num_listens) - num_listens
    nth = np.arange(count) - offset[user]
    pace = (end - start) / np.maximum(num_listens, 1)
    sessions = _sessions(tastes, user, nth, (start[user] + nth * pace[user]) / DURATION, rng)
    kind = _kinds(sessions, nth, rng)
    head = _run_heads(sessions, settings.artist_runs, rng)
    kind = kind[head]
    played = _played(kind, rng)
    first = offset[num_listens > 0]
    begins = np.diff(sessions.of_listen, prepend=-1) > 0
    if settings.moods_per_session > 1:
        begins &= (rng.random(count, np.float32) < np.float32(1 / settings.moods_per_session)) | (nth == 0)
    timestamp = _timestamps(user, first, begins, played, start, end, rng)

    row = np.arange(count)
    root = row.copy()
    repeats = np.flatnonzero(kind == Kind.REPEAT)
    root[repeats] -= _repeated(sessions, nth, repeats, rng)
    if settings.artist_runs:
        # A run repeats a run; its distance is that of its first listen.
        root[repeats] = repeats - (head - root[head])[repeats]

    song = np.zeros(count, np.int64)
    drawn = kind != Kind.REPEAT
    todo = np.flatnonzero(drawn & (head == row))
    session = sessions.of_listen[todo]
    niche = sessions.niche[session]
    near = np.flatnonzero(kind[todo] == Kind.NEARBY)
    niche[near] = catalogue.neighbours[niche[near], rng.integers(catalogue.neighbours.shape[1], size=len(near))]
    favourite = np.searchsorted(_FAVOURITE_SHARES[:-1], rng.random(len(todo)), "right")
    artist = np.where(
        kind[todo] == Kind.FAVOURITE,
        tastes.favourites[user[todo], sessions.slot[session], favourite],
        sessions.artist[session],
    )
    day = timestamp[todo] // DAY
    low, high = _ranges(catalogue, kind[todo], niche, artist, sessions.recommended[session], day)
    song[todo], unreleased = _draw(catalogue, low, high, day, rng)
    # Where all draws were unreleased songs, the previous listen is repeated, or else the niche's anthem is played.
    todo, niche = todo[unreleased], niche[unreleased]
    song[todo] = catalogue.anthem[niche]
    again = todo[nth[todo] > 0]
    root[again] = again - 1
    kind[again] = Kind.REPEAT
    if settings.artist_runs:
        kind = kind[head]
        _continue_runs(catalogue, head, np.flatnonzero(drawn & (head < row)), timestamp // DAY, song, root, kind, rng)

    while True:
        further = root[root]
        if np.array_equal(further, root):
            break
        root = further
    return Listens(
        user=user,
        timestamp=timestamp,
        song=song[root],
        is_organic=(~sessions.recommended[sessions.of_listen]).astype(np.uint8),
        played_pct=played,
        kind=kind,
        root=root,
    )
