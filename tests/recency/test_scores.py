"""The recency score against its formula in NumPy, users without history, and the fit of the head."""

import jax.numpy as jnp
import numpy as np
import pytest

from music_map.evaluation.protocols import build_task
from music_map.preprocess.dataset import LISTEN
from music_map.recency.fit import Examples, fit_head, gather, join
from music_map.recency.history import FAMILIARITY, TREND
from music_map.recency.moment import observe
from music_map.recency.scores import (
    ATTENTION_HALF_LIVES,
    DENSE,
    FEATURES,
    QUERIES,
    WALKS,
    Embeddings,
    dense_features,
    recency_scores,
)
from music_map.recency.settings import RecencySettings
from music_map.recency.windows import choose_windows
from tests.recency.test_history import NOW, NUM_ITEMS, NUM_USERS, item_features, make_events, random_rows

RNG = np.random.default_rng(0)
EMBEDDINGS = Embeddings(
    jnp.asarray(RNG.normal(size=(NUM_USERS, 3)), jnp.float32), jnp.asarray(RNG.normal(size=(NUM_ITEMS, 3)), jnp.float32)
)
WEIGHTS = dict(zip(FEATURES, RNG.normal(size=len(FEATURES)).tolist(), strict=True))
SETTINGS = RecencySettings(enabled=True, latest_songs=5, num_users=50, max_epochs=3, strength=1.0)


def observed(rows, users=tuple(range(NUM_USERS))):
    shape = {"num_users": NUM_USERS, "num_items": NUM_ITEMS, "latest_length": 5}
    return observe(make_events(rows), np.array(users, np.int32), item_features(), now=NOW, **shape)


def all_features(moment, row):
    """Every feature of every song for one user, [I, F], from the moment's arrays."""
    user, item = map(np.asarray, EMBEDDINGS)
    latest = [np.asarray(column[row]) for column in moment.latest]
    there = latest[0] >= 0
    queries = [user[moment.users[row]]]
    for half_life in ATTENTION_HALF_LIVES:
        a = latest[2][there] * 2.0 ** (-latest[1][there] / half_life)
        queries.append((a / a.sum()) @ item[latest[0][there]] if there.any() else np.zeros(3))
    columns = [item @ q for q in queries]
    for relation in moment.walk.relations:
        for start in moment.walk.starts:
            reached = relation.back.toarray() @ relation.into.toarray() @ start.toarray()[row]
            columns.append(np.log1p(NUM_ITEMS * reached / max(reached.sum(), 1e-12)))
    familiar = np.zeros((NUM_ITEMS, len(FAMILIARITY)))
    low, high = moment.familiar.offsets[row : row + 2]
    familiar[moment.familiar.items[low:high]] = moment.familiar.features[low:high]
    return np.concatenate([np.stack(columns, axis=1), moment.trend, familiar], axis=1)


@pytest.mark.parametrize("without", [(), (0, 2)])
def test_score_is_the_weighted_sum_of_the_features(without):
    rows = [row for row in random_rows(np.random.default_rng(1), 50) if row[0] not in without]
    moment = observed(rows)
    users = np.array([2, 0, 3, 3], np.int32)
    scores = np.asarray(recency_scores(moment, EMBEDDINGS, WEIGHTS)(users))
    weights = np.array([WEIGHTS[name] for name in FEATURES])
    for user, found in zip(users, scores, strict=True):
        np.testing.assert_allclose(found, all_features(moment, user) @ weights, rtol=1e-3, atol=1e-3)


def test_scores_of_some_users_do_not_depend_on_the_others():
    rows = random_rows(np.random.default_rng(2), 50)
    everyone = recency_scores(observed(rows), EMBEDDINGS, WEIGHTS)(np.array([1, 3]))
    two = recency_scores(observed(rows, users=(1, 3)), EMBEDDINGS, WEIGHTS)(np.array([1, 3]))
    np.testing.assert_allclose(everyone, two, rtol=1e-4, atol=1e-4)


def test_dense_features_have_their_names_order():
    moment = observed(random_rows(np.random.default_rng(3), 50))
    dense = dense_features(moment, EMBEDDINGS, np.array([1]))
    assert (*QUERIES, *WALKS) == DENSE and (*DENSE, *TREND, *FAMILIARITY) == FEATURES
    np.testing.assert_allclose(dense[:, 0].T, all_features(moment, 1)[:, : len(DENSE)], rtol=1e-3, atol=1e-4)


def test_no_events_at_all_leave_the_encoder():
    scores = recency_scores(observed([]), EMBEDDINGS, {**dict.fromkeys(FEATURES, 0.0), "user": 2.0})
    found = np.asarray(scores(np.array([1])))
    np.testing.assert_allclose(found, 2 * np.asarray(EMBEDDINGS.user)[[1]] @ np.asarray(EMBEDDINGS.item).T, rtol=1e-5)


def test_gathered_examples_hold_the_features_and_stand_for_all_songs():
    rows = random_rows(np.random.default_rng(4), 60)
    targets = make_events([(1, 2, NOW + 9, LISTEN, 90), (1, 4, NOW + 9, LISTEN, 90), (3, 0, NOW + 9, LISTEN, 90)])
    train = make_events(rows)
    task = build_task(
        "temporal_repeats", "val", train=train, val=targets, test=targets, num_users=NUM_USERS, num_items=NUM_ITEMS
    )
    moment = observed(rows, users=tuple(task.users))
    small = RecencySettings(
        enabled=True, latest_songs=5, num_users=50, max_epochs=3, strength=1.0, num_familiar=1, num_top=1, num_random=2
    )
    for settings in (SETTINGS, small):
        examples = gather(task, moment, EMBEDDINGS, settings, seed=0)
        count = np.exp(examples.log_weight).sum(axis=1)
        np.testing.assert_allclose(count, task.candidates.sum(), rtol=1e-5)
        np.testing.assert_allclose(examples.target.sum(axis=1), 1.0, rtol=1e-6)
    for row in range(len(task.users)):
        wanted = all_features(moment, row)
        for features, weight in zip(examples.features[row], examples.log_weight[row], strict=True):
            if np.isfinite(weight):
                assert np.isclose(wanted, features, rtol=1e-3, atol=1e-3).all(axis=1).any()


def synthetic(num_users, seed=0):
    """Users who choose by softmax(2 x user + 1 x heard) among 30 songs."""
    rng = np.random.default_rng(seed)
    features = np.zeros((num_users, 30, len(FEATURES)), np.float32)
    features[:, :, 0] = rng.normal(size=(num_users, 30))
    features[:, :, FEATURES.index("heard")] = rng.random((num_users, 30)) < 0.3
    score = 2 * features[:, :, 0] + features[:, :, FEATURES.index("heard")] + rng.gumbel(size=(num_users, 30))
    target = (score == score.max(axis=1, keepdims=True)).astype(np.float32)
    return Examples(features, np.zeros((num_users, 30), np.float32), target)


def test_fit_finds_the_weights_that_made_the_choices():
    weights = fit_head(synthetic(3_000), strength=1.0, prior={})
    assert abs(weights["user"] - 2) < 0.15 and abs(weights["heard"] - 1) < 0.2
    assert all(abs(v) < 1e-3 for k, v in weights.items() if k not in ("user", "heard"))
    assert fit_head(synthetic(100), strength=1.0, prior={}, used=["user"])["heard"] == 0


def test_few_users_leave_the_prior():
    assert abs(fit_head(synthetic(1), strength=100.0, prior={"user": 5.0})["user"] - 5) < 0.1


def test_join_pads_to_the_longest():
    a, b = synthetic(3), synthetic(2)
    b = Examples(b.features[:, :10], b.log_weight[:, :10], b.target[:, :10])
    both = join([a, b])
    assert both.features.shape == (5, 30, len(FEATURES)) and np.isinf(both.log_weight[3:, 10:]).all()


def test_windows_lie_one_before_the_other_and_after_what_is_known():
    day = 86_400
    rng = np.random.default_rng(0)
    events = make_events([(rng.integers(0, 4), 0, t, LISTEN, 90) for t in range(0, 60 * day, 1_800)])
    windows = choose_windows(events, split="global_temporal", held_out_share=0.1, enough_users=10)
    assert len(windows) == 3 and windows[0].end == events.timestamp.max() + 1
    for window, later in zip(windows[1:], windows, strict=False):
        assert window.end == later.start
    for window in windows:
        assert window.end - window.start == day and window.start - window.now == 1_801
    (one,) = choose_windows(events, split="temporal", held_out_share=0.1, enough_users=1)
    share = len(one.targets(events).user) / len(events.user)
    assert abs(share - 0.1) < 0.01 and one.now == one.start - 1
    assert choose_windows(make_events([(0, 0, 5, LISTEN, 90)]), split="global_temporal", held_out_share=0.1) == []


def test_songs_without_artists_and_albums():
    none = item_features()._replace(
        artist_offsets=np.zeros(NUM_ITEMS + 1, np.int64),
        artists=np.zeros(0, np.int32),
        artist_ids=np.zeros(0, np.uint32),
    )
    rows = random_rows(np.random.default_rng(6), 40)
    shape = {"num_users": NUM_USERS, "num_items": NUM_ITEMS, "latest_length": 5}
    moment = observe(make_events(rows), np.arange(NUM_USERS, dtype=np.int32), none, now=NOW, **shape)
    dense = dense_features(moment, EMBEDDINGS, np.array([0, 1]))
    by_artists = [DENSE.index(name) for name in WALKS if name.startswith("artists")]
    assert np.isfinite(dense).all() and (dense[by_artists] == 0).all()
