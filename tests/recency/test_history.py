"""Features of a moment against plain Python, and that nothing after the moment reaches them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN, Events, ItemFeatures
from music_map.recency.history import (
    ACTIVATION_POWERS,
    FAMILIARITY,
    MIN_AGE,
    TREND,
    TREND_HALF_LIVES,
    familiar_songs,
    latest_songs,
    of_users,
    song_trend,
)
from music_map.recency.moment import WALK_HALF_LIVES, observe

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


def item_features():
    """Features of the six songs: artists and albums alone."""

    def ragged(lists):
        offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
        names = np.array([name for names in lists for name in names], np.int32)
        return offsets, names, np.arange(3, dtype=np.uint32)

    none = np.zeros((0, 128), np.float32), np.full(NUM_ITEMS, -1, np.int32)
    return ItemFeatures(*none, *ragged(ARTISTS), *ragged(ALBUMS), np.zeros(NUM_ITEMS, np.float32))


def random_rows(rng, count, before=NOW):
    kind = rng.choice([LISTEN, LISTEN, LISTEN, LIKE, DISLIKE], count)
    played = np.where(kind == LISTEN, rng.integers(0, 160, count), 0)
    return list(
        zip(rng.integers(0, NUM_USERS, count), rng.integers(0, NUM_ITEMS, count), rng.integers(0, before, count), kind,
            played, strict=True)
    )  # fmt: skip


def strength(row):
    _, _, _, kind, played = row
    return {LISTEN: min(max(played / 100, 0.05), 1.0), LIKE: 1.0, DISLIKE: 0.0}[kind]


def hours(row):
    return max((NOW - row[2]) / 3600, MIN_AGE)


@pytest.mark.parametrize("seed", range(3))
def test_familiar_songs_by_hand(seed):
    rows = sorted(random_rows(np.random.default_rng(seed), 60), key=lambda r: (r[0], r[2]))
    familiar = familiar_songs(make_events(rows), num_rows=NUM_USERS, num_items=NUM_ITEMS, now=NOW)
    for user in range(NUM_USERS):
        mine = [r for r in rows if r[0] == user]
        songs = sorted({int(r[1]) for r in mine})
        low, high = familiar.offsets[user : user + 2]
        assert familiar.items[low:high].tolist() == songs
        plays = sum(r[3] != DISLIKE for r in mine)
        for song, features in zip(songs, familiar.features[low:high], strict=True):
            events = [r for r in mine if r[1] == song]
            count = sum(r[3] != DISLIKE for r in events)
            wanted = {
                "heard": 1.0,
                "log_count": np.log1p(count),
                "log_age": np.log(hours(events[-1])),
                "mean_engagement": sum(map(strength, events)) / max(count, 1),
                "last_engagement": strength(events[-1]),
                "liked": float(any(r[3] == LIKE for r in events)),
                "disliked": float(any(r[3] == DISLIKE for r in events)),
                "repeater": np.log(max(plays, 1) / len(songs)),
            }
            for power in ACTIVATION_POWERS:
                total = sum(strength(r) * hours(r) ** -power for r in events)
                wanted[f"activation^{power}"] = np.log(total + 0.05 * 8760.0**-power)
            assert set(wanted) == set(FAMILIARITY)
            np.testing.assert_allclose(features, [wanted[name] for name in FAMILIARITY], rtol=1e-5, atol=1e-5)


def test_latest_songs_newest_first_duplicates_kept_dislikes_left_out():
    rows = [(0, 1, 100, LISTEN, 100), (0, 1, 200, LISTEN, 50), (0, 2, 300, DISLIKE, 0), (0, 3, 400, LIKE, 0)]
    rows += [(2, 5, 50, LISTEN, 0)]
    latest = latest_songs(make_events(rows), num_rows=3, length=2, now=NOW)
    assert latest.items.tolist() == [[3, 1], [-1, -1], [5, -1]]
    np.testing.assert_allclose(latest.engagement, [[1.0, 0.5], [0, 0], [0.05, 0]])
    np.testing.assert_allclose(latest.age[0], [(NOW - 400) / 3600, (NOW - 200) / 3600], rtol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_song_trend_by_hand(seed):
    rows = random_rows(np.random.default_rng(seed), 40)
    trend = song_trend(make_events(rows), num_items=NUM_ITEMS, now=NOW)
    for song in range(NUM_ITEMS):
        events = [r for r in rows if r[1] == song]
        wanted = [np.log1p(sum(strength(r) * 2 ** (-hours(r) / h) for r in events)) for h in TREND_HALF_LIVES]
        wanted.append(np.log1p(sum(map(strength, events))))
        wanted.append(np.log1p(len({r[0] for r in events if r[3] != DISLIKE})))
        wanted.append(np.log(max([hours(r) for r in events] + [1.0])))
        np.testing.assert_allclose(trend[song], wanted, rtol=1e-5)
    assert trend.shape == (NUM_ITEMS, len(TREND))


def test_of_users_selects_and_renumbers():
    events = make_events([(0, 1, 5, LISTEN, 90), (2, 3, 7, LISTEN, 90), (2, 4, 9, LISTEN, 90), (3, 0, 1, LISTEN, 90)])
    chosen = of_users(events, np.array([1, 2]))
    assert chosen.user.tolist() == [1, 1] and chosen.item.tolist() == [3, 4]


def leaves(moment):
    sparse = [*moment.walk.starts, *moment.walk.relations[0]]
    return [*moment.familiar, *moment.latest, moment.trend, *(m.toarray() for m in sparse)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_nothing_after_the_moment_reaches_it(seed):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, 30)
    later = [(u, i, NOW + 1 + t, k, p) for u, i, t, k, p in random_rows(rng, 20)]
    shape = {"now": NOW, "num_users": NUM_USERS, "num_items": NUM_ITEMS, "latest_length": 5}
    users = np.arange(NUM_USERS, dtype=np.int32)
    known = observe(make_events(rows), users, item_features(), **shape)
    seen = observe(make_events(rows + later), users, item_features(), **shape)
    for a, b in zip(leaves(known), leaves(seen), strict=True):
        np.testing.assert_array_equal(a, b)


def test_walks_by_hand():
    rows = random_rows(np.random.default_rng(5), 50)
    users = np.array([1, 3], np.int32)
    moment = observe(
        make_events(rows), users, item_features(), now=NOW, num_users=NUM_USERS, num_items=NUM_ITEMS, latest_length=5
    )  # fmt: skip
    graph = np.zeros((NUM_USERS, NUM_ITEMS))
    for row in rows:
        graph[row[0], row[1]] += strength(row)
    graph = np.log1p(graph)
    graph /= np.linalg.norm(graph, axis=1, keepdims=True)
    by_users, by_artists, by_albums = moment.walk.relations
    np.testing.assert_allclose(by_users.into.toarray(), graph, rtol=1e-5)
    np.testing.assert_allclose(by_users.back.toarray(), graph.T, rtol=1e-5)
    for relation, names in ((by_artists, ARTISTS), (by_albums, ALBUMS)):
        into, back = relation.into.toarray(), relation.back.toarray()
        for song in range(NUM_ITEMS):
            for name in range(3):
                has = name in names[song]
                assert np.isclose(into[name, song], has / max(len(names[song]), 1))
                assert np.isclose(back[song, name], has / max(sum(name in n for n in names), 1))
    for start, half_life in zip(moment.walk.starts, WALK_HALF_LIVES, strict=True):
        for at, user in enumerate(users):
            wanted = np.zeros(NUM_ITEMS)
            for row in rows:
                if row[0] == user:
                    wanted[row[1]] += strength(row) * 2 ** (-hours(row) / half_life)
            np.testing.assert_allclose(start.toarray()[at], wanted / wanted.sum(), rtol=1e-4)
