"""Evaluation of a scorer on a ranking task, alone or beside baselines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from music_map.evaluation.metrics import KS, per_user_metric, ranking_metrics, user_sums
from music_map.evaluation.protocols import RankingTask
from music_map.evaluation.ranking import ScoreBlock, rank
from music_map.evaluation.uncertainty import LEVEL, bootstrap_interval, interval, randomization_test, resample
from music_map.reporter import Progress, silent


class Evaluation(NamedTuple):
    """One scorer's lists, and the metrics of these.

    Attributes:
      metrics: values by "recall@20", "ndcg@20", ...; see ranking_metrics.
      topk: int32 [U, max(ks)], the lists, in the order of the task's users; padded with -1.
    """

    metrics: dict[str, float]
    topk: np.ndarray


def evaluate_scores(
    score_block: ScoreBlock,
    task: RankingTask,
    *,
    ks: Sequence[int] = KS,
    block_size: int | None = None,
    shared: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Ranks the task's candidates for its users and measures the lists.

    Args:
      score_block: int32 [B] user indices -> float [B, I]; a model's is ranking.embedding_scores(user_emb, item_emb).
      task: from protocols.build_task.
      ks: cut-offs.
      block_size: users scored at once; None: by memory.
      shared: each of several processes ranks for its share of the users, see ranking.rank.
      progress: reports users.

    Raises:
      UserError: a score is NaN.
    """
    topk = rank(
        score_block,
        task.users,
        num_items=len(task.candidates),
        k=max(ks),
        candidates=task.candidates,
        masked=task.masked,
        block_size=block_size,
        shared=shared,
        progress=progress,
    )
    return Evaluation(ranking_metrics(topk, task.targets, catalogue=task.catalogue, ks=ks), topk)


def evaluate_beside_baselines(
    models: ScoreBlock | Mapping[str, ScoreBlock],
    baselines: Iterable[tuple[str, ScoreBlock]],
    task: RankingTask,
    *,
    ks: Sequence[int] = KS,
    seed: int = 0,
    groups: np.ndarray | None = None,
    block_size: int | None = None,
    shared: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """A report, as JSON-able values, on the model and the baselines over the same users, targets and candidates.

    Args:
      models: the model's score block, or several of its forms by name, "model" first.
      baselines: (name, score block), e.g. from baselines.fit_baselines; consumed one by one.
      task: see evaluate_scores.
      seed: of the bootstrap.
      groups: see uncertainty.resample.
      ks, block_size, shared, progress: see evaluate_scores.

    Returns:
      {"protocol": name, "split": "val" or "test", "model": metrics (likewise each other form), "baselines":
      {name: metrics}, "intervals": see `intervals`, "num_users", "num_dropped_users", "num_targets",
      "num_candidates", "cold_target_share"}.
    """
    models = models if isinstance(models, Mapping) else {"model": models}
    options = {"ks": ks, "block_size": block_size, "shared": shared, "progress": progress}
    of_models = {name: evaluate_scores(scores, task, **options) for name, scores in models.items()}
    of_baselines = {name: evaluate_scores(scores, task, **options) for name, scores in baselines}
    return summary(of_models, of_baselines, task, ks=ks, seed=seed, groups=groups)


def summary(
    models: Mapping[str, Evaluation],
    baselines: Mapping[str, Evaluation],
    task: RankingTask,
    *,
    ks: Sequence[int] = KS,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """The report of `evaluate_beside_baselines`, made from finished evaluations.

    Args:
      models: forms of the model by name, "model" among them.
      baselines: by name.
      task: the task that was evaluated.
      ks, seed, groups: see `intervals`.
    """
    return {
        "protocol": task.protocol.name,
        "split": task.split,
        **{name: found.metrics for name, found in models.items()},
        "baselines": {name: found.metrics for name, found in baselines.items()},
        "intervals": intervals(models, baselines, task, ks=ks, seed=seed, groups=groups),
        "num_users": len(task.users),
        "num_dropped_users": task.num_dropped_users,
        "num_targets": task.num_targets,
        "num_candidates": task.catalogue,
        "cold_target_share": task.cold_target_share,
    }


def intervals(
    models: Mapping[str, Evaluation],
    baselines: Mapping[str, Evaluation],
    task: RankingTask,
    *,
    ks: Sequence[int] = KS,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """Bootstrap intervals over users, of all metrics of hits; JSON-able values.

    Args:
      models: forms of the model by name, "model" among them.
      baselines: by name.
      task: the task that was evaluated.
      ks: cut-offs.
      seed: of the bootstrap.
      groups: see uncertainty.resample.

    Returns:
      {"level": 0.95, "model": {"ndcg@20": [low, high], ...} (likewise each other form), "baselines": {name: ...},
      "model_minus": {name: ...}}. "model_minus" holds the intervals of the paired differences, "model" minus each
      baseline and each other form.
    """
    scorers = {("", name): found for name, found in models.items()}
    scorers |= {("baselines", name): found for name, found in baselines.items()}
    sums = {key: user_sums(found.topk, task.targets, ks=ks) for key, found in scorers.items()}
    model = sums["", "model"]
    samples = resample(
        {key: each.numerators for key, each in sums.items()}, model.denominators, seed=seed, groups=groups
    )

    def named(values: np.ndarray) -> dict[str, list[float]]:
        return dict(zip(model.keys, interval(values).tolist(), strict=True))

    return {
        "level": LEVEL,
        **{name: named(samples["", name]) for name in models},
        "baselines": {name: named(samples["baselines", name]) for name in baselines},
        "model_minus": {
            name: named(samples["", "model"] - values)
            for (where, name), values in samples.items()
            if (where, name) != ("", "model")
        },
    }


def compare(
    first: Evaluation,
    second: Evaluation,
    task: RankingTask,
    *,
    ks: Sequence[int] = KS,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> dict[str, dict[str, Any]]:
    """Compares two scorers on the same task, paired by user; gives JSON-able values.

    Args:
      first, second: evaluations on the task.
      task, ks, groups: see `intervals`.
      seed: of the bootstrap and of the randomization test.

    Returns:
      For each metric of hits {"difference": first - second, "interval": [low, high], "p_value"}. The interval is the
      bootstrap's; the p-value is two-sided, from uncertainty.randomization_test, and not corrected for the number of
      metrics.
    """
    one, other = (user_sums(each.topk, task.targets, ks=ks) for each in (first, second))
    differences = one.numerators - other.numerators
    samples = resample({"": differences}, one.denominators, seed=seed, groups=groups)[""]
    p_values = randomization_test(differences, seed=seed, groups=groups)
    columns = zip(one.keys, interval(samples).tolist(), p_values.tolist(), strict=True)
    return {
        key: {"difference": first.metrics[key] - second.metrics[key], "interval": bounds, "p_value": p}
        for key, bounds, p in columns
    }


def confidence_interval(
    key: str, task: RankingTask, topk: np.ndarray, *, seed: int, against: np.ndarray | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval over users of a metric, or of its difference between two scorers on the same users.

    Args:
      key: e.g. "ndcg@20".
      task: the task that the lists answer.
      topk: int32 [U, K], see Evaluation.
      seed: of the resampling.
      against: int32 [U, K], lists of a second scorer; the interval is then of (first - second).
      level: probability that the interval covers.

    Returns:
      (low, high).
    """
    values = per_user_metric(key, topk, task.targets)
    if against is not None:
        values = values - per_user_metric(key, against, task.targets)
    return bootstrap_interval(values, seed=seed, level=level)
