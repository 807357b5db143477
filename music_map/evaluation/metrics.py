"""Metrics of ranked lists, in float64.

Notation, for user u with targets T_u and the list's first k songs:

    hit_j    1 where the song at rank j (from 1) is a target, else 0
    DCG@k    = sum_{j <= k} hit_j / log2(j + 1)
    IDCG@k   = sum_{j <= min(k, |T_u|)} 1 / log2(j + 1)

Each metric takes `hits`, bool [U, K] with column j - 1 for rank j, and `num_targets`, int64 [U], at least 1. A list
that ends early (-1 padding) has no hit there. The literature has two conventions for recall and for NDCG, and their
values differ; both are here, each with its name: `recall` and `ndcg` are LightGCN's, `recall` and `ndcg_pooled`
those of the Yambda paper, `recall_min` that of the code published with Yambda. METRICS is the table of all; `register`
adds to it, see docs/extending.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from music_map.errors import UserError
from music_map.evaluation.pairs import Pairs
from music_map.registry import Registry

KS = (10, 20, 50, 100)


@dataclasses.dataclass(frozen=True)
class Metric:
    """An entry of the table.

    Attributes:
      values: of "hits": (hits, num_targets, k) -> float64 [U]; of "lists": (topk int32 [U, K], k, catalogue=number of
        songs that may be recommended) -> float.
      meaning: in plain words.
      denominators: (num_targets, k) -> float64 [U]; the metric is then the sum of the values over the sum of these.
        None: the mean of the values.
      of: what it is made of. One of "hits" has confidence intervals over users, one of "lists" has none.
    """

    values: Callable[..., Any]
    meaning: str
    denominators: Callable[[np.ndarray, int], np.ndarray] | None = None
    of: Literal["hits", "lists"] = "hits"

    @property
    def per_user(self) -> bool:
        """Whether the metric is a mean over users."""
        return self.of == "hits" and self.denominators is None


METRICS: Registry[Metric] = Registry("metric", "music_map.evaluation.metrics")


def register(
    name: str,
    meaning: str,
    *,
    denominators: Callable[[np.ndarray, int], np.ndarray] | None = None,
    of: Literal["hits", "lists"] = "hits",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a function that is a metric: results then have it, and config.eval.metric can be "NAME@K".

    Args:
      name: of the metric.
      meaning, denominators, of: see Metric.
    """

    def add(values: Callable[..., Any]) -> Callable[..., Any]:
        METRICS.register(name, Metric(values, meaning, denominators, of))
        return values

    return add


def hit_matrix(topk: np.ndarray, targets: Pairs) -> np.ndarray:
    """Which of the recommended songs are targets.

    Args:
      topk: int32 [U, K], item indices by descending score, distinct within a row, then -1.
      targets: U rows.

    Returns:
      bool [U, K].
    """
    if topk.ndim != 2 or len(topk) != targets.num_rows:
        raise ValueError(f"topk has shape {topk.shape}, targets have {targets.num_rows} rows")
    return targets.contains(np.arange(len(topk))[:, None], topk)


@register("recall", "share of a user's targets among the first k")
def recall(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Recall@k = (number of hits) / |T_u|, float64 [U]; its best value is below 1 where |T_u| > k."""
    return _count(hits, k) / num_targets


@register("recall_min", "the same, out of at most k")
def recall_min(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Recall@k = (number of hits) / min(k, |T_u|), float64 [U]."""
    return _count(hits, k) / np.minimum(k, num_targets)


@register("precision", "share of the first k that are targets")
def precision(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Precision@k = (number of hits) / k, float64 [U]; ranks that the list leaves empty count as misses."""
    del num_targets
    return _count(hits, k) / k


@register("hit_rate", "users with a target among the first k")
def hit_rate(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """HitRate@k = 1 with at least one hit, else 0, float64 [U]."""
    del num_targets
    return np.minimum(_count(hits, k), 1.0)


@register("mrr", "one over the rank of the first target")
def mrr(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Reciprocal rank of the first hit: 1 / min{j <= k: hit_j}, 0 without a hit, float64 [U]."""
    del num_targets
    top = hits[:, :k]
    return np.where(top.any(axis=1), 1.0 / (1 + top.argmax(axis=1)), 0.0)


@register("map", "mean average precision")
def average_precision(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """AP@k = 1 / min(k, |T_u|) * sum_{j <= k} hit_j * Precision@j, float64 [U]; its mean over users is MAP@k."""
    top = hits[:, :k]
    precision_at = np.cumsum(top, axis=1, dtype=np.float64) / np.arange(1, top.shape[1] + 1)[None]
    return (precision_at * top).sum(axis=1) / np.minimum(k, num_targets)


def dcg(hits: np.ndarray, k: int) -> np.ndarray:
    """DCG@k = sum_{j <= k} hit_j / log2(j + 1), float64 [U]."""
    top = hits[:, :k]
    return top.astype(np.float64) @ _discounts(top.shape[1])


def ideal_dcg(num_targets: np.ndarray, k: int) -> np.ndarray:
    """IDCG@k = sum_{j <= min(k, |T_u|)} 1 / log2(j + 1), float64 [U]."""
    return np.concatenate([[0.0], np.cumsum(_discounts(k))])[np.minimum(k, num_targets)]


@register("ndcg", "targets found, those higher up counting more; 1 is the best order")
def ndcg(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k = DCG@k / IDCG@k, float64 [U] (Järvelin and Kekäläinen, TOIS 2002)."""
    return dcg(hits, k) / ideal_dcg(num_targets, k)


@register("ndcg_pooled", "the same pooled over users, as in the Yambda paper", denominators=ideal_dcg)
def dcg_of_users(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """DCG@k, float64 [U]: sum_u DCG@k / sum_u IDCG@k is the Yambda paper's NDCG@k, where a user counts by its ideal."""
    del num_targets
    return dcg(hits, k)


@register("coverage", "share of the candidate songs that some user is shown", of="lists")
def coverage(topk: np.ndarray, k: int, *, catalogue: int) -> float:
    """Coverage@k = (distinct songs among all users' first k) / (songs that may be recommended).

    Args:
      topk: int32 [U, K], padded with -1.
      k: cut-off.
      catalogue: number of songs that may be recommended.
    """
    top = topk[:, :k]
    return int(np.count_nonzero(np.bincount(top[top >= 0]))) / catalogue


def per_user_metric(key: str, topk: np.ndarray, targets: Pairs) -> np.ndarray:
    """One metric of each user, for confidence intervals and paired comparisons.

    Args:
      key: name@k with the name of a mean over users, e.g. "ndcg@20".
      topk: int32 [U, K], padded with -1; K >= k.
      targets: U rows.

    Returns:
      float64 [U]; NaN for a user without targets.

    Raises:
      UserError: the key is no metric of single users.
      ValueError: K < k.
    """
    name, _, k = key.partition("@")
    per_user = {name: metric.values for name, metric in METRICS.all().items() if metric.per_user}
    if name not in per_user or not k.isdigit():
        raise UserError(f"metric {key!r} has no value per user; choose one of {', '.join(per_user)}, as in 'ndcg@20'")
    _check_cutoffs(topk, [int(k)])
    has = targets.sizes > 0
    values = np.full(len(topk), np.nan)
    values[has] = per_user[name](hit_matrix(topk, targets)[has], targets.sizes[has], int(k))
    return values


def ranking_metrics(topk: np.ndarray, targets: Pairs, *, catalogue: int, ks: Sequence[int] = KS) -> dict[str, float]:
    """All metrics at all cut-offs, over the users that have targets.

    Args:
      topk: int32 [U, K], item indices by descending score, distinct within a row, then -1; K >= max(ks).
      targets: U rows; rows without targets are left out everywhere, from coverage too.
      catalogue: number of songs that may be recommended, for coverage.
      ks: cut-offs.

    Returns:
      Each metric of METRICS at each k: "recall@k", ..., "coverage@k".

    Raises:
      ValueError: no user has a target, K < max(ks), or the rows of topk and targets differ in number.
    """
    _check_cutoffs(topk, ks)
    has = targets.sizes > 0
    if not has.any():
        raise ValueError("no user has a target")
    hits, num_targets, topk = hit_matrix(topk, targets)[has], targets.sizes[has], topk[has]
    metrics = {}
    for k in ks:
        for name, metric in METRICS.all().items():
            if metric.of == "lists":
                value = metric.values(topk, k, catalogue=catalogue)
            elif metric.denominators is None:
                value = metric.values(hits, num_targets, k).mean()
            else:
                value = metric.values(hits, num_targets, k).sum() / metric.denominators(num_targets, k).sum()
            metrics[f"{name}@{k}"] = float(value)
    return metrics


class UserSums(NamedTuple):
    """Metrics as ratios of sums over users: metric m is numerators[:, m].sum() / denominators[:, m].sum().

    Attributes:
      keys: "recall@10", ...: the metrics of hits at all cut-offs; M of them.
      numerators: float64 [U, M], a user's value.
      denominators: float64 [U, M]: 1 for a mean over users, else Metric.denominators. They depend on the targets alone.
    """

    keys: tuple[str, ...]
    numerators: np.ndarray
    denominators: np.ndarray


def user_sums(topk: np.ndarray, targets: Pairs, *, ks: Sequence[int] = KS) -> UserSums:
    """What each user adds to each metric, for confidence intervals and paired tests.

    Args:
      topk: int32 [U, K], padded with -1; K >= max(ks).
      targets: U rows, each with a target.
      ks: cut-offs.

    Raises:
      ValueError: K < max(ks), or a user has no target.
    """
    _check_cutoffs(topk, ks)
    if not targets.sizes.all():
        raise ValueError("a user has no target")
    hits, num_targets = hit_matrix(topk, targets), targets.sizes
    columns, of_hits = {}, {name: metric for name, metric in METRICS.all().items() if metric.of == "hits"}
    for k in ks:
        for name, metric in of_hits.items():
            below = np.ones(len(hits)) if metric.denominators is None else metric.denominators(num_targets, k)
            columns[f"{name}@{k}"] = metric.values(hits, num_targets, k), below
    numerators, denominators = (np.stack(side, axis=1) for side in zip(*columns.values(), strict=True))
    return UserSums(tuple(columns), numerators, denominators)


def _count(hits: np.ndarray, k: int) -> np.ndarray:
    return hits[:, :k].sum(axis=1, dtype=np.float64)


def _discounts(k: int) -> np.ndarray:
    """1 / log2(j + 1) for j = 1..k, float64 [k]."""
    return 1.0 / np.log2(np.arange(2, k + 2))


def _check_cutoffs(topk: np.ndarray, ks: Sequence[int]) -> None:
    if min(ks) < 1 or max(ks) > topk.shape[1]:
        raise ValueError(f"cut-offs {tuple(ks)} do not fit lists of {topk.shape[1]} songs")
