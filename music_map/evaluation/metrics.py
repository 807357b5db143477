"""Ranking metrics in NumPy, float64.

Notation: user u has the targets T_u (|T_u| > 0) and the ranked list r_1 .. r_k; h_j = 1 where r_j is a target.
Each function takes `hits`, bool [U, K] with K >= k (h_j of each user), and `num_targets`, int [U].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from music_map.evaluation.pairs import Pairs, member


def hit_matrix(topk: np.ndarray, targets: Pairs, *, num_items: int) -> np.ndarray:
    """h_j of each user: whether the song at each rank is a target.

    Args:
      topk: int32 [U, K], songs best first, -1 where the list ends early.
      targets: of the same U users.
      num_items: I.

    Returns:
      bool [U, K].
    """
    return member(targets, np.arange(len(topk))[:, None], topk, num_items=num_items)


def recall(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """sum_j h_j / |T_u|, float64 [U]: the share of the targets found."""
    return hits[:, :k].sum(1) / num_targets


def recall_min(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """sum_j h_j / min(k, |T_u|), float64 [U]: 1 is possible whatever the number of targets."""
    return hits[:, :k].sum(1) / np.minimum(k, num_targets)


def _discounts(k: int) -> np.ndarray:
    return 1.0 / np.log2(np.arange(2, k + 2))


def dcg(hits: np.ndarray, k: int) -> np.ndarray:
    """sum_j h_j / log2(j + 1), float64 [U]."""
    return hits[:, :k] @ _discounts(min(k, hits.shape[1]))


def ideal_dcg(num_targets: np.ndarray, k: int) -> np.ndarray:
    """sum_{j <= min(k, |T_u|)} 1 / log2(j + 1), float64 [U]."""
    return np.concatenate([[0.0], np.cumsum(_discounts(k))])[np.minimum(k, num_targets)]


def ndcg(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """DCG / ideal DCG of each user, float64 [U] (Jarvelin and Kekalainen, 2002, with binary gains)."""
    return dcg(hits, k) / ideal_dcg(num_targets, k)


def hit_rate(hits: np.ndarray, k: int) -> np.ndarray:
    """1 where any of the first k is a target, float64 [U]."""
    return hits[:, :k].any(1).astype(np.float64)


def reciprocal_rank(hits: np.ndarray, k: int) -> np.ndarray:
    """1 / rank of the first target among the first k, 0 without one, float64 [U]."""
    first = np.argmax(hits[:, :k], axis=1)
    return hits[:, :k].any(1) / (first + 1.0)


def average_precision(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """sum_j h_j * (hits up to j) / j, over min(k, |T_u|), float64 [U]."""
    h = hits[:, :k]
    precision = np.cumsum(h, axis=1) / np.arange(1, h.shape[1] + 1)
    return (h * precision).sum(1) / np.minimum(k, num_targets)


def coverage(topk: np.ndarray, k: int, *, catalogue: int) -> float:
    """Distinct songs among all users' first k, over the size of the catalogue."""
    shown = np.unique(topk[:, :k])
    return float(np.sum(shown >= 0) / catalogue)


def per_user(hits: np.ndarray, num_targets: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """The metrics that are means over users, before the mean: name (without @k) -> float64 [U]."""
    return {
        "recall": recall(hits, num_targets, k),
        "recall_min": recall_min(hits, num_targets, k),
        "ndcg": ndcg(hits, num_targets, k),
        "hit_rate": hit_rate(hits, k),
        "mrr": reciprocal_rank(hits, k),
        "map": average_precision(hits, num_targets, k),
    }


def ranking_metrics(
    topk: np.ndarray, targets: Pairs, ks: Sequence[int], *, num_items: int, catalogue: int
) -> dict[str, float]:
    """All metrics at all cut-offs, "name@k".

    Means over users of `per_user`; besides "ndcg_pooled@k" = sum of DCG / sum of ideal DCG over all users (the Yambda
    benchmark's NDCG, arXiv 2505.22238) and "coverage@k".

    Args:
      topk: int32 [U, K], K >= max(ks), -1 where a list ends early.
      targets: of the same users, at least one each.
      ks: cut-offs.
      num_items: I.
      catalogue: number of songs that could be recommended.
    """
    hits, num_targets = hit_matrix(topk, targets, num_items=num_items), targets.counts
    result = {}
    for k in ks:
        result |= {f"{name}@{k}": float(values.mean()) for name, values in per_user(hits, num_targets, k).items()}
        result[f"ndcg_pooled@{k}"] = float(dcg(hits, k).sum() / ideal_dcg(num_targets, k).sum())
        result[f"coverage@{k}"] = coverage(topk, k, catalogue=catalogue)
    return result
