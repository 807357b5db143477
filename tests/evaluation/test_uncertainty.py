"""Intervals and p-values against formulas, scipy and each other."""

import math

import numpy as np
import pytest
from scipy import stats

from music_map.evaluation import uncertainty
from music_map.evaluation.uncertainty import bootstrap_interval, interval, randomization_test, resample


def test_bootstrap_interval_covers_the_mean_as_the_normal_interval_does():
    values = np.random.default_rng(1).random(400)
    low, high = bootstrap_interval(values, seed=0, num_resamples=4000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert (low, high) == bootstrap_interval(values, seed=0, num_resamples=4000)
    assert (low, high) != bootstrap_interval(values, seed=1, num_resamples=4000)
    narrow = bootstrap_interval(values, seed=0, num_resamples=4000, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_leaves_out_nan_and_is_exact_without_spread():
    assert bootstrap_interval(np.array([0.25, np.nan, 0.25]), seed=0) == (0.25, 0.25)
    with pytest.raises(ValueError, match="no user"):
        bootstrap_interval(np.array([np.nan]), seed=0)


def test_bootstrap_does_not_depend_on_memory_blocks():
    many = np.arange(3_000_000) % 2 * 1.0
    low, high = bootstrap_interval(many, seed=0, num_resamples=3)
    assert 0.49 < low <= high < 0.51


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.exponential(size=80), seed=seed, num_resamples=400)
        covered += low <= 1.0 <= high
    # 190 expected, less what the percentile bootstrap loses on 80 skewed values; standard deviation 3.
    assert 175 <= covered <= 200


def test_a_ratio_of_sums_resamples_as_one():
    rng = np.random.default_rng(0)
    above, below = rng.random((30, 2)), rng.random((30, 2)) + 0.5
    samples = resample({"a": above, "b": 2 * above}, below, seed=5, num_resamples=50)
    assert samples["a"].shape == (50, 2)
    np.testing.assert_allclose(samples["b"], 2 * samples["a"])
    # The same users, drawn here row by row.
    draws = np.random.default_rng(5).integers(30, size=(50, 30))
    np.testing.assert_allclose(samples["a"], above[draws].sum(axis=1) / below[draws].sum(axis=1))


def test_paired_differences_are_narrower_than_the_parts():
    """Users differ far more than scorers: what two scorers share drops out of their difference."""
    rng = np.random.default_rng(1)
    hard = rng.random((300, 1))
    samples = resample({"a": hard + 0.01 * rng.random((300, 1)), "b": hard}, np.ones((300, 1)), seed=0)
    width = {name: np.diff(interval(values))[0, 0] for name, values in samples.items()}
    low, high = interval(samples["a"] - samples["b"])[0]
    assert 0 < low < 0.005 < high < 0.01 and high - low < width["b"] / 10


def test_queries_of_a_user_move_together():
    rng = np.random.default_rng(2)
    users = np.repeat(np.arange(50), 20)[rng.permutation(1000)]
    values = rng.random(50)[users][:, None]
    ones = np.ones_like(values)
    alone, grouped = (
        np.diff(interval(resample({"": values}, ones, seed=0, groups=groups)[""]))[0, 0] for groups in (None, users)
    )
    # Twenty equal queries of a user tell as much as one: the interval is sqrt(20) = 4.5 times as wide.
    assert grouped / alone == pytest.approx(math.sqrt(20), rel=0.15)
    shifted = values - values.mean() + 0.03
    p_alone, p_grouped = (randomization_test(shifted, seed=0, groups=groups)[0] for groups in (None, users))
    assert p_alone < 0.01 < p_grouped


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=(40, 3)), rng.integers(0, 11, 40)
    whole = resample({"": values}, np.ones_like(values), seed=1, groups=groups)[""]
    p_whole = randomization_test(values, seed=1, groups=groups)
    monkeypatch.setattr(uncertainty, "_DRAWS", 100)
    np.testing.assert_allclose(resample({"": values}, np.ones_like(values), seed=1, groups=groups)[""], whole)
    np.testing.assert_allclose(randomization_test(values, seed=1, groups=groups), p_whole, atol=0.02)


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.5])
def test_p_values_agree_with_scipy(shift):
    values = np.random.default_rng(7).normal(size=(60, 2)) + shift
    expected = stats.permutation_test(
        (values,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=10_000, rng=3
    ).pvalue
    np.testing.assert_allclose(randomization_test(values, seed=0), expected, atol=0.02)


def test_p_value_of_few_users_is_the_exact_one():
    # Of 2^4 assignments of signs two reach |sum| = 10: all plus, all minus.
    p = randomization_test(np.array([[1.0], [2.0], [3.0], [4.0]]), seed=0, num_permutations=50_000)
    assert p[0] == pytest.approx(2 / 16, abs=0.005)


def test_p_values_without_a_difference_are_uniform():
    rng = np.random.default_rng(11)
    p = randomization_test(rng.normal(size=(50, 400)), seed=0, num_permutations=1000)
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert randomization_test(np.zeros((5, 2)), seed=0).tolist() == [1.0, 1.0]
