"""What is read of users' histories, by hand."""

import numpy as np
import pytest

from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN
from music_map.recency.history import ACTIVATION_POWERS, FAMILIARITY, MIN_AGE, WALK_HALF_LIVES, Histories, read_users
from tests.recency.logs import NOW, NUM_ITEMS, NUM_USERS, make_events, random_rows


def read(events, users=tuple(range(NUM_USERS)), *, now=NOW, latest_length=5):
    histories = Histories.of(events, num_users=NUM_USERS)
    return read_users(histories, np.array(users), now=now, num_items=NUM_ITEMS, latest_length=latest_length)


def strength(row):
    _, _, _, kind, played = row
    return {LISTEN: min(max(played / 100, 0.05), 1.0), LIKE: 1.0, DISLIKE: 0.0}[kind]


def hours(row):
    return max((NOW - row[2]) / 3600, MIN_AGE)


@pytest.mark.parametrize("seed", range(3))
def test_familiar_songs_and_starts_by_hand(seed):
    rows = sorted(random_rows(np.random.default_rng(seed), 60), key=lambda r: (r[0], r[2]))
    order = [2, 0, 3, 1]
    lists = read(make_events(rows), order)
    for at, user in enumerate(order):
        mine = [r for r in rows if r[0] == user]
        songs = sorted({int(r[1]) for r in mine})
        low, high = lists.offsets[at : at + 2]
        assert lists.items[low:high].tolist() == songs
        plays = sum(r[3] != DISLIKE for r in mine)
        for song, features in zip(songs, lists.features[low:high], strict=True):
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
        for column, half_life in enumerate(WALK_HALF_LIVES):
            start = np.zeros(NUM_ITEMS)
            for row in mine:
                start[row[1]] += strength(row) * 2 ** (-hours(row) / half_life)
            np.testing.assert_allclose(lists.starts[low:high, column], start[songs] / start.sum(), rtol=1e-4)


def test_latest_songs_newest_first_duplicates_kept_dislikes_left_out():
    rows = [(0, 1, 100, LISTEN, 100), (0, 1, 200, LISTEN, 50), (0, 2, 300, DISLIKE, 0), (0, 3, 400, LIKE, 0)]
    rows += [(2, 5, 50, LISTEN, 0)]
    latest = read(make_events(rows), (0, 1, 2), latest_length=2).latest
    assert latest.items.tolist() == [[3, 1], [-1, -1], [5, -1]]
    np.testing.assert_allclose(latest.engagement, [[1.0, 0.5], [0, 0], [0.05, 0]])
    np.testing.assert_allclose(latest.age[0], [(NOW - 400) / 3600, (NOW - 200) / 3600], rtol=1e-6)


def test_a_user_without_events_and_one_asked_for_twice():
    lists = read(make_events([(1, 2, 5, LISTEN, 90)]), (0, 1, 1))
    assert lists.offsets.tolist() == [0, 0, 1, 2] and lists.items.tolist() == [2, 2]
    none = read(make_events([]), (0, 1))
    assert none.offsets.tolist() == [0, 0, 0] and none.features.shape == (0, len(FAMILIARITY))


def test_histories_of_several_splits_are_those_of_one():
    rng = np.random.default_rng(1)
    rows = [(u, i, t, k, p) for t, (u, i, _, k, p) in enumerate(random_rows(rng, 40))]
    parts = [make_events([r for r in rows if low <= r[2] < high]) for low, high in ((0, 15), (15, 31), (31, 40))]
    whole = Histories.of(make_events(rows), num_users=NUM_USERS + 1)
    for a, b in zip(Histories.of(*parts, num_users=NUM_USERS + 1), whole, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_nothing_after_the_moment_is_read():
    rng = np.random.default_rng(2)
    rows = random_rows(rng, 30)
    later = [(u, i, NOW + 1 + t, k, p) for u, i, t, k, p in random_rows(rng, 20)]
    known, seen = read(make_events(rows)), read(make_events(rows + later))
    for a, b in zip([*known[:-1], *known.latest], [*seen[:-1], *seen.latest], strict=True):
        np.testing.assert_array_equal(a, b)
