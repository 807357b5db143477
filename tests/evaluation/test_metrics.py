import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.evaluation.metrics import KS, per_user_metric, ranking_metrics, user_sums
from music_map.evaluation.pairs import Pairs

NAMES = ("recall", "recall_min", "precision", "ndcg", "ndcg_pooled", "hit_rate", "mrr", "map", "coverage")


def pairs(rows):
    users = [u for u, row in enumerate(rows) for _ in row]
    return Pairs.of(np.array(users), np.array([i for row in rows for i in row]), num_rows=len(rows), num_items=1000)


# User 0 hits ranks 1 and 3 of 3 targets; user 1 hits rank 2 of 1 target, and its list ends there.
TOPK = np.array([[7, 1, 3, 2], [4, 5, -1, -1]], np.int32)
TARGETS = [[3, 7, 9], [5]]
LOG3 = 1 / math.log2(3)  # the discount of rank 2, 0.6309; that of rank 3 is 1/2

WORKED = {
    "recall@2": (1 / 3 + 1) / 2,
    "recall_min@2": (1 / 2 + 1) / 2,
    "precision@2": (1 / 2 + 1 / 2) / 2,
    "ndcg@2": (1 / (1 + LOG3) + LOG3 / 1) / 2,
    "ndcg_pooled@2": (1 + LOG3) / ((1 + LOG3) + 1),
    "hit_rate@2": 1.0,
    "mrr@2": (1 + 1 / 2) / 2,
    "map@2": ((1 / 1) / 2 + (1 / 2) / 1) / 2,
    "coverage@2": 4 / 10,  # songs 7, 1, 4, 5
    "recall@4": (2 / 3 + 1) / 2,
    "recall_min@4": (2 / 3 + 1) / 2,
    "precision@4": (2 / 4 + 1 / 4) / 2,
    "ndcg@4": (1.5 / (1 + LOG3 + 0.5) + LOG3) / 2,
    "ndcg_pooled@4": (1.5 + LOG3) / ((1 + LOG3 + 0.5) + 1),
    "hit_rate@4": 1.0,
    "mrr@4": (1 + 1 / 2) / 2,
    "map@4": ((1 / 1 + 2 / 3) / 3 + (1 / 2) / 1) / 2,
    "coverage@4": 6 / 10,
    "recall@1": (1 / 3 + 0) / 2,
    "recall_min@1": 1 / 2,
    "precision@1": 1 / 2,
    "ndcg@1": 1 / 2,
    "ndcg_pooled@1": 1 / 2,
    "hit_rate@1": 1 / 2,
    "mrr@1": 1 / 2,
    "map@1": 1 / 2,
    "coverage@1": 2 / 10,
}


def test_worked_example():
    assert ranking_metrics(TOPK, pairs(TARGETS), catalogue=10, ks=(1, 2, 4)) == pytest.approx(WORKED, abs=1e-15)


def test_default_cutoffs_name_every_metric():
    topk = np.arange(200, dtype=np.int32).reshape(2, 100)
    metrics = ranking_metrics(topk, pairs([[0], [100]]), catalogue=200)
    assert KS == (10, 20, 50, 100)
    assert set(metrics) == {f"{name}@{k}" for name in NAMES for k in KS}
    assert metrics["coverage@100"] == metrics["ndcg@10"] == metrics["ndcg_pooled@100"] == metrics["map@50"] == 1.0
    assert all(type(value) is float for value in metrics.values())


def test_the_two_ndcg_conventions_differ_where_users_differ_in_targets():
    # A perfect list for the user with one target, an empty one for the user with two.
    metrics = ranking_metrics(np.array([[0, 1], [2, 3]], np.int32), pairs([[0], [8, 9]]), catalogue=10, ks=(2,))
    assert metrics["ndcg@2"] == 0.5
    assert metrics["ndcg_pooled@2"] == pytest.approx(1 / (2 + LOG3))


def test_more_targets_than_ranks_bound_recall_but_not_recall_min():
    metrics = ranking_metrics(np.array([[0, 1]], np.int32), pairs([[0, 1, 2, 3]]), catalogue=10, ks=(2,))
    assert metrics["recall@2"] == 0.5 and metrics["recall_min@2"] == metrics["ndcg@2"] == metrics["map@2"] == 1.0


def oracle(lists, targets, k, catalogue):
    """Python sets and loops, straight from the definitions."""
    rows = [([i for i in row[:k] if i >= 0], set(wanted)) for row, wanted in zip(lists, targets, strict=True) if wanted]
    gains = [[1 / math.log2(j + 2) if i in wanted else 0.0 for j, i in enumerate(row)] for row, wanted in rows]
    ideals = [sum(1 / math.log2(j + 2) for j in range(min(k, len(wanted)))) for _, wanted in rows]
    hits = [len(set(row) & wanted) for row, wanted in rows]
    first = [next((1 / (j + 1) for j, i in enumerate(row) if i in wanted), 0.0) for row, wanted in rows]
    precisions = [
        sum(len(set(row[: j + 1]) & wanted) / (j + 1) for j, i in enumerate(row) if i in wanted) / min(k, len(wanted))
        for row, wanted in rows
    ]
    n = len(rows)
    return {
        f"recall@{k}": sum(h / len(w) for h, (_, w) in zip(hits, rows, strict=True)) / n,
        f"recall_min@{k}": sum(h / min(k, len(w)) for h, (_, w) in zip(hits, rows, strict=True)) / n,
        f"precision@{k}": sum(hits) / k / n,
        f"ndcg@{k}": sum(sum(g) / i for g, i in zip(gains, ideals, strict=True)) / n,
        f"ndcg_pooled@{k}": sum(map(sum, gains)) / sum(ideals),
        f"hit_rate@{k}": sum(h > 0 for h in hits) / n,
        f"mrr@{k}": sum(first) / n,
        f"map@{k}": sum(precisions) / n,
        f"coverage@{k}": len({i for row, _ in rows for i in row}) / catalogue,
    }


@st.composite
def rankings(draw):
    num_items, width = draw(st.integers(6, 14)), draw(st.integers(1, 6))
    row = st.tuples(st.permutations(range(num_items)), st.integers(0, width), st.sets(st.integers(0, num_items - 1)))
    rows = draw(st.lists(row, min_size=1, max_size=6).filter(lambda rows: any(wanted for *_, wanted in rows)))
    lists = [list(order[:length]) + [-1] * (width - length) for order, length, _ in rows]
    return np.array(lists, np.int32), [sorted(wanted) for *_, wanted in rows], num_items


@settings(deadline=None)
@given(rankings())
def test_agrees_with_sets_and_loops(case):
    topk, targets, num_items = case
    for k in range(1, topk.shape[1] + 1):
        metrics = ranking_metrics(topk, pairs(targets), catalogue=num_items, ks=(k,))
        assert metrics == pytest.approx(oracle(topk.tolist(), targets, k, num_items), abs=1e-12)
        assert all(0 <= value <= 1 + 1e-12 for value in metrics.values())
        for name in ("recall", "ndcg", "map"):
            each = per_user_metric(f"{name}@{k}", topk, pairs(targets))
            assert np.isnan(each).tolist() == [not wanted for wanted in targets]
            assert np.nanmean(each) == pytest.approx(metrics[f"{name}@{k}"])


def test_users_without_targets_count_nowhere():
    with_idle = ranking_metrics(np.vstack([TOPK, [[8, 6, 0, 9]]]), pairs([*TARGETS, []]), catalogue=10, ks=(4,))
    assert with_idle == ranking_metrics(TOPK, pairs(TARGETS), catalogue=10, ks=(4,))


def test_refuses_what_has_no_value():
    with pytest.raises(ValueError, match="no user has a target"):
        ranking_metrics(TOPK, pairs([[], []]), catalogue=10, ks=(2,))
    with pytest.raises(ValueError, match="lists of 4"):
        ranking_metrics(TOPK, pairs(TARGETS), catalogue=10, ks=(2, 5))
    with pytest.raises(ValueError, match="rows"):
        ranking_metrics(TOPK, pairs([[1]]), catalogue=10, ks=(2,))
    for key in ("coverage@2", "ndgc@2", "ndcg"):
        with pytest.raises(UserError, match="choose one of recall"):
            per_user_metric(key, TOPK, pairs(TARGETS))


@settings(deadline=None)
@given(rankings())
def test_sums_over_users_give_the_metrics(case):
    topk, targets, num_items = case
    has = [row for row, wanted in enumerate(targets) if wanted]
    topk, targets, ks = topk[has], pairs([targets[row] for row in has]), (1, topk.shape[1])
    keys, numerators, denominators = user_sums(topk, targets, ks=ks)
    metrics = ranking_metrics(topk, targets, catalogue=num_items, ks=ks)
    assert set(keys) == {key for key in metrics if not key.startswith("coverage")}
    for key, above, below in zip(keys, numerators.T, denominators.T, strict=True):
        assert above.sum() / below.sum() == pytest.approx(metrics[key], abs=1e-12)


def test_sums_need_targets():
    with pytest.raises(ValueError, match="no target"):
        user_sums(TOPK, pairs([[3], []]), ks=(2,))
