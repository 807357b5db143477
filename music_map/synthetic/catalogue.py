"""The songs that can be played: niches of similar artists, their albums and songs, popularity and releases.

Songs of an album, an artist and a niche have consecutive numbers. Whatever a user draws from is then a range of songs,
and a draw is one binary search in a cumulative sum of weights.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from music_map.synthetic.settings import DURATION, Settings
from music_map.synthetic.streams import Stream, generator, sparse_ids

LATENT_DIM = 16
DAY = 86_400
NUM_DAYS = DURATION // DAY + 1
NUM_NEIGHBOURS = 4
LIKENESS = 8.0  # how much a user prefers niches near the user's own
NEW_FOR_DAYS = 30  # how long a release counts as new

_SONGS_PER_ARTIST = 7.3
_SONGS_PER_ALBUM = 2.8
_RELEASED_DURING = 0.25  # share of albums that are released within the logs: cold-start songs
_RECOMMENDER_BIAS = 1.25  # the recommender draws by weight ** this: more hits
_NEW_FLATTENING = 0.7  # new releases are drawn by weight ** this: popularity matters less
# To size the catalogue: share of listens that draw a song, and share of new releases among these.
_FRESH_SHARE, _NEW_SHARE = 0.41, 0.13

# Weight by popularity rank, read between the points on logarithmic scales. Fitted so that generated logs have
# Yambda-50M's most listened song (41,984 listens), number of songs with ten interactions (253,939 of 934,057), of songs
# with listens (877,168) and their median (3); the tail is flat because chance alone makes counts of 0 to 10 of it.
_RANKS = np.array([1, 10, 100, 1_000, 10_000, 100_000, 130_000, 160_000, 200_000, 254_000, 934_057, 3_000_000])
_WEIGHTS = np.array([53_000, 31_000, 13_000, 5_000, 880, 67, 33, 12, 2.8, 0.92, 0.69, 0.63])
_RANKED_SONGS = 934_057


class Catalogue(NamedTuple):
    """N songs of A artists in M niches.

    Attributes:
      niche_vector: float32 [M, 16], unit rows; near niches share listeners.
      niche_share: float64 [M], share of all song weight.
      niche_pull: float64 [M], log-odds, besides likeness, that a user takes up the niche; see `_pull`.
      niche_songs, niche_artists: int64 [M + 1]; niche m holds songs niche_songs[m]:niche_songs[m + 1].
      neighbours: int64 [M, 4], nearest other niches.
      anthem: int64 [M], the heaviest song of each niche that is out from the start.
      artist_vector: float32 [A, 16], the niche's plus an offset.
      artist_songs: int64 [A + 1], offsets as above.
      artist_cdf: float64 [A + 1], cumulative weight of the artists' songs.
      album: int32 [N], ascending.
      item_id: uint32 [N], the sparse id written to the files, in no order.
      release_day: uint16 [N], 0 where the song is out from the start.
      track_seconds: uint32 [N], multiples of 5.
      draw_cdf: float64 [2 * N + R + 1], cumulative weights of three tables, one after the other: all songs, all songs
        as the recommender sees them, and the R songs released during the logs by niche and day.
      new_songs: int64 [R], the songs of the third table.
      new_offsets: int64 [M, NUM_DAYS + 1]; niche m's releases before day d end at row new_offsets[m, d].
    """

    niche_vector: np.ndarray
    niche_share: np.ndarray
    niche_pull: np.ndarray
    niche_songs: np.ndarray
    niche_artists: np.ndarray
    neighbours: np.ndarray
    anthem: np.ndarray
    artist_vector: np.ndarray
    artist_songs: np.ndarray
    artist_cdf: np.ndarray
    album: np.ndarray
    item_id: np.ndarray
    release_day: np.ndarray
    track_seconds: np.ndarray
    draw_cdf: np.ndarray
    new_songs: np.ndarray
    new_offsets: np.ndarray

    @property
    def num_songs(self) -> int:
        return len(self.item_id)

    @property
    def num_artists(self) -> int:
        return len(self.artist_vector)


def popularity(ranks: np.ndarray, num_items: int, skew: float) -> np.ndarray:
    """Relative number of listens of the songs of the given ranks (1 = most popular), float64, positive.

    Ranks are stretched to Yambda-50M's number of songs, so a larger catalogue has the same curve.
    """
    stretched = np.log(np.asarray(ranks, np.float64) * (_RANKED_SONGS / num_items))
    return np.exp(skew * np.interp(stretched, np.log(_RANKS), np.log(_WEIGHTS)))


def catalogue_size(settings: Settings) -> int:
    """The number of songs of which about `num_items` are ever drawn.

    A song with d expected draws is drawn at least once with probability 1 - exp(-d).
    """
    draws = _FRESH_SHARE * settings.num_listens
    low, high = settings.num_items, 4 * settings.num_items
    while high - low > 1:
        size = (low + high) // 2
        # The midpoint of each (logarithmically spaced) range of ranks represents its songs.
        edges = np.unique(np.geomspace(1, size + 1, 4_000).astype(np.int64))
        weight = popularity((edges[:-1] + edges[1:] - 1) / 2, settings.num_items, settings.popularity_skew)
        songs = np.diff(edges)
        biased = weight**_RECOMMENDER_BIAS
        by_user, by_recommender = weight / np.sum(songs * weight), biased / np.sum(songs * biased)
        # The recommender makes six draws in ten, but its bias acts within niches, where weights differ less.
        old = draws * (1 - _NEW_SHARE) * (0.72 * by_user + 0.28 * by_recommender)
        boost = weight**_NEW_FLATTENING
        new = old / 2 + draws * _NEW_SHARE * boost / (np.sum(songs * boost) * _RELEASED_DURING)
        seen = np.sum(songs * -((1 - _RELEASED_DURING) * np.expm1(-old) + _RELEASED_DURING * np.expm1(-new)))
        low, high = (size, high) if seen < settings.num_items else (low, size)
    return high


def _partition(rng: np.random.Generator, total: int, weight: np.ndarray) -> np.ndarray:
    """Offsets [len(weight) + 1] of `total` things split into parts of at least one, in proportion to `weight`."""
    counts = 1 + rng.multinomial(total - len(weight), weight / weight.sum())
    return np.concatenate([[0], np.cumsum(counts)])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _pull(vector: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Log-odds [M] that give niches listeners in proportion to their songs' weight.

    A user is near niche h with probability share_h and takes up niche m with odds exp(LIKENESS cos(h, m) + pull_m).
    With pull = log share, niches with many similar ones would get too few listeners. So pull is adjusted until the
    expected demand sum_h share_h P(m | h) equals share_m (iterative proportional fitting).
    """
    likeness = LIKENESS * np.einsum("hd,nd->hn", vector, vector)
    pull = np.log(share)
    for _ in range(20):
        odds = np.exp(likeness + pull - (likeness + pull).max(axis=1, keepdims=True))
        pull = pull + np.log(share / (share @ (odds / odds.sum(axis=1, keepdims=True))))
    return pull


def build_catalogue(settings: Settings) -> Catalogue:
    """Draws the catalogue. Memory grows with the number of songs only: about 60 bytes a song, twice that in between."""
    rng = generator(settings.seed, Stream.CATALOGUE)
    num_songs = catalogue_size(settings)
    num_artists = max(8, round(num_songs / _SONGS_PER_ARTIST))
    num_niches = int(np.clip(np.sqrt(num_songs), 8, min(1024, num_artists // 2)))

    scenes = _unit(rng.standard_normal((max(2, num_niches // 6), LATENT_DIM)))
    niche_vector = scenes[rng.integers(len(scenes), size=num_niches)]
    niche_vector = _unit(niche_vector + rng.normal(0, 0.7 / np.sqrt(LATENT_DIM), niche_vector.shape))
    similarity = niche_vector @ niche_vector.T
    np.fill_diagonal(similarity, -np.inf)
    neighbours = np.argsort(-similarity, axis=1)[:, :NUM_NEIGHBOURS]

    niche_artists = _partition(rng, num_artists, rng.lognormal(0, 0.8, num_niches))
    niche_of_artist = np.repeat(np.arange(num_niches), np.diff(niche_artists))
    artist_vector = niche_vector[niche_of_artist] + rng.normal(0, 0.6 / np.sqrt(LATENT_DIM), (num_artists, LATENT_DIM))
    fame = rng.normal(0, 1.5, num_artists)
    # Known artists have more songs.
    artist_songs = _partition(rng, num_songs, np.exp(0.4 * fame + rng.normal(0, 0.9, num_artists)))
    artist = np.repeat(np.arange(num_artists, dtype=np.int32), np.diff(artist_songs))
    niche_songs = artist_songs[niche_artists]

    rank = np.empty(num_songs, np.int64)
    rank[np.argsort(-(fame[artist] + rng.normal(0, 1.3, num_songs)), kind="stable")] = np.arange(1, num_songs + 1)
    weight = popularity(rank, settings.num_items, settings.popularity_skew)
    del rank

    starts_album = rng.random(num_songs, np.float32) < 1 / _SONGS_PER_ALBUM
    starts_album[artist_songs[:-1]] = True
    album = np.cumsum(starts_album, dtype=np.int32) - 1
    num_albums = int(album[-1]) + 1
    day = rng.integers(1, NUM_DAYS, num_albums).astype(np.uint16)
    day[rng.random(num_albums) >= _RELEASED_DURING] = 0
    # Every niche has songs on the first day.
    day[album[niche_songs[:-1]]] = 0
    release_day = day[album]

    out_at_start = np.where(release_day == 0, weight, 0.0)
    anthem = [int(lo + np.argmax(out_at_start[lo:hi])) for lo, hi in itertools.pairwise(niche_songs)]
    del out_at_start

    new_songs = np.flatnonzero(release_day)
    niche_of_new = np.searchsorted(niche_songs, new_songs, "right") - 1
    key = niche_of_new * NUM_DAYS + release_day[new_songs]
    order = np.argsort(key, kind="stable")
    new_songs, key = new_songs[order], key[order]
    first_keys = np.arange(num_niches)[:, None] * NUM_DAYS + np.arange(NUM_DAYS + 1)[None, :]

    tables = weight, weight**_RECOMMENDER_BIAS, weight[new_songs] ** _NEW_FLATTENING
    niche_share = np.add.reduceat(weight, niche_songs[:-1]) / weight.sum()
    seconds = np.clip(rng.lognormal(np.log(195), 0.35, num_songs), 30, 1800)
    return Catalogue(
        niche_vector=niche_vector.astype(np.float32),
        niche_share=niche_share,
        niche_pull=_pull(niche_vector, niche_share),
        niche_songs=niche_songs,
        niche_artists=niche_artists,
        neighbours=neighbours,
        anthem=np.array(anthem),
        artist_vector=artist_vector.astype(np.float32),
        artist_songs=artist_songs,
        artist_cdf=np.concatenate([[0.0], np.cumsum(weight)])[artist_songs],
        album=album,
        item_id=sparse_ids(rng, num_songs, 8)[rng.permutation(num_songs)],
        release_day=release_day,
        track_seconds=(seconds / 5).astype(np.uint32) * 5,
        draw_cdf=np.cumsum(np.concatenate([[0.0], *tables])),
        new_songs=new_songs,
        new_offsets=np.searchsorted(key, first_keys),
    )


def draw_rows(cdf: np.ndarray, low: np.ndarray, high: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """One row of each range [low, high), in proportion to the weights that `cdf` accumulates. int64 like `low`.

    Args:
      cdf: float64 [R + 1], cdf[0] = 0; row r has weight cdf[r + 1] - cdf[r].
      low, high: int64 [K], low < high.
      uniform: float [K] in [0, 1).
    """
    base = cdf[low]
    rows = np.searchsorted(cdf, base + uniform * (cdf[high] - base), "right") - 1
    # Rounding can step over an end of the range.
    return np.clip(rows, low, high - 1)
