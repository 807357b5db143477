"""Small random logs for the tests of the recency score."""

import numpy as np

from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN, Events, ItemFeatures

NUM_USERS, NUM_ITEMS, NOW = 4, 6, 500_000
# Artists of the songs 0..5 and albums; song 3 has no artist, song 4 two.
ARTISTS = [[0], [0], [1], [], [0, 2], [2]]
ALBUMS = [[0], [1], [1], [1], [], []]


def make_events(rows):
    """Events of (user, item, timestamp, kind, played_pct) in any order."""
    rows = sorted(rows, key=lambda r: (r[0], r[2]))
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    user, item, timestamp, kind, played = columns
    return Events(
        user.astype(np.int32), item.astype(np.int32), timestamp.astype(np.uint32), kind.astype(np.uint8),
        np.ones(len(user), np.uint8), played.astype(np.uint16),
    )  # fmt: skip


def ragged(lists):
    """Lists of names, and three ids, as ItemFeatures has them."""
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    names = np.array([name for names in lists for name in names], np.int32)
    return offsets, names, np.arange(3, dtype=np.uint32)


def item_features(artists=ARTISTS, albums=ALBUMS):
    """Features of the songs: artists and albums alone."""
    none = np.zeros((0, 128), np.float32), np.full(len(artists), -1, np.int32)
    return ItemFeatures(*none, *ragged(artists), *ragged(albums), np.zeros(len(artists), np.float32))


def random_rows(rng, count, before=NOW, users=NUM_USERS, items=NUM_ITEMS):
    """Rows for `make_events`, earlier than `before`."""
    kind = rng.choice([LISTEN, LISTEN, LISTEN, LIKE, DISLIKE], count)
    played = np.where(kind == LISTEN, rng.integers(0, 160, count), 0)
    return list(
        zip(rng.integers(0, users, count), rng.integers(0, items, count), rng.integers(0, before, count), kind, played,
            strict=True)
    )  # fmt: skip
