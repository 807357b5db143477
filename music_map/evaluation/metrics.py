"""Metrics of ranked lists, in float64.

Notation, for user u with targets T_u and the list's first k songs:

    hit_j    1 where the song at rank j (from 1) is a target, else 0
    DCG@k    = sum_{j <= k} hit_j / log2(j + 1)
    IDCG@k   = sum_{j <= min(k, |T_u|)} 1 / log2(j + 1)

Each metric takes `hits`, bool [U, K] with column j - 1 for rank j, and `num_targets`, int64 [U], at least 1. A list
that ends early (-1 padding) has no hit there. The literature has two conventions for recall and for NDCG, and their
values differ; both are here, each with its name: `recall` and `ndcg` are LightGCN's, `recall` and `ndcg_pooled`
those of the Yambda paper, `recall_min` that of the code published with Yambda.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from music_map.errors import UserError
from music_map.evaluation.pairs import Pairs

KS = (10, 20, 50, 100)


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


def recall(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Recall@k = (number of hits) / |T_u|, float64 [U]; its best value is below 1 where |T_u| > k."""
    return _count(hits, k) / num_targets


def recall_min(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Recall@k = (number of hits) / min(k, |T_u|), float64 [U]."""
    return _count(hits, k) / np.minimum(k, num_targets)


def precision(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Precision@k = (number of hits) / k, float64 [U]; ranks that the list leaves empty count as misses."""
    del num_targets
    return _count(hits, k) / k


def hit_rate(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """HitRate@k = 1 with at least one hit, else 0, float64 [U]."""
    del num_targets
    return np.minimum(_count(hits, k), 1.0)


def mrr(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Reciprocal rank of the first hit: 1 / min{j <= k: hit_j}, 0 without a hit, float64 [U]."""
    del num_targets
    top = hits[:, :k]
    return np.where(top.any(axis=1), 1.0 / (1 + top.argmax(axis=1)), 0.0)


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


def ndcg(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k = DCG@k / IDCG@k, float64 [U] (Järvelin and Kekäläinen, TOIS 2002)."""
    return dcg(hits, k) / ideal_dcg(num_targets, k)


def ndcg_pooled(hits: np.ndarray, num_targets: np.ndarray, k: int) -> float:
    """NDCG@k of the Yambda paper: sum_u DCG@k / sum_u IDCG@k. A user counts by the ideal that they allow."""
    return float(dcg(hits, k).sum() / ideal_dcg(num_targets, k).sum())


def coverage(topk: np.ndarray, k: int, *, catalogue: int) -> float:
    """Coverage@k = (distinct songs among all users' first k) / (songs that may be recommended).

    Args:
      topk: int32 [U, K], padded with -1.
      k: cut-off.
      catalogue: number of songs that may be recommended.
    """
    top = topk[:, :k]
    return len(np.unique(top[top >= 0])) / catalogue


PER_USER: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "recall": recall,
    "recall_min": recall_min,
    "precision": precision,
    "ndcg": ndcg,
    "hit_rate": hit_rate,
    "mrr": mrr,
    "map": average_precision,
}

# Names of all metrics that `ranking_metrics` gives.
METRICS = (*PER_USER, "ndcg_pooled", "coverage")


def per_user_metric(key: str, topk: np.ndarray, targets: Pairs) -> np.ndarray:
    """One metric of each user, for confidence intervals and paired comparisons.

    Args:
      key: name@k with a name of PER_USER, e.g. "ndcg@20".
      topk: int32 [U, K], padded with -1; K >= k.
      targets: U rows.

    Returns:
      float64 [U]; NaN for a user without targets.

    Raises:
      UserError: the key is no metric of single users.
      ValueError: K < k.
    """
    name, _, k = key.partition("@")
    if name not in PER_USER or not k.isdigit():
        raise UserError(f"metric {key!r} has no value per user; choose one of {', '.join(PER_USER)}, as in 'ndcg@20'")
    _check_cutoffs(topk, [int(k)])
    has = targets.sizes > 0
    values = np.full(len(topk), np.nan)
    values[has] = PER_USER[name](hit_matrix(topk, targets)[has], targets.sizes[has], int(k))
    return values


def ranking_metrics(topk: np.ndarray, targets: Pairs, *, catalogue: int, ks: Sequence[int] = KS) -> dict[str, float]:
    """All metrics at all cut-offs, over the users that have targets.

    Args:
      topk: int32 [U, K], item indices by descending score, distinct within a row, then -1; K >= max(ks).
      targets: U rows; rows without targets are left out everywhere, from coverage too.
      catalogue: number of songs that may be recommended, for coverage.
      ks: cut-offs.

    Returns:
      For each k: "recall@k", "recall_min@k", "precision@k", "ndcg@k", "hit_rate@k", "mrr@k", "map@k" (means over
      users), "ndcg_pooled@k" and "coverage@k".

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
        metrics |= {f"{name}@{k}": float(values(hits, num_targets, k).mean()) for name, values in PER_USER.items()}
        metrics[f"ndcg_pooled@{k}"] = ndcg_pooled(hits, num_targets, k)
        metrics[f"coverage@{k}"] = coverage(topk, k, catalogue=catalogue)
    return metrics


class UserSums(NamedTuple):
    """Metrics as ratios of sums over users: metric m is numerators[:, m].sum() / denominators[:, m].sum().

    Attributes:
      keys: "recall@10", ...: those of PER_USER and "ndcg_pooled", at all cut-offs; M of them.
      numerators: float64 [U, M], a user's value; the DCG for "ndcg_pooled".
      denominators: float64 [U, M]: 1; the ideal DCG for "ndcg_pooled". They depend on the targets alone.
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
    columns = {}
    for k in ks:
        columns |= {
            f"{name}@{k}": (values(hits, num_targets, k), np.ones(len(hits))) for name, values in PER_USER.items()
        }
        columns[f"ndcg_pooled@{k}"] = (dcg(hits, k), ideal_dcg(num_targets, k))
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
