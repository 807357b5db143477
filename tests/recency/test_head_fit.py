"""The fit of the head: its examples, its weights, and the windows that they are of."""

import itertools

import jax.numpy as jnp
import numpy as np

from music_map.evaluation.protocols import build_task
from music_map.preprocess.dataset import LISTEN
from music_map.recency.fit import Examples, _least_of_parabola, fit_head, gather, join
from music_map.recency.history import Histories
from music_map.recency.moment import observe
from music_map.recency.scores import FEATURES, Embeddings, RecencyScorer
from music_map.recency.settings import RecencySettings
from music_map.recency.windows import choose_windows
from tests.recency import oracle
from tests.recency.logs import NOW, NUM_ITEMS, NUM_USERS, item_features, make_events, random_rows

RNG = np.random.default_rng(0)
EMBEDDINGS = Embeddings(
    jnp.asarray(RNG.normal(size=(NUM_USERS, 3)), jnp.float32), jnp.asarray(RNG.normal(size=(NUM_ITEMS, 3)), jnp.float32)
)


def test_gathered_examples_hold_the_features_and_stand_for_all_songs():
    train = make_events(random_rows(np.random.default_rng(4), 60))
    targets = make_events([(1, 2, NOW + 9, LISTEN, 90), (1, 4, NOW + 9, LISTEN, 90), (3, 0, NOW + 9, LISTEN, 90)])
    sizes = {"num_users": NUM_USERS, "num_items": NUM_ITEMS}
    task = build_task("temporal_repeats", "val", train=train, val=targets, test=targets, **sizes)
    moment = observe(train, item_features(), now=NOW, **sizes)
    scorer = RecencyScorer(EMBEDDINGS, {}, moment, Histories.of(train, num_users=NUM_USERS), latest_length=5)
    wanted = oracle.features_of(train, item_features(), EMBEDDINGS, now=NOW, latest_length=5, **sizes)
    common = {"enabled": True, "latest_songs": 5, "num_users": 50, "max_epochs": 3, "strength": 1.0}
    for few in ({}, {"num_familiar": 1, "num_top": 1, "num_random": 2}):
        examples = gather(task, scorer, RecencySettings(**common, **few), seed=0)
        count = np.exp(examples.log_weight).sum(axis=1)
        np.testing.assert_allclose(count, task.candidates.sum(), rtol=1e-5)
        np.testing.assert_allclose(examples.target.sum(axis=1), 1.0, rtol=1e-6)
        for row, user in enumerate(task.users):
            for features, weight in zip(examples.features[row], examples.log_weight[row], strict=True):
                if np.isfinite(weight):
                    assert np.isclose(wanted[user], features, rtol=1e-3, atol=1e-3).all(axis=1).any()


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


def test_more_plays_never_lower_a_score():
    """Two counts that say the same but for noise: the free minimum has weights of opposite signs."""
    examples = synthetic(300)
    heard = FEATURES.index("heard")
    rng = np.random.default_rng(1)
    for name, noise in (("activation^0.5", 0.0), ("activation^1.0", 0.02)):
        made = examples.features[:, :, heard] + noise * rng.normal(size=(300, 30))
        examples.features[:, :, FEATURES.index(name)] = made + (noise > 0) * 0.02 * examples.target
    weights = fit_head(examples, strength=0.01, prior={}, used=["user", "activation^0.5", "activation^1.0"])
    assert weights["activation^0.5"] == 0 and weights["activation^1.0"] > 0.5
    free = fit_head(examples, strength=0.01, prior={}, used=["user", "heard", "activation^1.0"])
    assert free["heard"] < -1


def test_a_longer_time_since_the_last_play_never_raises_a_score():
    """The age that repeats the activation but for noise would undo it in part."""
    examples = synthetic(300)
    made = examples.features[:, :, FEATURES.index("heard")]
    rng = np.random.default_rng(1)
    examples.features[:, :, FEATURES.index("activation^1.0")] = made
    examples.features[:, :, FEATURES.index("log_age")] = (
        0.02 * examples.target - made + 0.02 * rng.normal(size=(300, 30))
    )
    for strength in (0.01, 30.0):
        weights = fit_head(examples, strength=strength, prior={"activation^1.0": 1.0})
        assert weights["log_age"] <= 0 < weights["activation^1.0"]


def test_a_feature_far_from_0_that_hardly_varies_changes_nothing():
    """In float32, squares of 1e5 and more leave nothing of a Hessian's digits."""
    examples, with_it = synthetic(1_000), synthetic(1_000)
    rng = np.random.default_rng(1)
    of_song = 12.0 + 1e-5 * rng.normal(size=30)
    with_it.features[:, :, FEATURES.index("log_song_age")] = of_song
    wanted = fit_head(examples, strength=1.0, prior={})
    weights = fit_head(with_it, strength=1.0, prior={})
    assert abs(weights.pop("log_song_age")) < 100
    assert all(abs(weight - wanted[name]) < 1e-2 for name, weight in weights.items())


def test_the_minimum_with_bounds_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(20):
        root = rng.normal(size=(4, 4))
        hessian, gradient, w = root @ root.T + 0.1 * np.eye(4), rng.normal(size=4), np.abs(rng.normal(size=4))
        # Bounds at 0 from below, from below, none, from above.
        least, most = np.array([0.0, 0.0, -np.inf, -np.inf]), np.array([np.inf, np.inf, np.inf, 0.0])
        w[3] *= -1

        def value(x, hessian=hessian, gradient=gradient, w=w):
            return gradient @ (x - w) + (x - w) @ hessian @ (x - w) / 2

        candidates = []
        for fixed in itertools.product([False, True], repeat=4):
            fixed = np.array(fixed) & (np.isfinite(least) | np.isfinite(most))
            x = np.where(fixed, 0.0, w)
            free = ~fixed
            x[free] -= np.linalg.solve(hessian[np.ix_(free, free)], (gradient + hessian @ (x - w))[free])
            if (x >= least - 1e-12).all() and (x <= most + 1e-12).all():
                candidates.append(value(x))
        found = _least_of_parabola(gradient, hessian, w, least, most)
        assert (found >= least).all() and (found <= most).all() and abs(value(found) - min(candidates)) < 1e-6


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
    # Few users: windows go back until a quarter of the events is left before them; else they take a quarter at most.
    few = choose_windows(events, split="global_temporal", held_out_share=0.1, few_users=10**6)
    many = choose_windows(events, split="global_temporal", held_out_share=0.1, few_users=0)
    assert (events.timestamp <= few[-1].now).mean() > 0.25 and len(few) == 20 > len(many) == 14
    (one,) = choose_windows(events, split="temporal", held_out_share=0.1, enough_users=1)
    share = len(one.targets(events).user) / len(events.user)
    assert abs(share - 0.1) < 0.01 and one.now == one.start - 1
    assert choose_windows(make_events([(0, 0, 5, LISTEN, 90)]), split="global_temporal", held_out_share=0.1) == []
