"""A scorer's metrics on a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from music_map.errors import UserError
from music_map.evaluation.metrics import hit_matrix, per_user, ranking_metrics
from music_map.evaluation.protocols import RankingTask
from music_map.evaluation.ranking import ScoreBlock, rank
from music_map.progress import Progress, silent


class Evaluation(NamedTuple):
    """What came out.

    Attributes:
      metrics: "name@k" -> value.
      topk: int32 [U, max k], the lists themselves, rows as task.users.
    """

    metrics: dict[str, float]
    topk: np.ndarray


def evaluate_scores(
    score_block: ScoreBlock, task: RankingTask, *, ks: Sequence[int], progress: Progress = silent
) -> Evaluation:
    """Ranks all candidates for the task's users and measures.

    Args:
      score_block: scores of a block of users.
      task: users, targets, masks, candidates.
      ks: cut-offs.
      progress: bar over users.

    Raises:
      UserError: a cut-off is below 1, or a score is NaN.
    """
    if not ks or min(ks) < 1:
        raise UserError(f"config.eval.ks={tuple(ks)}: must be numbers of at least 1")
    topk = rank(score_block, task.users, task.masked, task.candidates, k=max(ks), progress=progress)
    num_items = len(task.candidates)
    metrics = ranking_metrics(topk, task.targets, ks, num_items=num_items, catalogue=int(task.candidates.sum()))
    return Evaluation(metrics, topk)


def bootstrap_interval(
    values: np.ndarray, *, seed: int, samples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over users (Efron, 1979).

    Args:
      values: float [U], one value a user, or paired differences of two models.
      seed: of the resampling.
      samples: resamples.
      level: coverage.
    """
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(samples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def user_values(evaluation: Evaluation, task: RankingTask, metric: str) -> np.ndarray:
    """One metric ("ndcg@20") before the mean over users, float64 [U]."""
    name, _, k = metric.partition("@")
    hits = hit_matrix(evaluation.topk, task.targets, num_items=len(task.candidates))
    return per_user(hits, task.targets.counts, int(k))[name]
