"""Losses against plain NumPy and hand-worked values, through jit; limits and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.losses import ranking
from music_map.losses.settings import LossSettings

RNG = np.random.default_rng(0)
POS, NEG = RNG.uniform(-1, 1, 5), RNG.uniform(-1, 1, (5, 7))
WHERE = RNG.random((5, 7)) < 0.8


def f32(x):
    return jnp.asarray(x, jnp.float32)


def test_bpr():
    wanted = np.mean(-np.log(1 / (1 + np.exp(-(POS - NEG[:, 0])))))
    np.testing.assert_allclose(jax.jit(ranking.bpr)(f32(POS), f32(NEG[:, 0])), wanted, rtol=1e-6)
    np.testing.assert_allclose(ranking.bpr(f32([0.0]), f32([0.0])), np.log(2), rtol=1e-6)


def test_bpr_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="must have one shape"):
        ranking.bpr(jnp.zeros(3), jnp.zeros((3, 1)))


def test_sampled_bpr_is_the_weighted_mean_over_the_negatives_that_are_left():
    rng = np.random.default_rng(2)
    positive, negative, where = rng.normal(size=4), rng.normal(size=(4, 6)), rng.random((4, 6)) < 0.7
    where[3] = False
    log_c = rng.normal(size=6)
    rows = [
        np.sum(np.log1p(np.exp(n[w] - p)) * np.exp(-log_c[w])) / max(w.sum(), 1)
        for p, n, w in zip(positive, negative, where, strict=True)
    ]
    got = ranking.sampled_bpr(f32(positive), f32(negative), log_correction=f32(log_c), where=jnp.asarray(where))
    np.testing.assert_allclose(got, np.mean(rows), rtol=1e-6)


def test_sampled_bpr_with_one_negative_is_bpr():
    positive, negative = f32([0.3, -1.0]), f32([0.1, 2.0])
    got = ranking.sampled_bpr(positive, negative[:, None], log_correction=jnp.zeros(1), where=jnp.ones((2, 1), bool))
    np.testing.assert_allclose(got, ranking.bpr(positive, negative), rtol=1e-6)


def test_softmax():
    labels = np.array([0, 6, 3, 3, 1])
    e = np.exp(NEG / 0.5)
    wanted = np.mean([-np.log(e[b, labels[b]] / e[b].sum()) for b in range(5)])
    got = jax.jit(ranking.softmax, static_argnames="temperature")(f32(NEG), jnp.asarray(labels), temperature=0.5)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_sampled_softmax():
    log_q = RNG.normal(size=7)
    wanted = 0.0
    for b in range(5):
        total = np.exp(POS[b] / 0.3) + sum(np.exp(NEG[b, j] / 0.3 - log_q[j]) for j in range(7) if WHERE[b, j])
        wanted -= np.log(np.exp(POS[b] / 0.3) / total) / 5
    got = jax.jit(ranking.sampled_softmax, static_argnames="temperature")(
        f32(POS), f32(NEG), log_correction=f32(log_q), where=jnp.asarray(WHERE), temperature=0.3
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_sampled_softmax_estimates_the_full_softmax():
    """Many draws from a skewed proposal, corrected, come near the loss over all songs."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=50)
    q = np.exp(rng.normal(size=50))
    q /= q.sum()
    q[0] = 0.0  # song 0 is the positive: its samples are left out anyway
    q /= q.sum()
    n = 200_000
    drawn = rng.choice(50, n, p=q)
    full = -np.log(np.exp(scores[0]) / np.exp(scores).sum())
    got = ranking.sampled_softmax(
        f32(scores[:1]), f32(scores[drawn][None]), log_correction=f32(np.log(n * q[drawn])),
        where=jnp.ones((1, n), bool), temperature=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(got, full, rtol=0.01)


def debiased(pos, neg, log_c, where, t, prior, m):
    total = 0.0
    for b in range(len(pos)):
        mean = np.mean([np.exp(neg[b, j] / t) / np.exp(log_c[j]) for j in range(neg.shape[1]) if where[b, j]])
        g = max((mean - prior * np.exp(pos[b] / t)) / (1 - prior), np.exp(-1 / t))
        total -= np.log(np.exp(pos[b] / t) / (np.exp(pos[b] / t) + m * g))
    return total / len(pos)


@pytest.mark.parametrize("prior", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("t", [0.07, 0.5, 2.0])
def test_debiased_contrastive(prior, t):
    log_c = RNG.normal(size=7)
    got = jax.jit(
        ranking.debiased_contrastive, static_argnames=("temperature", "positive_prior", "num_negatives")
    )(
        f32(POS), f32(NEG), log_correction=f32(log_c), where=jnp.asarray(WHERE), temperature=t, positive_prior=prior,
        num_negatives=7,
    )  # fmt: skip
    np.testing.assert_allclose(got, debiased(POS, NEG, log_c, WHERE, t, prior, 7), rtol=1e-4)


def test_debiased_contrastive_by_hand():
    """t = 1, s+ = 0, one negative with s = 0: prior 0 gives log 2; prior .5 gives g = (1 - .5) / .5 = 1, log 2 too."""
    for prior in (0.0, 0.5):
        got = ranking.debiased_contrastive(
            f32([0.0]), f32([[0.0]]), log_correction=f32([0.0]), where=jnp.ones((1, 1), bool), temperature=1.0,
            positive_prior=prior, num_negatives=1,
        )  # fmt: skip
        np.testing.assert_allclose(got, np.log(2), rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 2), st.floats(0, 0.9), st.integers(0, 2**31))
def test_debiased_contrastive_is_finite_with_finite_gradients(t, prior, seed):
    rng = np.random.default_rng(seed)
    pos, neg = f32(rng.uniform(-1, 1, 3)), f32(rng.uniform(-1, 1, (3, 4)))
    loss = lambda p, n: ranking.debiased_contrastive(  # noqa: E731
        p, n, log_correction=jnp.zeros(4), where=jnp.ones((3, 4), bool).at[0].set(False), temperature=t,
        positive_prior=prior, num_negatives=4,
    )  # fmt: skip
    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(pos, neg)
    assert np.isfinite(value) and value >= 0
    assert all(np.isfinite(g).all() for g in grads)
    assert np.all(np.asarray(grads[0]) <= 1e-6)  # a higher positive score never costs more


def test_explicit_negative():
    scores, weight = np.array([0.5, -0.2, 0.9]), np.array([3.0, 0.0, 1.0])
    cost = np.log1p(np.exp((scores - 0.1) / 0.2))
    np.testing.assert_allclose(
        ranking.explicit_negative(f32(scores), f32(weight), margin=0.1, temperature=0.2),
        (3 * cost[0] + cost[2]) / 4,
        rtol=1e-6,
    )
    grad = jax.grad(lambda s: ranking.explicit_negative(s, f32(weight), margin=0.1, temperature=0.2))(f32(scores))
    assert grad[0] > 0 and grad[1] == 0 and grad[2] > 0
    assert float(ranking.explicit_negative(f32(scores), jnp.zeros(3), margin=0.0, temperature=1.0)) == 0.0


def test_popularity_smoothing_makes_the_cross_entropy_that_of_a_smoothed_target():
    rng = np.random.default_rng(0)
    scores, labels, prior, t, share = (
        rng.normal(size=(5, 7)),
        rng.integers(7, size=5),
        rng.dirichlet(np.ones(7)),
        0.4,
        0.3,
    )
    log_p = scores / t - np.log(np.sum(np.exp(scores / t), axis=1, keepdims=True))
    target = (1 - share) * np.eye(7)[labels] + share * prior
    positive = f32(scores[np.arange(5), labels])
    got = ranking.softmax(f32(scores), jnp.asarray(labels), temperature=t)
    got += share * ranking.popularity_smoothing(positive, f32(scores @ prior), temperature=t)
    np.testing.assert_allclose(got, -np.mean(np.sum(target * log_p, axis=1)), rtol=1e-5)


def test_l2():
    rows = np.array([[3.0, 4.0], [0.0, 1.0]])
    np.testing.assert_allclose(ranking.l2(f32(rows), f32(rows)), 0.5 * (26 + 26) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "bprr"),
        ("temperature", 0.0),
        ("negatives", "hard"),
        ("positive_prior", 1.0),
        ("popularity_smoothing", 1.0),
        ("num_negatives", 0),
        ("softmax_songs", -1),
    ],
)
def test_settings_without_meaning_are_named(field, value):
    good = {
        "name": "bpr", "temperature": 1.0, "negatives": "uniform", "num_negatives": 1, "mask_observed": False,
        "popularity_smoothing": 0.0, "positive_prior": 0.0, "explicit_negative_weight": 0.0,
        "explicit_negative_margin": 0.0, "l2": 0.0,
    }  # fmt: skip
    with pytest.raises(UserError, match=f"config.loss.{field}="):
        LossSettings(**{**good, field: value})
