import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.evaluation import baselines
from music_map.evaluation.baselines import (
    BASELINES,
    BaselineSettings,
    decayed_popularity,
    fit_baselines,
    item_knn,
    item_knn_decay,
    item_similarity,
    most_popular,
    random_scores,
    recent_pairs,
)
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import PROTOCOLS
from music_map.evaluation.ranking import rank
from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN, Events

DAY = 86_400


def pairs(dense):
    rows, items = np.nonzero(dense)
    return Pairs.of(rows, items, num_rows=dense.shape[0], num_items=dense.shape[1])


def checkerboard(n):
    """Even users like even songs, odd users odd songs; the diagonal is withheld."""
    liked = (np.arange(n)[:, None] + np.arange(n)[None]) % 2 == 0
    np.fill_diagonal(liked, False)
    return liked


def personalised(liked):
    train, (num_users, num_items) = pairs(liked), liked.shape
    users, items = train.rows.astype(np.int32), train.items
    times = np.zeros(len(users), np.uint32)
    size = {"num_users": num_users, "num_items": num_items}
    yield "item_knn", item_knn(train, num_items)
    yield "item_knn, 20 neighbours, shrunk", item_knn(train, num_items, num_neighbours=20, shrinkage=2.0)
    yield "item_knn_decay", item_knn_decay(users, items, times, **size, half_life_days=1.0)


def test_checkerboard_brings_the_withheld_diagonal_first():
    liked = checkerboard(30)
    for name, scores in personalised(liked):
        topk = rank(scores, np.arange(30), num_items=30, k=1, masked=pairs(liked))
        assert topk.ravel().tolist() == list(range(30)), name


def test_random_depends_on_user_and_seed_only():
    scores = random_scores(50, seed=3)
    whole = scores(np.arange(6, dtype=np.int32))
    np.testing.assert_array_equal(whole[[4, 1]], scores(np.array([4, 1], np.int32)))
    assert whole.dtype == np.float32 and whole.shape == (6, 50) and whole.min() >= 0 and whole.max() < 1
    assert len(np.unique(whole)) > 290
    assert not np.array_equal(whole, random_scores(50, seed=4)(np.arange(6)))


def test_most_popular_counts_users():
    dense = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0]])
    assert most_popular(pairs(dense), 3)(np.array([2, 0])).tolist() == [[3, 2, 0], [3, 2, 0]]


def test_decayed_popularity_worked_example():
    # Half-life 2 days, now = day 10: ages 0, 2, 4, 6 days count 1, 1/2, 1/4, 1/8.
    timestamps = (np.array([10, 8, 6, 4]) * DAY).astype(np.uint32)
    items = np.array([1, 0, 0, 2], np.int32)
    scores = decayed_popularity(items, timestamps, 4, half_life_days=2.0, now=10 * DAY)(np.array([0]))
    assert scores.tolist() == [[0.75, 1.0, 0.125, 0.0]] and scores.dtype == np.float32


def test_similarity_worked_example():
    # Users of song 0: a b c; of song 1: a b; of song 2: c; of song 3: nobody.
    dense = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]])
    similarity = item_similarity(pairs(dense), 4, shrinkage=0.0).toarray()
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 2 / np.sqrt(6)
    expected[0, 2] = expected[2, 0] = 1 / np.sqrt(3)
    np.testing.assert_allclose(similarity, expected, rtol=1e-6)
    shrunk = item_similarity(pairs(dense), 4, shrinkage=10.0).toarray()
    assert shrunk[0, 1] == pytest.approx(2 / (np.sqrt(6) + 10))
    # One neighbour a row: song 0 keeps song 1.
    assert item_similarity(pairs(dense), 4, num_neighbours=1, shrinkage=0.0).toarray()[0].nonzero()[0].tolist() == [1]
    # User c knows songs 0 and 2: song 1 by way of song 0, and each of the two by way of the other.
    scores = item_knn(pairs(dense), 4, shrinkage=0.0)(np.array([2]))
    np.testing.assert_allclose(scores, [[1 / np.sqrt(3), 2 / np.sqrt(6), 1 / np.sqrt(3), 0]], rtol=1e-6)


def test_equal_neighbours_keep_the_lower_index():
    similarity = item_similarity(pairs(np.ones((3, 6))), 6, num_neighbours=2).toarray()
    assert [row.nonzero()[0].tolist() for row in similarity] == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([1, 40, 10**6]))
def test_item_knn_agrees_with_dense_arithmetic_whatever_the_blocks(seed, num_neighbours, block_products):
    dense = np.random.default_rng(seed).random((9, 13)) < 0.35
    keep = baselines._BLOCK_PRODUCTS
    baselines._BLOCK_PRODUCTS = block_products
    try:
        scores = item_knn(pairs(dense), 13, num_neighbours=num_neighbours, shrinkage=0.5)(np.arange(9))
    finally:
        baselines._BLOCK_PRODUCTS = keep
    sizes = dense.sum(axis=0)
    # float32 as in the product, so that ties are the same ties.
    norms = np.sqrt(sizes).astype(np.float32)
    common = dense.T.astype(np.float32) @ dense.astype(np.float32)
    similarity = common / (norms[:, None] * norms[None] + np.float32(0.5))
    np.fill_diagonal(similarity, 0)
    for row in similarity:
        row[np.argsort(-row, kind="stable")[num_neighbours:]] = 0
    np.testing.assert_allclose(scores, dense @ similarity, rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_item_knn_decay_agrees_with_loops(seed):
    rng = np.random.default_rng(seed)
    users, items = rng.integers(5, size=40).astype(np.int32), rng.integers(7, size=40).astype(np.int32)
    times = (rng.integers(0, 10, 40) * DAY).astype(np.uint32)
    scores = item_knn_decay(users, items, times, num_users=6, num_items=8, half_life_days=2.5)(np.arange(6))
    counts = np.zeros((6, 8))
    for u, i in zip(users, items, strict=True):
        counts[u, i] += 1
    expected = np.zeros((6, 8))
    for u, i, t in zip(users, items, times.astype(float), strict=True):
        decay = 0.5 ** ((max(times[users == u].astype(float)) - t) / (2.5 * DAY))
        for j in range(8):
            if counts[:, j].any():
                expected[u, j] += decay * counts[:, i] @ counts[:, j] / np.linalg.norm(counts[:, j])
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


def test_item_knn_decay_lets_the_recent_listen_decide():
    # User 0 heard song 0 ten days ago and song 2 now; user 1 pairs songs 0 and 1, user 2 songs 2 and 3.
    users, items = np.array([0, 0, 1, 1, 2, 2], np.int32), np.array([0, 2, 0, 1, 2, 3], np.int32)
    times = np.array([0, 10 * DAY, 0, 0, 0, 0], np.uint32)
    scores = item_knn_decay(users, items, times, num_users=3, num_items=4, half_life_days=1.0)(np.array([0]))[0]
    assert scores[3] > 100 * scores[1] > 0


def test_recent_pairs_keeps_the_last_distinct_songs():
    users = np.array([0, 0, 0, 0, 1, 0], np.int32)
    items = np.array([5, 6, 7, 5, 2, 4], np.int32)
    times = np.array([1, 2, 3, 9, 1, 3], np.uint32)
    # User 0, latest first: 5 (at 9), 4 and 7 (at 3), 6.
    kept = recent_pairs(users, items, times, num_users=3, num_items=8, max_items=2)
    assert kept.offsets.tolist() == [0, 2, 3, 3] and kept.items.tolist() == [4, 5, 2]
    assert recent_pairs(users, items, times, num_users=3, num_items=8, max_items=9).sizes.tolist() == [4, 1, 0]


TRAIN = Events(
    user=np.array([0, 0, 1, 1, 2], np.int32),
    item=np.array([0, 1, 0, 2, 3], np.int32),
    timestamp=np.array([0, DAY, 0, DAY, DAY], np.uint32),
    kind=np.array([LISTEN, LISTEN, LIKE, DISLIKE, LISTEN], np.uint8),
    is_organic=np.ones(5, np.uint8),
    played_pct=np.array([100, 20, 0, 0, 0], np.uint16),
)


def fitted(names, protocol, **options):
    return fit_baselines(
        names, TRAIN, PROTOCOLS[protocol], num_users=3, num_items=4, train_end=2 * DAY, seed=0, **options
    )


def test_fit_uses_the_events_that_the_protocol_counts():
    popular = {name: next(fitted(["most_pop"], name))[1](np.array([0]))[0].tolist() for name in PROTOCOLS}
    assert popular == {
        "discovery": [2, 1, 0, 0],
        "next": [2, 1, 0, 0],
        "listen_plus": [1, 0, 0, 0],
        "like": [1, 0, 0, 0],
        "lightgcnpp": [2, 1, 0, 1],
    }


def test_fit_knows_every_name_and_hands_on_the_settings():
    users = np.arange(3, dtype=np.int32)
    tuned = BaselineSettings(popularity_half_life_days=0.5, num_neighbours=1, shrinkage=1.0, max_history=1)
    default, other = dict(fitted(BASELINES, "next")), dict(fitted(BASELINES, "next", settings=tuned))
    assert tuple(default) == BASELINES
    for scores in default.values():
        block = scores(users)
        assert block.shape == (3, 4) and block.dtype == np.float32 and np.isfinite(block).all()
    # Ages 2, 1, 2 days: 2 x 1/4 and 1/2 with a half-life of a day, 2 x 1/16 and 1/4 with half a day.
    assert default["decay_pop"](users)[0].tolist() == [0.5, 0.5, 0, 0]
    assert other["decay_pop"](users)[0].tolist() == [0.125, 0.25, 0, 0]
    # With one song per history no two songs meet.
    assert default["item_knn"](users).any() and not other["item_knn"](users).any()


def test_unknown_baseline_is_refused_at_once():
    with pytest.raises(UserError, match=r"'most_popp' is unknown; did you mean 'most_pop'.*item_knn_decay"):
        fitted(["random", "most_popp"], "next")
