"""Likes and dislikes of a block of users, and unlikes and undislikes that withdraw some of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from music_map.synthetic.catalogue import DAY, Catalogue
from music_map.synthetic.listens import Listens
from music_map.synthetic.settings import DURATION, TICK, Settings
from music_map.synthetic.users import SHELF_SHARE, Tastes, pick

RECOMMENDED_LIKES = 0.42
RECOMMENDED_DISLIKES = 0.75
_RELIKE_SHARE = 0.08  # unlikes that are followed by another like of the same song
# Relative chances that a first listen of each Kind leads to a like or a dislike.
_LIKED = np.array([0.0, 1.6, 1.4, 1.0, 0.9, 0.5, 0.3])
_DISLIKED = np.array([0.0, 0.2, 0.3, 0.8, 1.0, 2.5, 3.0])


class Marks(NamedTuple):
    """K likes, dislikes, unlikes or undislikes, sorted by user, then timestamp.

    Attributes:
      user: int64 [K], position in the block.
      timestamp: uint32 [K], seconds, multiples of 5.
      song: int64 [K], index into the catalogue.
      is_organic: uint8 [K].
    """

    user: np.ndarray
    timestamp: np.ndarray
    song: np.ndarray
    is_organic: np.ndarray


class Quota(NamedTuple):
    """Numbers of rows of each kind in a block; shelf likes and relikes are added to `likes`."""

    likes: int
    dislikes: int
    unlikes: int
    undislikes: int
    relikes: int


def quotas(settings: Settings, num_listens: np.ndarray) -> list[Quota]:
    """Distributes the rows of a file over blocks in proportion to their listens; the sums are exact.

    Args:
      settings: the totals.
      num_listens: int64 [blocks].
    """
    done = np.concatenate([[0.0], np.cumsum(num_listens)]) / num_listens.sum()
    relikes = int(settings.num_unlikes * _RELIKE_SHARE)
    likes = max(0, settings.num_likes - relikes - int(settings.num_likes * SHELF_SHARE))
    totals = [likes, settings.num_dislikes, settings.num_unlikes, settings.num_undislikes, relikes]
    parts = [np.diff(np.floor(done * total + 1e-6).astype(np.int64)) for total in totals]
    return [Quota(*(int(n) for n in row)) for row in zip(*parts, strict=True)]


def _later(rng: np.random.Generator, timestamp: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Times `seconds` after `timestamp`, at least one tick later and within the logs: uint32."""
    left = DURATION - timestamp.astype(np.float64)
    lag = np.where(seconds < left, seconds, rng.random(len(seconds)) * left)
    ticks = np.clip((lag / TICK).astype(np.int64), 1, np.maximum(left / TICK, 1).astype(np.int64))
    return np.minimum(timestamp + ticks * TICK, DURATION).astype(np.uint32)


def _lag(rng: np.random.Generator, count: int, near: float, far: float, far_share: float) -> np.ndarray:
    """Exponential lags in seconds with mean `near`, or for a share `far_share` with mean `far`."""
    return rng.standard_exponential(count) * np.where(rng.random(count) < far_share, far, near)


def _choose(chance: np.ndarray, quota: int, rng: np.random.Generator) -> np.ndarray:
    """Draws `quota` positions (or all with a chance above 0) without replacement, weighted by chance; ascending.

    These have the smallest exponential(1) / chance (Efraimidis and Spirakis, 2006).
    """
    able = np.flatnonzero(chance > 0)
    if quota >= len(able):
        return able
    race = rng.standard_exponential(len(able)) / chance[able]
    return np.sort(able[np.argpartition(race, quota)[:quota]])


def _pair(user: np.ndarray, song: np.ndarray) -> np.ndarray:
    return user.astype(np.int64) << 40 | song


def _sorted(*parts: Marks) -> Marks:
    joined = Marks(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    order = np.lexsort((joined.timestamp, joined.user))
    return Marks(*(column[order] for column in joined))


def _after(listens: Listens, chosen: np.ndarray, lag: np.ndarray, rng: np.random.Generator) -> Marks:
    timestamp = _later(rng, listens.timestamp[chosen], lag)
    return Marks(listens.user[chosen].astype(np.int64), timestamp, listens.song[chosen], listens.is_organic[chosen])


def _withdrawn(marks: Marks, quota: int, mean_days: float, rng: np.random.Generator) -> Marks:
    """Withdraws `quota` of `marks` some time later; marks at the very end of the logs stay."""
    able = np.flatnonzero(marks.timestamp < DURATION)
    chosen = rng.permutation(able)[:quota]
    lag = _lag(rng, len(chosen), 300, mean_days * DAY, 0.7)
    timestamp = _later(rng, marks.timestamp[chosen], lag)
    organic = (rng.random(len(chosen)) >= RECOMMENDED_LIKES).astype(np.uint8)
    return Marks(marks.user[chosen], timestamp, marks.song[chosen], organic)


def _shelf_likes(
    catalogue: Catalogue,
    tastes: Tastes,
    heard: np.ndarray,
    count: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    rng: np.random.Generator,
) -> Marks:
    """Likes of songs that the user never plays: songs of the user's niches without the `heard` pairs."""
    user = np.repeat(np.arange(len(count)), count)
    slot = pick(np.cumsum(tastes.weight_start + tastes.weight_end, axis=1)[user], rng.random(len(user)))
    niche = tastes.niche[user, slot]
    low, high = catalogue.niche_songs[niche], catalogue.niche_songs[niche + 1]
    song = low + (rng.random(len(user)) * (high - low)).astype(np.int64)
    at = start[user] + rng.random(len(user)) * (end - start)[user]
    # No song is liked before its release.
    at = np.clip(at, catalogue.release_day[song] * float(DAY), DURATION)
    timestamp = (at / TICK).astype(np.uint32) * np.uint32(TICK)
    organic = (rng.random(len(user)) >= RECOMMENDED_LIKES).astype(np.uint8)
    pair, first = np.unique(_pair(user, song), return_index=True)
    keep = np.sort(first[~np.isin(pair, heard)])
    return Marks(*(column[keep] for column in (user, timestamp, song, organic)))


def marks_of_block(
    catalogue: Catalogue,
    tastes: Tastes,
    listens: Listens,
    shelf_likes: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    quota: Quota,
    rng: np.random.Generator,
) -> dict[str, Marks]:
    """Draws likes, dislikes, unlikes and undislikes of a block of B users.

    A like follows the first listen of a song, mostly within minutes; songs that are repeated often are liked more, and
    some users like much more than others. A disliked song is one that was played once. Every unlike (undislike)
    comes after a like (dislike) of the same user and song.

    Args:
      catalogue: the songs.
      tastes: of the B users.
      listens: of the B users.
      shelf_likes: int64 [B], likes of songs that the user never plays.
      start, end: float64 [B], seconds.
      quota: rows to draw.
      rng: of the block.

    Returns:
      Marks by the name of their file.
    """
    num_users = len(shelf_likes)
    plays = np.bincount(listens.root, minlength=len(listens.root))
    roots = np.flatnonzero(plays)
    # A user may draw a song several times; a mark follows the first listen.
    heard, first, pair_of_root = np.unique(
        _pair(listens.user[roots], listens.song[roots]), return_index=True, return_inverse=True
    )
    plays = np.bincount(pair_of_root, weights=plays[roots], minlength=len(heard))
    roots = roots[first]
    kind, skipped, by_recommender = listens.kind[roots], listens.played_pct[roots] == 0, listens.is_organic[roots] == 0
    shelf = _shelf_likes(catalogue, tastes, heard, shelf_likes, start, end, rng)

    eager = rng.lognormal(0, 1.2, num_users)[listens.user[roots]]
    chance = _LIKED[kind] * np.log1p(plays) * eager * np.where(skipped, 0.05, 1.0)
    # Shelf likes of songs that the user does play were dropped; other likes replace them.
    wanted = quota.likes + int(shelf_likes.sum()) - len(shelf.user)
    recommended = _choose(chance * by_recommender, round(wanted * RECOMMENDED_LIKES), rng)
    organic = _choose(chance * ~by_recommender, wanted - len(recommended), rng)
    liked = np.concatenate([recommended, organic])
    likes = _sorted(_after(listens, roots[liked], _lag(rng, len(liked), 90, 4 * DAY, 0.25), rng), shelf)

    cross = rng.lognormal(0, 1.2, num_users)[listens.user[roots]]
    chance = _DISLIKED[kind] * cross * np.where(skipped, 3.0, 1.0) * (plays == 1)
    chance[liked] = 0
    recommended = _choose(chance * by_recommender, round(quota.dislikes * RECOMMENDED_DISLIKES), rng)
    organic = _choose(chance * ~by_recommender, quota.dislikes - len(recommended), rng)
    disliked = np.concatenate([recommended, organic])
    dislikes = _sorted(_after(listens, roots[disliked], _lag(rng, len(disliked), 20, DAY, 0.05), rng))

    unlikes = _withdrawn(likes, quota.unlikes, 40, rng)
    again = np.flatnonzero(unlikes.timestamp < DURATION)[: quota.relikes]
    relikes = Marks(*(column[again] for column in unlikes))
    relikes = relikes._replace(timestamp=_later(rng, relikes.timestamp, _lag(rng, len(again), 600, 20 * DAY, 0.5)))
    return {
        "likes": _sorted(likes, relikes),
        "dislikes": dislikes,
        "unlikes": _sorted(unlikes),
        "undislikes": _sorted(_withdrawn(dislikes, quota.undislikes, 20, rng)),
    }
