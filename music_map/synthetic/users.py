"""Users: activity and span of each, and the tastes of a block of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from music_map.synthetic.catalogue import DAY, LIKENESS, Catalogue, draw_rows
from music_map.synthetic.settings import DURATION, MIN_LISTENS, Settings
from music_map.synthetic.streams import Stream, generator, sparse_ids

NUM_SLOTS = 8  # niches of a user
NUM_FAVOURITES = 5  # artists of a user in each niche
SHELF_SHARE = 0.105

# Yambda-50M: quantiles of the listens per listener, read between the points on a logarithmic scale.
_QUANTILES = np.array([0, 0.0012, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.995, 1])
_LISTENS = np.array([6, 9, 75, 330, 1_050, 3_023, 7_200, 13_100, 18_900, 24_200, 27_617])


class Users(NamedTuple):
    """All users, in the order of their ids.

    Attributes:
      uid: uint32 [U], sparse.
      num_listens: int64 [U], 0 for users with likes only.
      num_shelf_likes: int64 [U], likes of songs that the user never plays.
      start, end: float64 [U], seconds between which the user is active.
    """

    uid: np.ndarray
    num_listens: np.ndarray
    num_shelf_likes: np.ndarray
    start: np.ndarray
    end: np.ndarray


class Tastes(NamedTuple):
    """What B users like.

    Attributes:
      niche: int64 [B, 8].
      weight_start, weight_end: float64 [B, 8], the share of each niche at the first and the last second of the logs;
        linear in between.
      favourites: int64 [B, 8, 5], artists, the most liked first.
    """

    niche: np.ndarray
    weight_start: np.ndarray
    weight_end: np.ndarray
    favourites: np.ndarray


def listens_per_user(num_listeners: int, num_listens: int) -> np.ndarray:
    """Yambda-50M's listens per user, stretched to a total. int64 [num_listeners], ascending, sums to `num_listens`."""
    curve = np.exp(np.interp(np.linspace(0, 1, num_listeners), _QUANTILES, np.log(_LISTENS)))
    low, high = 0.0, 2 * num_listens / curve.mean()
    for _ in range(80):
        factor = (low + high) / 2
        total = np.sum(np.maximum(curve * factor, MIN_LISTENS).astype(np.int64))
        low, high = (factor, high) if total < num_listens else (low, factor)
    counts = np.maximum(curve * low, MIN_LISTENS).astype(np.int64)
    # Rounding down loses a few listens; users in the middle of the curve get them, so that both ends keep theirs.
    missing = num_listens - int(counts.sum())
    first, last = num_listeners // 4, max(num_listeners // 4 + 1, num_listeners * 3 // 4)
    counts[first:last] += np.diff(np.linspace(0, missing, last - first + 1).astype(np.int64))
    return np.sort(counts)


def build_users(settings: Settings) -> Users:
    """Draws activity and spans. The last user starts at second 0 and listens until the end of the logs."""
    rng = generator(settings.seed, Stream.USERS)
    total, listeners = settings.num_users, settings.num_listeners
    counts = np.zeros(total, np.int64)
    counts[total - listeners :] = listens_per_user(listeners, settings.num_listens)

    # Active users tend to be present throughout; the others come late, leave early or both.
    quantile = np.clip((np.arange(total) - (total - listeners)) / listeners, 0, 1)
    throughout = rng.random(total) < 0.5 + 0.45 * quantile
    length = np.minimum(DURATION, np.maximum(DAY, counts * 400.0))
    start = rng.random(total) * (DURATION - length) * 0.9
    end = start + length + rng.random(total) * (DURATION - start - length)
    start[throughout] = rng.random(throughout.sum()) * np.minimum(5 * DAY, DURATION - length[throughout])
    end[throughout] = DURATION
    end -= np.where(throughout, rng.random(total) * np.minimum(5 * DAY, DURATION - length - start).clip(0), 0.0)
    start[-1], end[-1] = 0.0, DURATION

    shelf = int(settings.num_likes * SHELF_SHARE)
    weight = rng.lognormal(0, 1.2, total) * np.where(counts == 0, 8.0, 1.0)
    silent = int(np.sum(counts == 0))
    shelf_likes = (counts == 0) + rng.multinomial(max(0, shelf - silent), weight / weight.sum())

    order = rng.permutation(total)
    return Users(
        sparse_ids(rng, total, 100), counts[order], shelf_likes[order].astype(np.int64), start[order], end[order]
    )


def draw_tastes(catalogue: Catalogue, num_users: int, rng: np.random.Generator) -> Tastes:
    """Draws the tastes of a block of users.

    A user has two points of the latent space, one for the start of the logs and one for their end, and takes niches
    near either with odds exp(LIKENESS * cosine + pull) (Gumbel top-k). Within a niche, artists whose offset from
    the niche leans the user's way are preferred.
    """
    niches = catalogue.niche_vector.astype(np.float64)
    num_niches, dim = niches.shape
    half = NUM_SLOTS // 2
    home = rng.choice(num_niches, p=catalogue.niche_share, size=num_users)
    first = niches[home] + rng.normal(0, 0.4 / np.sqrt(dim), (num_users, dim))
    second = first + rng.normal(0, 0.9 / np.sqrt(dim), (num_users, dim))

    def odds(point: np.ndarray) -> np.ndarray:
        # einsum, not BLAS, whose rounding (and so the rows of a seed) depends on the number of threads.
        likeness = LIKENESS * np.einsum("ud,nd->un", point, niches)
        return likeness + catalogue.niche_pull + rng.gumbel(size=likeness.shape)

    score = odds(first)
    early = np.argpartition(-score, half, axis=1)[:, :half]
    np.put_along_axis(score, early, -np.inf, axis=1)
    later = odds(second)
    later[np.isinf(score)] = -np.inf
    late = np.argpartition(-later, NUM_SLOTS - half, axis=1)[:, : NUM_SLOTS - half]
    # With fewer niches than slots, some slots share a niche.
    niche = np.concatenate([early, late], axis=1)

    mass = rng.gamma(0.7, 1.0, (num_users, NUM_SLOTS)) + 0.02
    drift = 0.2 + rng.random((num_users, 1)) * 0.7
    is_late = np.arange(NUM_SLOTS)[None, :] >= half
    weight_start = mass * np.where(is_late, 0.15, 1.0)
    weight_end = mass * np.where(is_late, 0.15 + drift, 1.0 - drift)

    low, high = catalogue.niche_artists[niche], catalogue.niche_artists[niche + 1]
    shape = (num_users, NUM_SLOTS, 4 * NUM_FAVOURITES)
    candidates = draw_rows(
        catalogue.artist_cdf,
        np.broadcast_to(low[:, :, None], shape),
        np.broadcast_to(high[:, :, None], shape),
        rng.random(shape),
    )
    lean = rng.standard_normal((num_users, dim))
    lean /= np.linalg.norm(lean, axis=1, keepdims=True)
    offset = catalogue.artist_vector[candidates] - catalogue.niche_vector[niche][:, :, None, :]
    liking = np.einsum("usad,ud->usa", offset, lean)
    best = np.argsort(-liking, axis=2)[:, :, :NUM_FAVOURITES]
    return Tastes(
        niche=niche,
        weight_start=weight_start / weight_start.sum(axis=1, keepdims=True),
        weight_end=weight_end / weight_end.sum(axis=1, keepdims=True),
        favourites=np.take_along_axis(candidates, best, axis=2),
    )


def pick(cumulative: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Index per row of `cumulative` [K, n] (rows end at their total) at the quantile `uniform` [K]."""
    return np.sum(cumulative < (uniform * cumulative[:, -1])[:, None], axis=1)
