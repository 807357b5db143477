"""Metrics: hand-worked values, and a naive oracle of sets and loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.evaluation import metrics
from music_map.evaluation.pairs import make_pairs, member

I = 12  # noqa: E741


def pairs_of(rows):
    flat = [(r, i) for r, items in enumerate(rows) for i in items]
    return make_pairs(
        np.array([r for r, _ in flat], int), np.array([i for _, i in flat], int), num_rows=len(rows), num_items=I
    )


def test_by_hand():
    """Targets {3, 7, 9}; list 3, 1, 9, 2: hits at ranks 1 and 3."""
    topk, targets = np.array([[3, 1, 9, 2]], np.int32), pairs_of([{3, 7, 9}])
    hits, n = metrics.hit_matrix(topk, targets, num_items=I), targets.counts
    assert hits.tolist() == [[True, False, True, False]]
    assert metrics.recall(hits, n, 4)[0] == 2 / 3 and metrics.recall(hits, n, 1)[0] == 1 / 3
    assert metrics.recall_min(hits, n, 2)[0] == 1 / 2
    d = 1 + 1 / 2  # 1 / log2(2) + 1 / log2(4)
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert metrics.ndcg(hits, n, 4)[0] == pytest.approx(d / ideal)
    assert metrics.ndcg(hits, n, 1)[0] == 1.0
    assert metrics.reciprocal_rank(hits[:, 1:], 3)[0] == 1 / 2
    assert metrics.average_precision(hits, n, 4)[0] == pytest.approx((1 + 2 / 3) / 3)
    assert metrics.hit_rate(hits[:, 1:], 1)[0] == 0.0 and metrics.hit_rate(hits[:, 1:], 2)[0] == 1.0


def naive(topk, targets, k, catalogue):
    """The same numbers from sets and loops."""
    sums = dict.fromkeys(("recall", "recall_min", "ndcg", "hit_rate", "mrr", "map"), 0.0)
    total_dcg = total_ideal = 0.0
    shown = set()
    for row, wanted in zip(topk, targets, strict=True):
        ranked = [i for i in row[:k] if i >= 0]
        shown |= set(ranked)
        found = [j for j, i in enumerate(ranked, 1) if i in wanted]
        gain = sum(1 / math.log2(j + 1) for j in found)
        best = sum(1 / math.log2(j + 1) for j in range(1, min(k, len(wanted)) + 1))
        total_dcg, total_ideal = total_dcg + gain, total_ideal + best
        sums["recall"] += len(found) / len(wanted)
        sums["recall_min"] += len(found) / min(k, len(wanted))
        sums["ndcg"] += gain / best
        sums["hit_rate"] += bool(found)
        sums["mrr"] += 1 / found[0] if found else 0
        sums["map"] += sum((n + 1) / j for n, j in enumerate(found)) / min(k, len(wanted))
    result = {f"{name}@{k}": value / len(topk) for name, value in sums.items()}
    return {**result, f"ndcg_pooled@{k}": total_dcg / total_ideal, f"coverage@{k}": len(shown) / catalogue}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_naive_oracle(data):
    rows = data.draw(st.integers(1, 5))
    targets = [data.draw(st.sets(st.integers(0, I - 1), min_size=1)) for _ in range(rows)]
    topk = np.full((rows, 8), -1, np.int32)
    for r in range(rows):
        ranked = data.draw(st.permutations(range(I)))[: data.draw(st.integers(0, 8))]
        topk[r, : len(ranked)] = ranked
    ks = (1, 3, 8)
    got = metrics.ranking_metrics(topk, pairs_of(targets), ks, num_items=I, catalogue=10)
    wanted = {name: v for k in ks for name, v in naive(topk.tolist(), targets, k, 10).items()}
    assert got.keys() == wanted.keys()
    for name in wanted:
        assert got[name] == pytest.approx(wanted[name]), name


def test_pairs():
    p = make_pairs(np.array([2, 0, 2, 2]), np.array([5, 1, 3, 5]), num_rows=4, num_items=I)
    assert p.offsets.tolist() == [0, 1, 1, 3, 3] and p.items.tolist() == [1, 3, 5]
    t = p.take(np.array([2, 3, 0, 2]))
    assert t.offsets.tolist() == [0, 2, 2, 3, 5] and t.items.tolist() == [3, 5, 1, 3, 5]
    assert member(p, np.array([0, 0, 2, 3]), np.array([1, 2, 5, 5]), num_items=I).tolist() == [True, False, True, False]
    # -1 would be the last song of the row before.
    last = make_pairs(np.array([0]), np.array([I - 1]), num_rows=2, num_items=I)
    assert not member(last, np.array([1]), np.array([-1]), num_items=I).any()
