"""The choice of filter and share on validation, by one rule for every data set and protocol.

Candidates are ordered from the simplest on: the encoder alone, then each kind of filter in the order of the
configuration (the smoothest first: a validation split that follows train closely flatters filters that copy the
neighbourhoods of single songs), and within a kind smaller shares first. The first candidate is taken whose metric is
within one standard error of the best one's (Breiman et al., Classification and Regression Trees, 1984). The error is
that of the paired difference: sd_u(x_best,u - x_u) / sqrt(U).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from music_map.evaluation.metrics import user_sums
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import RankingTask
from music_map.evaluation.ranking import mask_indices
from music_map.graph_filter.scores import MixedScorer
from music_map.reporter import Progress, silent

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
      numerators, denominators: float64 [S, U] and [U], of the metric; see metrics.UserSums.
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


def try_shares(
    scorer: MixedScorer,
    kind: str,
    exponent: float,
    task: RankingTask,
    *,
    metric: str,
    shares: Sequence[float] = SHARES,
    progress: Progress = silent,
) -> Tried:
    """Measures the shares of one filter on a task; the scorer's own share is not used."""
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
    columns = [of_metric(topk, task.targets, metric) for topk in lists]
    numerators = np.stack([numerator for numerator, _ in columns])
    return Tried([Choice(kind, exponent, share) for share in shares], numerators, columns[0][1])


def of_metric(topk: np.ndarray, targets: Pairs, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators float64 [U] of a metric, see metrics.UserSums; of NDCG if it has none per user."""
    k = metric.partition("@")[2]
    sums = user_sums(topk, targets, ks=(int(k),))
    at = sums.keys.index(metric if metric in sums.keys else f"ndcg@{k}")
    return sums.numerators[:, at], sums.denominators[:, at]


def choose(tried: Sequence[Tried]) -> tuple[Choice, list[tuple[Choice, float]]]:
    """The choice by the rule above, and the metric of each candidate."""
    candidates = list(_by_simplicity(tried))
    numerators = np.stack([row for _, row in candidates])
    below = tried[0].denominators
    values = numerators.sum(axis=1) / below.sum()
    lead = numerators[values.argmax()] - numerators
    # The error of a ratio of sums by its linearisation: each user's difference less its share of the whole.
    around = lead - (values.max() - values)[:, None] * below
    error = np.sqrt(np.square(around).sum(axis=1)) / below.sum()
    simplest = int(np.flatnonzero(values.max() - values <= error)[0])
    return candidates[simplest][0], [(choice, float(v)) for (choice, _), v in zip(candidates, values, strict=True)]


def _by_simplicity(tried: Sequence[Tried]) -> Iterator[tuple[Choice, np.ndarray]]:
    for number, one in enumerate(tried):
        for choice, row in zip(one.choices, one.numerators, strict=True):
            if choice.share > 0 or number == 0:
                yield choice, row
