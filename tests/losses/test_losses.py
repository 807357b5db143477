"""Losses against plain NumPy and hand-worked values, through jit; limits and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.losses import LossSettings, Scores, ranking

RNG = np.random.default_rng(0)
POS, NEG = RNG.uniform(-1, 1, 5), RNG.uniform(-1, 1, (5, 7))
WHERE = RNG.random((5, 7)) < 0.8


def f32(x):
    return jnp.asarray(x, jnp.float32)


def mean(loss, positive, negative, *, log_correction=None, where=None, num_items=0, **settings):
    """The loss of a batch, by jit."""
    log_correction = None if log_correction is None else f32(log_correction)
    scores = Scores(f32(positive), f32(negative), None if where is None else jnp.asarray(where), log_correction)
    settings = LossSettings(**settings)
    return jax.jit(lambda s: jnp.mean(loss(s._replace(num_items=num_items), settings)))(scores)


def test_bpr():
    wanted = np.mean(-np.log(1 / (1 + np.exp(-(POS - NEG[:, 0])))))
    np.testing.assert_allclose(mean(ranking.bpr, POS, NEG[:, 0]), wanted, rtol=1e-6)
    np.testing.assert_allclose(mean(ranking.bpr, [0.0], [0.0]), np.log(2), rtol=1e-6)


def test_bpr_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="must have one shape"):
        mean(ranking.bpr, np.zeros(3), np.zeros((3, 1)))


def test_sampled_bpr_is_the_weighted_mean_over_the_negatives_that_are_left():
    rng = np.random.default_rng(2)
    positive, negative, where = rng.normal(size=4), rng.normal(size=(4, 6)), rng.random((4, 6)) < 0.7
    where[3] = False
    log_c = rng.normal(size=6)
    rows = [
        np.sum(np.log1p(np.exp(n[w] - p)) * np.exp(-log_c[w])) / max(w.sum(), 1)
        for p, n, w in zip(positive, negative, where, strict=True)
    ]
    got = mean(ranking.sampled_bpr, positive, negative, log_correction=log_c, where=where)
    np.testing.assert_allclose(got, np.mean(rows), rtol=1e-6)


def test_sampled_bpr_with_one_negative_is_bpr():
    positive, negative = f32([0.3, -1.0]), f32([0.1, 2.0])
    got = mean(ranking.sampled_bpr, positive, negative[:, None], log_correction=[0.0], where=np.ones((2, 1), bool))
    np.testing.assert_allclose(got, mean(ranking.bpr, positive, negative), rtol=1e-6)


def test_softmax():
    labels = np.array([0, 6, 3, 3, 1])
    e = np.exp(NEG / 0.5)
    wanted = np.mean([-np.log(e[b, labels[b]] / e[b].sum()) for b in range(5)])
    own = NEG[np.arange(5), labels]
    np.testing.assert_allclose(mean(ranking.softmax, own, NEG, temperature=0.5), wanted, rtol=1e-6)
    left = WHERE | (np.arange(7) == labels[:, None])
    wanted = np.mean([-np.log(e[b, labels[b]] / e[b, left[b]].sum()) for b in range(5)])
    np.testing.assert_allclose(mean(ranking.softmax, own, NEG, where=left, temperature=0.5), wanted, rtol=1e-6)


def test_sampled_softmax():
    log_iq, num_items, stands_for = RNG.normal(size=7), 40, 10
    for m in (0, stands_for):
        wanted = 0.0
        for b in range(5):
            # N q_j expected draws of a song of 40, whose sum stands for that over m songs.
            draws = 7 * np.exp(log_iq) / num_items * (num_items / (m or num_items))
            total = np.exp(POS[b] / 0.3) + sum(np.exp(NEG[b, j] / 0.3) / draws[j] for j in range(7) if WHERE[b, j])
            wanted -= np.log(np.exp(POS[b] / 0.3) / total) / 5
        got = mean(
            ranking.sampled_softmax, POS, NEG, log_correction=log_iq, where=WHERE, num_items=num_items,
            temperature=0.3, softmax_songs=m,
        )  # fmt: skip
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
    got = mean(
        ranking.sampled_softmax, scores[:1], scores[drawn][None], log_correction=np.log(50 * q[drawn]),
        where=np.ones((1, n), bool), num_items=50, temperature=1.0,
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
    got = mean(
        ranking.debiased_contrastive, POS, NEG, log_correction=log_c, where=WHERE, temperature=t, positive_prior=prior
    )
    np.testing.assert_allclose(got, debiased(POS, NEG, log_c, WHERE, t, prior, 7), rtol=1e-4)


def test_debiased_contrastive_by_hand():
    """t = 1, s+ = 0, one negative with s = 0: prior 0 gives log 2; prior .5 gives g = (1 - .5) / .5 = 1, log 2 too."""
    for prior in (0.0, 0.5):
        got = mean(
            ranking.debiased_contrastive, [0.0], [[0.0]], log_correction=[0.0], where=np.ones((1, 1), bool),
            temperature=1.0, positive_prior=prior,
        )  # fmt: skip
        np.testing.assert_allclose(got, np.log(2), rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 2), st.floats(0, 0.9).map(lambda x: x if x > 1e-30 else 0.0), st.integers(0, 2**31))
def test_debiased_contrastive_is_finite_with_finite_gradients(t, prior, seed):
    rng = np.random.default_rng(seed)
    pos, neg = f32(rng.uniform(-1, 1, 3)), f32(rng.uniform(-1, 1, (3, 4)))
    where = jnp.ones((3, 4), bool).at[0].set(False)
    loss = lambda p, n: jnp.mean(  # noqa: E731
        ranking.debiased_contrastive(
            Scores(p, n, where, jnp.zeros(4)), LossSettings(temperature=t, positive_prior=prior)
        )
    )
    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(pos, neg)
    assert np.isfinite(value) and value >= 0
    assert all(np.isfinite(g).all() for g in grads)
    assert np.all(np.asarray(grads[0]) <= 1e-6)  # a higher positive score never costs more


def test_explicit_negative():
    scores = np.array([0.5, -0.2, 0.9])
    cost = np.log1p(np.exp((scores - 0.1) / 0.2))
    got = ranking.explicit_negative(f32(scores), margin=0.1, temperature=0.2)
    np.testing.assert_allclose(got, cost, rtol=1e-6)


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
    got = mean(ranking.softmax, positive, scores, temperature=t)
    got += share * jnp.mean(ranking.popularity_smoothing(positive, f32(scores @ prior), temperature=t))
    np.testing.assert_allclose(got, -np.mean(np.sum(target * log_p, axis=1)), rtol=1e-5)


def test_l2():
    rows = np.array([[3.0, 4.0], [0.0, 1.0]])
    np.testing.assert_allclose(ranking.l2(f32(rows), f32(rows)), [25.0, 1.0], rtol=1e-6)


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
    with pytest.raises(UserError, match=f"config.loss.{field}="):
        LossSettings(**{field: value})
