"""Which artists and albums a song belongs to, in the mapping files: some songs have several artists, some none."""

from __future__ import annotations

import numpy as np

from music_map.synthetic.catalogue import Catalogue
from music_map.synthetic.streams import Stream, generator, sparse_ids

_NO_ARTIST, _SECOND_ARTIST = 0.06, 0.05
_COMPILED = 0.03  # songs that are on a second album


def _by_owner(owner_id: np.ndarray, item_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.unique(owner_id.astype(np.uint64) << np.uint64(32) | item_id)
    return (rows >> np.uint64(32)).astype(np.uint32), (rows & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def artist_numbers(catalogue: Catalogue, seed: int) -> np.ndarray:
    """The id of each artist in the files, uint32 [A]."""
    return _numbers(generator(seed, Stream.MAPPINGS, 0), catalogue.num_artists)


def album_numbers(catalogue: Catalogue, seed: int) -> np.ndarray:
    """The id of each album in the files, uint32."""
    return _numbers(generator(seed, Stream.MAPPINGS, 1), int(catalogue.album[-1]) + 1)


def _numbers(rng: np.random.Generator, count: int) -> np.ndarray:
    return sparse_ids(rng, count, 8)[rng.permutation(count)]


def artist_rows(catalogue: Catalogue, listed: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (artist_id, item_id) rows of the `listed` songs (bool [N]), both uint32, sorted by artist, then song."""
    rng = generator(seed, Stream.MAPPINGS, 0)
    artist_id = _numbers(rng, catalogue.num_artists)
    artist = np.repeat(np.arange(catalogue.num_artists), np.diff(catalogue.artist_songs))
    named = np.flatnonzero(listed & (rng.random(len(artist)) >= _NO_ARTIST))
    guests = named[rng.random(len(named)) < _SECOND_ARTIST]
    # A guest is an artist of the same niche.
    niche = np.searchsorted(catalogue.niche_artists, artist[guests], "right") - 1
    low, high = catalogue.niche_artists[niche], catalogue.niche_artists[niche + 1]
    guest = low + (rng.random(len(guests)) * (high - low)).astype(np.int64)
    songs = np.concatenate([named, guests])
    return _by_owner(artist_id[np.concatenate([artist[named], guest])], catalogue.item_id[songs])


def album_rows(catalogue: Catalogue, listed: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (album_id, item_id) rows of the `listed` songs (bool [N]), both uint32, sorted by album, then song."""
    rng = generator(seed, Stream.MAPPINGS, 1)
    albums = int(catalogue.album[-1]) + 1
    album_id = _numbers(rng, albums)
    songs = np.flatnonzero(listed)
    compiled = songs[rng.random(len(songs)) < _COMPILED]
    album = np.concatenate([catalogue.album[songs], rng.integers(albums, size=len(compiled))])
    return _by_owner(album_id[album], catalogue.item_id[np.concatenate([songs, compiled])])
