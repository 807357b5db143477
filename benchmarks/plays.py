"""Statistics of plays.

A session ends with a pause of more than half an hour. "Before" means earlier in the window. The Zipf exponent s is the
slope of log plays on log rank by least squares, over the ranks from 10 up to the last with 5 plays: plays ~ rank^-s. A
step is two songs that follow each other in a session; it is known if another user made it on a day before. Targets are
the distinct pairs of user and song of the last day, of users with earlier plays.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from music_map.preprocess.dataset import LISTEN, SPLITS, Dataset
from music_map.raw.layout import item_file
from music_map.raw.reader import Table, open_events
from music_map.raw.schema import ITEM_SCHEMAS

DAY, PAUSE = 86_400, 1_800
# Shortest time since the user's last play of the same song, seconds, and name; the first row is for the same session.
GAPS = ((0, "an hour at most"), (3_600, "a day at most"), (DAY, "a week at most"), (7 * DAY, "longer"))


class Plays(NamedTuple):
    """P plays, sorted by user, then time.

    Attributes:
      user, song: int64 [P], 0, 1, ...
      time: int64 [P], seconds.
      artist: int64 [P], the first artist of the song, -1 where none is known.
    """

    user: np.ndarray
    song: np.ndarray
    time: np.ndarray
    artist: np.ndarray


def of_raw(folder: Path, size: str) -> Plays:
    """The listens of raw logs."""
    read = list(open_events(folder, size)["listens"].batches(["uid", "timestamp", "item_id"]))
    user, time, song = (np.concatenate([batch[name] for batch in read]) for name in ("uid", "timestamp", "item_id"))
    artist, path = np.full(len(song), -1, np.int64), item_file(folder, size, "artist_item_mapping")
    if path.is_file():
        rows = list(Table.open(path, ITEM_SCHEMAS["artist_item_mapping"]).batches(["artist_id", "item_id"]))
        artists, items = (np.concatenate([batch[name] for batch in rows]) for name in ("artist_id", "item_id"))
        items, first = np.unique(items, return_index=True)
        at = np.searchsorted(items, song).clip(max=len(items) - 1)
        artist = np.where(items[at] == song, artists[first][at].astype(np.int64), -1)
    return Plays(user, song, time.astype(np.int64), artist)


def of_processed(folder: Path) -> Plays:
    """The listens of a processed data set."""
    data = Dataset.open(folder)
    splits = [data.events(split) for split in SPLITS]
    columns = ("user", "item", "timestamp", "kind")
    user, song, time, kind = (np.concatenate([getattr(events, name) for events in splits]) for name in columns)
    order = np.lexsort((time, user))
    order = order[kind[order] == LISTEN]
    features = data.item_features()
    first, some = features.artist_offsets[:-1], np.diff(features.artist_offsets) > 0
    artist = np.full(data.num_items, -1, np.int64)
    artist[some] = features.artists[first[some]]
    return Plays(user[order], song[order], time[order].astype(np.int64), artist[song[order]])


def window(plays: Plays, *, days: float, users: int, seed: int) -> Plays:
    """The last `days` days and `users` of their users (0: all), renumbered."""
    if days:
        plays = Plays(*(column[plays.time > plays.time.max() - days * DAY] for column in plays))
    found, user = np.unique(plays.user, return_inverse=True)
    if users and users < len(found):
        chosen = np.zeros(len(found), bool)
        chosen[np.random.default_rng(seed).choice(len(found), users, replace=False)] = True
        plays = Plays(*(column[chosen[user]] for column in plays))
        user = np.unique(plays.user, return_inverse=True)[1]
    song = np.unique(plays.song, return_inverse=True)[1]
    return Plays(user, song, plays.time - plays.time.min(), plays.artist)


def previous(key: np.ndarray) -> np.ndarray:
    """Row of the previous row with the same key, -1 where it is the first: int64 like `key`."""
    order = np.argsort(key, kind="stable")
    found = np.full(len(key), -1)
    same = key[order][1:] == key[order][:-1]
    found[order[1:][same]] = order[:-1][same]
    return found


def zipf(counts: np.ndarray) -> float:
    """The exponent s of counts ~ rank^-s, see the top of this file; NaN for fewer than 20 ranks."""
    counts = np.sort(counts)[::-1]
    last = int(np.sum(counts >= 5))
    if last < 30:
        return float("nan")
    ranks = np.arange(10, last + 1)
    return -float(np.polyfit(np.log(ranks), np.log(counts[9:last]), 1)[0])


def statistics(plays: Plays) -> dict[str, float]:
    """The figures of a log, by name."""
    user, song, time, artist = plays
    num_songs = int(song.max()) + 1
    per_user, per_song = np.bincount(user), np.bincount(song)
    row = np.arange(len(user))
    follows = np.zeros(len(user), bool)
    follows[1:] = (np.diff(user) == 0) & (np.diff(time) <= PAUSE)
    session = np.cumsum(~follows) - 1
    lengths = np.bincount(session)
    day = time // DAY

    before = previous(user * num_songs + song)
    again = before >= 0
    gap = np.where(again, time - time[before], -1)
    nth = row - np.searchsorted(user, user)
    late = nth >= 100

    names = np.unique(artist, return_inverse=True)[1]
    known = artist >= 0
    of_artist = previous(user * (int(names.max()) + 1) + names) >= 0
    artists_a_session = len(np.unique(session[known] * (int(names.max()) + 1) + names[known])) / max(
        1, len(np.unique(session[known]))
    )

    first_day = np.full(num_songs, np.iinfo(np.int64).max)
    np.minimum.at(first_day, song, day)
    new = first_day[song] == day
    last = int(day.max())
    target = np.unique(user[day == last] * num_songs + song[day == last])
    own = np.unique(user[day < last] * num_songs + song[day < last])
    target = target[np.isin(target // num_songs, user[day < last])]

    step = np.flatnonzero(follows & (song != np.roll(song, 1)))
    pair = song[step - 1] * num_songs + song[step]
    known_step = known_pairs(pair, user[step], day[step])

    def share(of: np.ndarray, among: np.ndarray | None = None) -> float:
        chosen = of if among is None else of[among]
        return float(chosen.mean()) if len(chosen) else float("nan")

    def top(rows: np.ndarray) -> set[int]:
        return set(np.argsort(-np.bincount(song[rows], minlength=num_songs), kind="stable")[:100].tolist())

    found = {
        "plays": len(user),
        "users": len(per_user),
        "songs": num_songs,
        "days": float(time.max() / DAY),
        "plays a user, mean": float(per_user.mean()),
        "plays a user, median": float(np.median(per_user)),
        "plays a song, median": float(np.median(per_song)),
        "share of songs with one play": share(per_song == 1),
        "share of plays on the top 1 % of songs": float(
            np.sort(per_song)[::-1][: max(1, num_songs // 100)].sum() / len(user)
        ),
        "Zipf exponent of songs": zipf(per_song),
        "Zipf exponent of users": zipf(per_user),
        "plays a session, mean": float(lengths.mean()),
        "plays a session, median": float(np.median(lengths)),
        "plays a session, 90 %": float(np.quantile(lengths, 0.9)),
        "sessions a user and active day": len(lengths) / len(np.unique(user * (last + 1) + day)),
        "songs an artist, mean": float(len(np.unique(song[known])) / max(1, len(np.unique(artist[known])))),
        "artists a session": artists_a_session,
        "in a session: same artist as the play before": share((names == np.roll(names, 1))[follows & known]),
        "in a session: same song as the play before": share((song == np.roll(song, 1))[follows]),
        "in a session: song played earlier in it": share((again & (session == session[before]))[follows]),
        "plays of a song played before": share(again),
        "plays of a song played before, after 100 plays": share(again, late),
        "plays of an artist played before": share(of_artist, known),
    }
    for (least, name), most in zip(GAPS, [*(g for g, _ in GAPS[1:]), np.inf], strict=True):
        found[f"repeats after {name}"] = share((gap >= least) & (gap < most), again)
    found |= {
        "new songs a day (share of its plays)": share(new, day > 0),
        "targets of the last day played before by the user": share(np.isin(target, own)),
        "targets of the last day played before by anybody": share(first_day[target % num_songs] < last),
        "top 100 of the first half that stay": len(top(time < time.max() / 2) & top(time >= time.max() / 2)) / 100,
        "steps known": share(known_step, day[step] > 0),
    }
    return found


def known_pairs(pair: np.ndarray, user: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Whether another user has the same pair on a day before: bool [S]."""
    order = np.lexsort((day, pair))
    known = np.zeros(len(pair), bool)
    starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
    for begin, end in zip(starts, np.append(starts[1:], len(order)), strict=True):
        if end - begin > 1:
            rows = order[begin:end]
            earlier = (day[rows][None] < day[rows][:, None]) & (user[rows][None] != user[rows][:, None])
            known[rows] = earlier.any(axis=1)
    return known
