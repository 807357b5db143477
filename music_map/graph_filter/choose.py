"""The choice of filter and share on validation, by one rule for every data set and protocol.

Validation may follow train more closely than what comes later. It then flatters filters that copy the neighbourhoods
of single songs. Whether it does is not known beforehand, so a mix is worth what it does for the targets that it serves
worst. The targets are cut into GROUPS equal groups by nearness to the user's songs, the sum of cosines of their
listeners. The value of a candidate is its least ratio to the encoder alone over the groups,

    value(c) = min_g m_g(c) / m_g(encoder),    m_g: the metric with the targets of group g only

The mix of largest value is taken if it is worth more than the encoder alone, value 1, by more than one standard error;
else the encoder alone. All mixes are equally complex, so among them the error does not count. It is that of the ratio
in the mix's worst group, over users.

References:
  Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020 (the worst group).
  Breiman et al., Classification and Regression Trees, 1984 (one standard error).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from music_map.evaluation.metrics import user_sums
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import RankingTask
from music_map.evaluation.ranking import mask_indices
from music_map.graph_filter.scores import MixedScorer, nearness
from music_map.reporter import Progress, silent
from music_map.rows import offsets_of

# Groups of targets by nearness: the largest number with which halves of the validation users of Gowalla agree.
GROUPS = 3
SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)


class Choice(NamedTuple):
    """A filter and its share in the score; a share of 0 is the encoder alone."""

    kind: str
    exponent: float
    share: float


class Tried(NamedTuple):
    """Candidates of one filter.

    Attributes:
      choices: one a share.
      numerators, denominators: float64 [S, U, G] and [U, G], of the metric with the targets of one group; 0 for users
        without such targets. See metrics.UserSums.
    """

    choices: list[Choice]
    numerators: np.ndarray
    denominators: np.ndarray


def sample_of(task: RankingTask, most: int, *, seed: int) -> RankingTask:
    """The task for at most `most` of its users, drawn uniformly."""
    if len(task.users) <= most:
        return task
    kept = np.sort(np.random.default_rng(seed).choice(len(task.users), most, replace=False))
    picked = {"users": task.users[kept], "targets": task.targets.select(kept), "masked": task.masked.select(kept)}
    return dataclasses.replace(task, **picked)


def groups_of(scorer: MixedScorer, task: RankingTask) -> np.ndarray:
    """Groups of the targets by nearness, 0 the farthest: int64 [P], in the order of the pairs.

    The nearness of song i for a user with edge weights r_j is sum_j r_j cos(i, j), with cos(i, j) = (R'R)_ij / sqrt(d_i
    d_j): the linear filter without exponents and without the users' degrees.

    Args:
      scorer: with the operator of the linear filter of exponent 0.
      task: on validation.
    """
    operator = scorer.operator._replace(between=np.ones_like(scorer.operator.between))
    scorer = dataclasses.replace(scorer, operator=operator)
    rows, near, size = task.targets.rows, np.zeros(len(task.targets.items), np.float32), scorer.block_size
    for start in range(0, len(task.users), size):
        block = task.users[start : start + size]
        filled = scorer.prepare(np.append(block, np.full(size - len(block), block[0])))
        found = nearness(operator.kernel, filled, backend=scorer.backend)
        at = slice(*task.targets.offsets[[start, start + len(block)]])
        near[at] = np.asarray(found)[rows[at] - start, task.targets.items[at]]
    return np.searchsorted(np.quantile(near, np.arange(1, GROUPS) / GROUPS), near) if len(near) else rows


def try_shares(
    scorer: MixedScorer,
    kind: str,
    exponent: float,
    task: RankingTask,
    groups: np.ndarray,
    *,
    metric: str,
    shares: Sequence[float] = SHARES,
    progress: Progress = silent,
) -> Tried:
    """Measures the shares of one filter on a task; the scorer's own share is not used.

    Args:
      scorer: with the filter.
      kind, exponent: of the filter.
      task: on validation.
      groups: integers [P] of the targets, from 0.
      metric: by name.
      shares: to try.
      progress: reports users.
    """
    k = int(metric.partition("@")[2])
    allowed, size = jnp.asarray(task.candidates), min(scorer.block_size, max(len(task.users), 1))
    length = min(k, scorer.num_items)
    lists = np.full((len(shares), len(task.users), k), -1, np.int32)
    with progress("graph filter", len(task.users), "user") as advance:
        for start in range(0, len(task.users), size):
            block = task.users[start : start + size]
            filled = np.append(block, np.full(size - len(block), block[0]))
            withheld = mask_indices(task.masked, start, len(block), out_of_range=size)
            best = scorer.ranked_by_share(scorer.prepare(filled), np.array(shares), allowed, *withheld, k=length)
            lists[:, start : start + len(block), :length] = np.asarray(best)[:, : len(block)]
            advance(len(block))
    numerators = np.zeros((*lists.shape[:2], int(groups.max(initial=0)) + 1))
    denominators = np.zeros(numerators.shape[1:])
    for group in range(numerators.shape[2]):
        sizes = np.bincount(task.targets.rows[groups == group], minlength=len(task.users))
        there = np.flatnonzero(sizes)
        targets = Pairs(offsets_of(sizes), task.targets.items[groups == group]).select(there)
        for at, topk in enumerate(lists):
            numerators[at, there, group], denominators[there, group] = of_metric(topk[there], targets, metric)
    return Tried([Choice(kind, exponent, share) for share in shares], numerators, denominators)


def of_metric(topk: np.ndarray, targets: Pairs, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators float64 [U] of a metric, see metrics.UserSums; of NDCG if it has none per user."""
    k = metric.partition("@")[2]
    sums = user_sums(topk, targets, ks=(int(k),))
    at = sums.keys.index(metric if metric in sums.keys else f"ndcg@{k}")
    return sums.numerators[:, at], sums.denominators[:, at]


def choose(tried: Sequence[Tried]) -> tuple[Choice, list[tuple[Choice, float]]]:
    """The choice by the rule above, and the value of each candidate.

    Groups without a hit of the encoder are left out; if there is no other, the encoder alone is chosen.
    """
    candidates = _by_share(tried)
    sums = np.stack([row for _, row in candidates])  # [C, U, G], the encoder alone first
    sums = sums[:, :, sums[0].any(axis=0)]
    if not sums.shape[2]:
        return candidates[0][0], [(choice, 1.0) for choice, _ in candidates]
    of_encoder = sums[0].sum(axis=0)
    ratios = sums.sum(axis=1) / of_encoder
    worst, values = ratios.argmin(axis=1), ratios.min(axis=1)
    best = int(values.argmax())
    group = worst[best]
    # The error of a ratio of sums by its linearisation: what each user adds above the ratio's share of the encoder.
    added = (sums[best, :, group] - values[best] * sums[0, :, group]) / of_encoder[group]
    taken = best if values[best] - 1.0 > np.sqrt(np.square(added).sum()) else 0
    return candidates[taken][0], [(choice, float(v)) for (choice, _), v in zip(candidates, values, strict=True)]


def search(exponents: Mapping[str, Sequence[float]], trial: Callable[[str, float], Tried]) -> list[Tried]:
    """Tries every kind with its usual exponent, then others of the best kind: on from it while the value rises.

    Args:
      exponents: of each kind, the usual one first.
      trial: measures the shares of a kind with an exponent.
    """
    tried = [trial(kind, of_kind[0]) for kind, of_kind in exponents.items()]
    best, value = _best_mix(tried)
    ascending = sorted(set(exponents[best.kind]))
    usual = ascending.index(best.exponent)
    for further in (ascending[usual + 1 :], ascending[:usual][::-1]):
        for exponent in further:
            tried.append(trial(best.kind, exponent))
            _, found = _best_mix(tried[-1:])
            if found <= value:
                break
            value = found
    return tried


def _best_mix(tried: Sequence[Tried]) -> tuple[Choice, float]:
    _, values = choose(tried)
    return max((pair for pair in values if pair[0].share > 0), key=lambda pair: pair[1])


def _by_share(tried: Sequence[Tried]) -> list[tuple[Choice, np.ndarray]]:
    """Every choice with its row: the encoder alone, then smaller shares first; of equal shares the first kind tried."""
    every = [(choice, row) for one in tried for choice, row in zip(one.choices, one.numerators, strict=True)]
    alone = [pair for pair in every if pair[0].share == 0][:1]
    return alone + sorted((pair for pair in every if pair[0].share > 0), key=lambda pair: pair[0].share)
