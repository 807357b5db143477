"""The playlist protocol: sessions, tasks and queries against worked values, loops and each other."""

import jax.numpy as jnp
import numpy as np
import pytest
from checkerboard import history
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.evaluation.baselines.item_knn import item_knn, neighbours
from music_map.evaluation.baselines.settings import ItemKnnSettings
from music_map.evaluation.evaluate import evaluate_scores
from music_map.evaluation.playlist import (
    PlaylistTask,
    build_playlist_tasks,
    default_seeds,
    last_query,
    mean_query,
    neighbour_scores,
    query_scores,
    sessions_of,
)
from music_map.evaluation.protocols import build_task, find_protocol
from music_map.preprocess.dataset import DISLIKE, EVENT_TYPES, LIKE, LISTEN, Events

SONGS = 12


def events(*rows):
    """(user, item, seconds, kind, played percent), sorted by user, then time."""
    columns = zip(*rows, strict=True) if rows else ([],) * 5
    user, item, when, kind, played = (np.array(c) for c in columns)
    ones = np.ones(len(user), np.uint8)
    return Events(*(a.astype(t) for a, t in zip((user, item, when, kind, ones, played), EVENT_TYPES, strict=True)))


HELD_OUT = events(
    (0, 4, 100, LISTEN, 90),
    (0, 2, 200, LISTEN, 49),  # skipped
    (0, 5, 300, LIKE, 0),
    (0, 4, 400, LISTEN, 100),  # again
    (0, 2, 500, LISTEN, 50),
    (0, 9, 500 + 1_800, LISTEN, 100),  # exactly half an hour: the same session
    (0, 1, 500 + 3_601, LISTEN, 80),  # a second more: another
    (0, 7, 500 + 5_000, DISLIKE, 0),  # keeps the session going
    (0, 4, 500 + 6_500, LISTEN, 100),
    (1, 4, 500 + 6_501, LISTEN, 100),  # another user
    (3, 0, 10, LISTEN, 20),  # nothing that counts
    (3, 3, 90_000, LISTEN, 70),
)
TRAIN = events(*((0, item, item, LISTEN, 90) for item in range(9)), (0, 11, 20, LISTEN, 0))


def lists(sessions):
    bounds = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    return [(int(u), sessions.items[a:b].tolist()) for u, (a, b) in zip(sessions.users, bounds, strict=True)]


def rows(pairs):
    return [pairs.items[a:b].tolist() for a, b in zip(pairs.offsets[:-1], pairs.offsets[1:], strict=True)]


def test_worked_sessions():
    assert lists(sessions_of(HELD_OUT)) == [(0, [4, 5, 2, 9]), (0, [1, 4]), (1, [4]), (3, [3])]
    assert lists(sessions_of(HELD_OUT, gap=1_799))[:2] == [(0, [4, 5, 2]), (0, [9])]
    assert lists(sessions_of(HELD_OUT, min_played_pct=49))[0] == (0, [4, 2, 5, 9])
    assert lists(sessions_of(events())) == [] == lists(sessions_of(events((0, 1, 2, DISLIKE, 0))))


def test_worked_tasks():
    tasks = build_playlist_tasks("test", train=TRAIN, held_out=HELD_OUT, num_items=SONGS, seed_counts=(1, 3, 10))
    assert list(tasks) == [1, 3]  # no session has more than 10 songs
    one, three = tasks[1], tasks[3]
    assert one.seeds.tolist() == [[4], [1]] and one.users.tolist() == [0, 0] and one.num_sessions == 2
    assert rows(one.ranking.targets) == [[2, 5, 9], [4]] and rows(one.ranking.masked) == [[4], [1]]
    assert three.seeds.tolist() == [[4, 5, 2]] and rows(three.ranking.targets) == [[9]]
    assert rows(three.ranking.masked) == [[2, 4, 5]] and three.num_seeds == 3
    # Songs of train that were played at all; song 9 is none, and stays a target.
    assert np.flatnonzero(one.ranking.candidates).tolist() == list(range(9))
    assert one.ranking.cold_target_share == 1 / 4 and three.ranking.cold_target_share == 1.0
    assert one.ranking.protocol is find_protocol("playlist") and one.ranking.split == "test"


@st.composite
def logs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 60))
    user, when = rng.integers(0, 3, count), rng.integers(0, 20_000, count)
    order = np.lexsort((when, user))
    kind = rng.choice([LISTEN, LISTEN, LIKE, DISLIKE], count)
    return [(user[i], rng.integers(0, 8), when[i], kind[i], rng.integers(0, 100)) for i in order]


@settings(deadline=None)
@given(logs())
def test_sessions_agree_with_a_loop(log):
    expected, last = [], None
    for user, item, when, kind, played in log:
        if last is None or user != last[0] or when - last[1] > 1_800:
            expected.append((int(user), []))
        last = user, when
        if (kind == LIKE or (kind == LISTEN and played >= 50)) and item not in expected[-1][1]:
            expected[-1][1].append(int(item))
    assert lists(sessions_of(events(*log))) == [session for session in expected if session[1]]


@settings(deadline=None)
@given(logs(), st.integers(1, 3), st.integers(0, 2**31))
def test_targets_are_the_session_less_its_seeds(log, most, seed):
    try:
        tasks = build_playlist_tasks(
            "val",
            train=TRAIN,
            held_out=events(*log),
            num_items=SONGS,
            seed_counts=(1, 2, 4),
            max_sessions=most,
            seed=seed,
        )
    except UserError:
        assert all(len(items) < 2 for _, items in lists(sessions_of(events(*log))))
        return
    whole = lists(sessions_of(events(*log)))
    for n, task in tasks.items():
        long_enough = [session for session in whole if len(session[1]) > n]
        assert task.num_sessions == len(long_enough) and len(task.users) == min(most, len(long_enough))
        for row, user in enumerate(task.users):
            seeds, targets = task.seeds[row].tolist(), rows(task.ranking.targets)[row]
            assert any(
                user == owner and seeds == items[:n] and targets == sorted(items[n:]) for owner, items in long_enough
            )


def test_playlists_of_sessions_of_several_users():
    log = [(user, 3 * user + song, 100 * song, LISTEN, 100) for user in range(3) for song in range(3)]
    options = {"train": TRAIN, "held_out": events(*log), "num_items": SONGS, "seed_counts": (1, 2, 3, 10)}
    tasks = build_playlist_tasks("test", **options, parts=2)
    assert list(tasks) == [2, 3]  # every session gives a seed; none has so many that two of them give ten
    for n, first in ((2, 1), (3, 1)):
        task = tasks[n]
        assert 1 <= len(task.users) <= 3 and task.seeds.shape[1] == n
        for row, seeds in enumerate(task.seeds.tolist()):
            one, other = seeds[0] // 3, seeds[-1] // 3
            assert one != other and task.users[row] == one
            assert seeds == [*range(3 * one, 3 * one + first), *range(3 * other, 3 * other + n - first)]
            assert rows(task.ranking.masked)[row] == sorted(seeds)
            left = set(range(3 * one, 3 * one + 3)) | set(range(3 * other, 3 * other + 3))
            assert rows(task.ranking.targets)[row] == sorted(left - set(seeds))


def test_the_default_number_of_seeds():
    def task(num_sessions):
        return PlaylistTask(None, None, None, num_sessions)

    assert default_seeds({n: task(100) for n in (1, 5, 10, 25, 100)}) == 10
    assert default_seeds({1: task(500), 5: task(100), 10: task(99), 25: task(98)}) == 5
    assert default_seeds({1: task(3), 5: task(2)}) == 1


def test_refusals():
    with pytest.raises(UserError, match=r"'playlist' finds no session of more than 5 songs in the val split"):
        build_playlist_tasks("val", train=TRAIN, held_out=HELD_OUT, num_items=SONGS, seed_counts=(5, 10))
    with pytest.raises(ValueError, match=r"music_map\.evaluation\.playlist"):
        build_task("playlist", "val", train=TRAIN, val=TRAIN, test=TRAIN, num_users=1, num_items=SONGS)


def test_queries_against_numpy():
    rng = np.random.default_rng(0)
    songs = rng.normal(size=(4, 5, 3)).astype(np.float32)
    where = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]], bool)
    means = [row[there].mean(axis=0) for row, there in zip(songs, where, strict=True)]
    np.testing.assert_allclose(mean_query(jnp.asarray(songs), jnp.asarray(where), None), means, rtol=1e-5)
    lasts = [row[there][-1] for row, there in zip(songs, where, strict=True)]
    np.testing.assert_allclose(last_query(jnp.asarray(songs), jnp.asarray(where), None), lasts)


def cluster_task():
    """Sessions stay within the even or within the odd songs."""
    rng = np.random.default_rng(3)
    log = []
    for number in range(40):
        for step, item in enumerate(rng.permutation(SONGS // 2)[:4] * 2 + number % 2):
            log.append((number % 5, item, 10_000 * number + step, LISTEN, 100))
    log.sort(key=lambda row: (row[0], row[2]))
    everything = events(*((0, i, i, LISTEN, 100) for i in range(SONGS)))
    return build_playlist_tasks("test", train=everything, held_out=events(*log), num_items=SONGS)[1]


def test_scores_are_cosines_and_ranking_withholds_the_seeds():
    task = cluster_task()
    rng = np.random.default_rng(1)
    direction = np.where(np.arange(SONGS)[:, None] % 2, [[0.0, 1.0]], [[1.0, 0.0]])
    # Lengths are of no account, and a song of length 0 has no direction.
    emb = ((direction + 0.1 * rng.random((SONGS, 2))) * rng.uniform(0.1, 9, (SONGS, 1))).astype(np.float32)
    unit = emb / np.linalg.norm(emb, axis=1, keepdims=True)
    scores = query_scores(emb, task, mean_query, popularity=np.zeros(len(emb)))
    block = np.array([3, 0, 3])
    np.testing.assert_allclose(scores(block), unit[task.seeds[block, 0]] @ unit.T, rtol=1e-5)
    found = evaluate_scores(scores, task.ranking, ks=(5,), block_size=7)
    assert found.metrics["recall@5"] == 1.0  # five songs of the same parity are left, the targets among them
    assert not (found.topk == task.seeds).any()
    emb[0] = 0.0
    assert np.isfinite(
        np.asarray(query_scores(emb, task, mean_query, popularity=np.zeros(len(emb)))(task.ranking.users))
    ).all()


def test_item_knn_scores_seeds_as_it_scores_a_history_of_them():
    rng = np.random.default_rng(0)
    played = np.stack([rng.permutation(SONGS)[:4] for _ in range(30)])
    users = np.repeat(np.arange(30), 4)
    train = history(users, played.ravel(), np.arange(120), num_users=30, num_items=SONGS)
    task, knn = PlaylistTask(None, played, None, 30), ItemKnnSettings(num_neighbours=3)
    block = np.array([5, 1, 9])
    expected = item_knn(train, knn)(block)
    np.testing.assert_allclose(neighbour_scores(neighbours(train, knn), task)(block), expected, rtol=1e-6)
    assert expected.max() > 0
