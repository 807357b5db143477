"""How far figures over users can be trusted: bootstrap intervals, and a paired test between two scorers.

Every figure is a ratio of sums over users; a mean has denominators of 1. Users are independent of each other, several
queries of one user are not, so queries of a user are drawn together (`groups`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

LEVEL = 0.95
NUM_RESAMPLES = 2_000
NUM_PERMUTATIONS = 10_000

# Draws in memory at once: 32 MiB of indices.
_DRAWS = 2**22


def resample(
    numerators: Mapping[str, np.ndarray],
    denominators: np.ndarray,
    *,
    seed: int,
    groups: np.ndarray | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, np.ndarray]:
    """Bootstrap samples of sum_u numerator / sum_u denominator; the users drawn are the same for every scorer.

    The difference of two scorers' samples is then a sample of their difference.

    Args:
      numerators: by scorer, float [U, M]: rows are users (or queries), columns metrics.
      denominators: float [U, M], the same for every scorer.
      seed: of the draws.
      groups: integers [U], rows of one group are drawn together; None: each row alone.
      num_resamples: R, each as many groups as there are, drawn with replacement.

    Returns:
      By scorer, float64 [R, M].
    """
    sums = {name: _by_group(values, groups) for name, values in numerators.items()}
    below = _by_group(denominators, groups)
    samples = {name: [] for name in sums}
    for weights in _drawn(len(below), num_resamples, np.random.default_rng(seed)):
        total = weights @ below
        for name, values in sums.items():
            samples[name].append(weights @ values / total)
    return {name: np.concatenate(parts) for name, parts in samples.items()}


def interval(samples: np.ndarray, *, level: float = LEVEL) -> np.ndarray:
    """Percentile interval of bootstrap samples.

    Args:
      samples: float [R, M].
      level: probability that an interval covers, in (0, 1).

    Returns:
      float64 [M, 2]: the quantiles (1 - level) / 2 and (1 + level) / 2 of each column.
    """
    return np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0).T


def bootstrap_interval(
    values: np.ndarray, *, seed: int, level: float = LEVEL, num_resamples: int = NUM_RESAMPLES
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over users.

    To compare two models pass the differences of their per-user values: the users are then the same in every resample.

    Args:
      values: float [U], one per user; NaN (no targets) is left out.
      seed: of the resampling.
      level: probability that the interval covers, in (0, 1).
      num_resamples: samples of U users drawn with replacement.

    Returns:
      (low, high).
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)][:, None]
    if len(values) == 0:
        raise ValueError("no user has a value")
    samples = resample({"": values}, np.ones_like(values), seed=seed, num_resamples=num_resamples)[""]
    low, high = interval(samples, level=level)[0]
    return float(low), float(high)


def randomization_test(
    differences: np.ndarray,
    *,
    seed: int,
    groups: np.ndarray | None = None,
    num_permutations: int = NUM_PERMUTATIONS,
) -> np.ndarray:
    """Two-sided paired randomization test: p-values of "the two scorers do not differ".

    If they do not differ, each user's difference d_u is as likely to have the other sign. With random signs s,

        p = (1 + #{permutations: |sum_u s_u d_u| >= |sum_u d_u|}) / (1 + N)

    Args:
      differences: float [U, M], first scorer minus second: rows are users (or queries), columns metrics.
      seed: of the signs.
      groups: integers [U], rows of one group change sign together; None: each row alone.
      num_permutations: N, random assignments of signs; the smallest p is 1 / (1 + N).

    Returns:
      float64 [M]. 1 where no user differs.

    Reference:
      Smucker, Allan and Carterette, A comparison of statistical significance tests for information retrieval
      evaluation, CIKM 2007.
    """
    sums = _by_group(differences, groups)
    # Sums of the same terms in another order differ in the last bits and must count as equal.
    observed = np.abs(sums.sum(axis=0)) - 1e-9 * np.abs(sums).sum(axis=0)
    rng = np.random.default_rng(seed)
    extreme = np.zeros(sums.shape[1], np.int64)
    for count in _chunks(len(sums), num_permutations):
        signs = rng.integers(0, 2, (count, len(sums)), dtype=np.int8) * np.float64(2) - 1
        extreme += (np.abs(signs @ sums) >= observed).sum(axis=0)
    return (1 + extreme) / (1 + num_permutations)


def _by_group(values: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Sums of the rows of each group, float64 [G, M]."""
    values = np.asarray(values, np.float64)
    if groups is None:
        return values
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(np.asarray(groups)[order], prepend=-1))
    return np.add.reduceat(values[order], starts, axis=0)


def _chunks(num_users: int, total: int) -> Iterator[int]:
    """Sizes of chunks that add up to `total`, each of at most _DRAWS draws."""
    at_once = max(1, _DRAWS // num_users)
    for done in range(0, total, at_once):
        yield min(at_once, total - done)


def _drawn(num_users: int, num_resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each user was drawn in each resample, float64 [r, num_users], a chunk at a time."""
    for count in _chunks(num_users, num_resamples):
        drawn = rng.integers(num_users, size=(count, num_users)) + np.arange(count)[:, None] * num_users
        counts = np.bincount(drawn.ravel(), minlength=count * num_users)
        yield counts.reshape(count, num_users).astype(np.float64)
