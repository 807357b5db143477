"""Full ranking against a brute-force sort; baselines against plain NumPy; the checkerboard."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.evaluation import baselines, ranking
from music_map.evaluation.evaluate import bootstrap_interval, evaluate_scores, user_values
from music_map.evaluation.pairs import make_pairs
from music_map.evaluation.protocols import RankingTask
from music_map.preprocess.dataset import DISLIKE, LISTEN, Events


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 12), st.integers(1, 15), st.sampled_from([40, 200, 10**6])
)
def test_rank_equals_a_brute_force_sort(seed, num_users, num_items, k, budget):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (20, num_items)).astype(np.float32)  # many ties
    users = rng.integers(0, 20, num_users).astype(np.int32)
    hidden = rng.random((num_users, num_items)) < 0.3
    candidates = rng.random(num_items) < 0.8
    masked = make_pairs(*np.nonzero(hidden), num_rows=num_users, num_items=num_items)
    old, ranking._BUDGET = ranking._BUDGET, budget
    try:
        got = ranking.rank(lambda u: scores[u], users, masked, candidates, k=k)
    finally:
        ranking._BUDGET = old
    for r, u in enumerate(users):
        order = [i for i in np.argsort(-scores[u], kind="stable") if candidates[i] and not hidden[r, i]][:k]
        assert got[r].tolist() == order + [-1] * (k - len(order))


def test_embedding_scores():
    rng = np.random.default_rng(0)
    u, i = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(7, 3)).astype(np.float32)
    got = ranking.embedding_scores(jnp.asarray(u), jnp.asarray(i))(np.array([4, 0], np.int32))
    np.testing.assert_allclose(got, u[[4, 0]] @ i.T, rtol=1e-5)


def test_nan_scores_are_an_error():
    none = make_pairs(np.zeros(0, int), np.zeros(0, int), num_rows=1, num_items=2)
    with pytest.raises(UserError, match="NaN"):
        ranking.rank(lambda u: np.full((len(u), 2), np.nan), np.zeros(1, np.int32), none, np.ones(2, bool), k=1)


def events(rows):
    """(user, item, timestamp, kind) rows as Events."""
    u, i, t, k = (np.array(c) for c in zip(*rows, strict=True))
    n = len(rows)
    return Events(
        u.astype(np.int32),
        i.astype(np.int32),
        t.astype(np.uint32),
        k.astype(np.uint8),
        np.ones(n, np.uint8),
        np.full(n, 100, np.uint16),
    )


TRAIN = events(
    [
        (0, 0, 0, LISTEN),
        (0, 0, 5, LISTEN),
        (0, 1, 10, LISTEN),
        (1, 1, 20, LISTEN),
        (1, 2, 86_400, LISTEN),
        (2, 3, 9, DISLIKE),
    ]
)
SIZE = {"num_users": 3, "num_items": 4}


def test_most_pop_counts_distinct_users_without_dislikes():
    np.testing.assert_array_equal(baselines.most_pop(TRAIN, **SIZE)(np.array([2, 0])), [[1, 2, 1, 0]] * 2)


def test_decay_pop():
    got = baselines.decay_pop(TRAIN, **SIZE, half_life_days=1.0)(np.array([0]))[0]
    age = lambda t: (86_400 - t) / 86_400  # noqa: E731
    wanted = [2 ** -age(0) + 2 ** -age(5), 2 ** -age(10) + 2 ** -age(20), 1.0, 0.0]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_item_knn_by_hand():
    """cos(0, 1) = 1 / sqrt(1 * 2), cos(1, 2) = the same, cos(0, 2) = 0."""
    c = 2**-0.5
    got = baselines.item_knn(TRAIN, **SIZE)(np.array([0, 1, 2]))
    np.testing.assert_allclose(got, [[c, c, c, 0], [c, c, c, 0], [0, 0, 0, 0]], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([1, 2, 100]))
def test_item_knn_equals_plain_numpy(seed, neighbours, block):
    rng = np.random.default_rng(seed)
    x = rng.random((8, 6)) < 0.5
    x[0, 0] = True
    u, i = np.nonzero(x)
    got = baselines.item_knn(
        events([(a, b, 0, LISTEN) for a, b in zip(u, i, strict=True)]),
        num_users=8,
        num_items=6,
        neighbours=neighbours,
        block=block,
    )(np.arange(8))
    n = np.sqrt(x.sum(0))
    sim = (x.T.astype(float) @ x) / np.maximum(np.outer(n, n), 1e-9)
    np.fill_diagonal(sim, 0)
    for j in range(6):
        # Ties in float32: compare by rounding; the lower column stays.
        order = np.lexsort((np.arange(6), -sim[j].astype(np.float32).round(5)))
        sim[j, order[neighbours:]] = 0
    if neighbours >= 5:
        np.testing.assert_allclose(got, x @ sim, rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_allclose(got.sum(1), (x @ sim).sum(1), rtol=1e-4, atol=1e-5)


def checkerboard(n=20):
    """Even users like even items, odd users odd items; the diagonal is withheld."""
    rows = [(u, i, 0, LISTEN) for u in range(n) for i in range(n) if (u - i) % 2 == 0 and u != i]
    return events(rows), n


def checkerboard_task(train, n):
    users = np.arange(n, dtype=np.int32)
    size = {"num_rows": n, "num_items": n}
    masked = make_pairs(train.user, train.item, **size)
    return RankingTask(users, make_pairs(users, users, **size), masked, np.ones(n, bool), 0, 0.0)


def test_checkerboard_item_knn():
    train, n = checkerboard()
    result = evaluate_scores(
        baselines.item_knn(train, num_users=n, num_items=n), checkerboard_task(train, n), ks=(1, 5)
    )
    assert result.metrics["recall@1"] == 1.0
    assert user_values(result, checkerboard_task(train, n), "recall@1").tolist() == [1.0] * n


def test_cutoffs_below_one_are_an_error():
    train, n = checkerboard()
    with pytest.raises(UserError, match=r"config\.eval\.ks"):
        evaluate_scores(baselines.most_pop(train, num_users=n, num_items=n), checkerboard_task(train, n), ks=(0,))


def test_bootstrap_interval():
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    low, high = bootstrap_interval(values, seed=0)
    assert low < values.mean() < high
    np.testing.assert_allclose(high - low, 2 * 1.96 * values.std() / 20, rtol=0.15)
    assert bootstrap_interval(values, seed=0) == (low, high)
