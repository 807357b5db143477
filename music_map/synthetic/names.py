"""Invented titles, artists, albums and genres of generated songs, so that tables and maps of them can be read.

They are drawn from a stream of their own: the events, ids and features of a seed do not depend on them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from music_map.raw.layout import id_table_path
from music_map.synthetic.catalogue import Catalogue
from music_map.synthetic.mappings import album_numbers, artist_numbers
from music_map.synthetic.streams import Stream, generator

_BASES = ("Folk", "Techno", "Soul", "Rock", "Jazz", "Ambient", "Pop", "House", "Hip-Hop", "Metal", "Blues", "Disco")
_STYLES = (
    "Harbour", "Desert", "Neon", "Chamber", "Garage", "Northern", "Cosmic", "Dusty", "Velvet", "Electric", "Slow",
    "Acid", "Island", "Baroque", "Midnight", "Tropical", "Rust", "Paper", "Highland", "Analog", "Coastal", "Glass",
    "Wild", "Lo-Fi",
)  # fmt: skip
_ADJECTIVES = (
    "Silver", "Hollow", "Quiet", "Crooked", "Golden", "Restless", "Pale", "Burning", "Distant", "Gentle", "Broken",
    "Electric", "Wandering", "Hidden", "Scarlet", "Frozen", "Lonely", "Secret", "Young", "Last", "Brave", "Faded",
    "Endless", "Savage", "Blue", "Drowsy", "Honest", "Lucky", "Marble", "Salt",
)  # fmt: skip
_NOUNS = (
    "River", "Mirror", "Lantern", "Winter", "Garden", "Machine", "Harbour", "Feather", "Signal", "Orchard", "Tiger",
    "Window", "Thunder", "Ocean", "Letter", "Shadow", "Engine", "Meadow", "Diamond", "Compass", "Satellite", "Fever",
    "Kingdom", "Candle", "Horizon", "Avenue", "Echo", "Summer", "Bridge", "Anchor", "Comet", "Paradise", "Motel",
    "Skyline", "Dream", "Stranger", "Radio", "Fire", "Cinema", "Moon",
)  # fmt: skip
_FIRST = (
    "Ada", "Milo", "Ines", "Otis", "Freya", "Ravi", "Lena", "Hugo", "Mara", "Theo", "Yuki", "Amara", "Felix", "Nora",
    "Caspar", "Zadie", "Ivo", "Selma", "Marlon", "Tilda", "Jun", "Esme", "Omar", "Greta",
)  # fmt: skip
_LAST = tuple(
    "".join(parts) for parts in product(
        ("Bar", "Cald", "Dor", "Fen", "Gal", "Hol", "Kest", "Lind", "Mar", "Nor", "Pell", "Rav", "Sor", "Tor", "Vin"),
        ("a", "e", "i", "o"),
        ("berg", "by", "dale", "gren", "lock", "man", "ner", "rell", "sen", "ston", "va", "wick"),
    )
)  # fmt: skip
_PLACES = ("Lisbon", "Oslo", "Havana", "Kyoto", "Dakar", "Tulsa", "Bergen", "Lima", "Malmo", "Austin", "Leeds", "Turin")
_WORDS: Mapping[str, Sequence[str]] = {
    "adjective": _ADJECTIVES,
    "noun": _NOUNS,
    "other": _NOUNS,
    "first": _FIRST,
    "last": _LAST,
    "place": _PLACES,
    "verb": ("Chasing", "Leaving", "Holding", "Painting", "Losing", "Following", "Breaking", "Waiting for", "Feeding"),
    "hour": ("Midnight", "Dawn", "Noon", "Four A.M.", "Dusk", "Sunday"),
}
_ARTISTS = (
    "The {adjective} {noun}s", "{first} {last}", "{first} {last}", "{last} & {last}", "{noun} {other}", "{last}",
    "{first} and the {noun}s", "{place} {noun} Club", "{adjective} {last}",
)  # fmt: skip
_ALBUMS = ("{adjective} {noun}", "{noun} & {other}", "{place}, {hour}", "The {noun} Years", "{verb} {place}", "{noun}s")
_SONGS = (
    "{adjective} {noun}", "{verb} the {noun}", "{noun} in the {other}", "{hour} {noun}", "{verb} {first}", "{noun}",
    "My {adjective} {noun}", "{noun} on {noun} Street", "No {noun}, No {other}", "{first}'s {noun}",
    "Another {adjective} {noun}", "{hour} in {place}", "{place} at {hour}",
)  # fmt: skip


def write_names(folder: Path, size: str, catalogue: Catalogue, listed: np.ndarray, seed: int) -> None:
    """Writes the tables of names of songs (those `listed`, bool [N]), artists and albums below `folder`."""
    song = np.flatnonzero(listed)
    artist = np.searchsorted(catalogue.artist_songs, song, "right") - 1
    niche = np.searchsorted(catalogue.niche_songs, song, "right") - 1
    artists = invented(_ARTISTS, catalogue.num_artists, seed, 0)
    albums = invented(_ALBUMS, int(catalogue.album[-1]) + 1, seed, 1)
    titles = invented(_SONGS, catalogue.num_songs, seed, 2)
    of_songs = {
        "title": titles.take(pa.array(song)),
        "artist": artists.take(pa.array(artist)),
        "album": albums.take(pa.array(catalogue.album[song])),
        "genre": pa.array(genres(catalogue, seed)).take(pa.array(niche)),
    }
    for kind, numbers, names in (
        ("item", catalogue.item_id[song], of_songs),
        ("artist", artist_numbers(catalogue, seed), {"name": artists}),
        ("album", album_numbers(catalogue, seed), {"name": albums}),
    ):
        number = pa.array(numbers, pa.uint32())
        path = id_table_path(folder, size, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"number": number, "id": number.cast(pa.string()), **names}), path, compression="zstd")


def genres(catalogue: Catalogue, seed: int) -> list[str]:
    """The genre of each niche: near niches share its last word."""
    directions = generator(seed, Stream.NAMES, 3).normal(size=(catalogue.niche_vector.shape[1], len(_BASES)))
    base = (catalogue.niche_vector @ directions).argmax(axis=1)
    before = np.zeros(len(_BASES), np.int64)  # niches of each base so far
    found = []
    for at in base.tolist():
        found.append(f"{_STYLES[(before[at] + 2 * at) % len(_STYLES)]} {_BASES[at]}")
        before[at] += 1
    return found


def invented(patterns: Sequence[str], count: int, seed: int, block: int) -> pa.Array:
    """`count` texts, each made by one of the patterns from words drawn at random."""
    rng = generator(seed, Stream.NAMES, block)
    chosen = rng.integers(len(patterns), size=count)
    made = []
    for number, pattern in enumerate(patterns):
        rows = int((chosen == number).sum())
        parts = []
        for text, word in re.findall(r"([^{]*)(?:\{(\w+)\})?", pattern):
            parts += [pa.repeat(text, rows)] if text else []
            if word:
                parts.append(pa.array(_WORDS[word]).take(pa.array(rng.integers(len(_WORDS[word]), size=rows))))
        made.append(pc.binary_join_element_wise(*parts, ""))
    place = np.empty(count, np.int64)
    place[np.argsort(chosen, kind="stable")] = np.arange(count)
    return pa.concat_arrays(made).take(pa.array(place))
