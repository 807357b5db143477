"""What a report measures beside the metrics: slices, exposure, distributions; worked by hand."""

import numpy as np
import pytest

from music_map.evaluation.evaluate import Evaluation
from music_map.evaluation.metrics import ranking_metrics
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import RankingTask, find_protocol
from music_map.reporting.distributions import funnel, tail
from music_map.reporting.exposure import exposure, gini, tenths
from music_map.reporting.slices import Slice, measure


def test_gini_of_equal_and_of_one_sided_exposure():
    assert gini(np.full(7, 3)) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)  # (n - 1) / n
    # The mean absolute difference of all pairs over twice the mean.
    x = np.array([1, 5, 0, 2, 2])
    assert gini(x) == pytest.approx(np.abs(x[:, None] - x[None, :]).mean() / (2 * x.mean()))


def test_exposure_by_tenths_of_the_candidates():
    listeners = np.arange(20, 0, -1)  # song 0 is heard most
    candidates = np.ones(20, bool)
    candidates[:10] = False
    assert tenths(listeners, candidates).tolist() == [-1] * 10 + list(range(10))
    shown = np.array([[10, 10, 19], [-1, 3, 11]])  # song 3 may not be shown, -1 is padding
    found = exposure(shown, listeners, candidates)
    assert found["tenths"] == pytest.approx([0.5, 0.25, 0, 0, 0, 0, 0, 0, 0, 0.25])
    assert found["coverage"] == pytest.approx(0.3)
    assert found["median_listeners"] == np.median([10, 10, 1, 9]) and found["mean_listeners"] == 7.5


def test_tail_counts_nodes_with_at_least_so_many_edges():
    found = tail(np.array([0, 1, 1, 4]))
    assert found["at_least"] == [1, 4] and found["share"] == [0.75, 0.25]
    assert found["quantiles"]["most"] == 4 and found["quantiles"]["50 %"] == 1
    many = tail(np.arange(5_000))
    assert len(many["at_least"]) <= 200 and (many["at_least"][0], many["at_least"][-1]) == (1, 4999)


def test_funnel_of_logs_and_of_text():
    graph = {
        "unplayed_listens": 3, "withdrawn_likes": 1, "withdrawn_dislikes": 0, "num_edges": 20, "num_users": 5,
        "num_items": 9, "num_users_without_edges": 1, "num_items_without_edges": 2,
    }  # fmt: skip
    kept = {"total_interactions": 40, "num_users": 5, "num_items": 9, "train_size": 32}
    raw = {"raw_rows": {"listens": 50, "likes": 4, "dislikes": 2, "unlikes": 9}, "raw_users": 8, "raw_items": 11}
    rows = funnel(kept | raw | {"min_interactions": 2}, graph)
    assert [row["events"] for row in rows] == [56, 40, 32, 28, 10]
    assert [row["users"] for row in rows] == [8, 5, None, None, 4]
    assert [row["songs"] for row in rows] == [11, 9, None, None, 7]
    assert [row["events"] for row in funnel(kept, graph)] == [40, 32, 28, 10]


def task_of(rows, num_items):
    pairs = [(u, i) for u, row in enumerate(rows) for i in row]
    targets = Pairs.of(*np.array(pairs).T, num_rows=len(rows), num_items=num_items)
    none = Pairs(np.zeros(len(rows) + 1, np.int64), np.zeros(0, np.int32))
    users = np.arange(len(rows), dtype=np.int32)
    candidates = np.ones(num_items, bool)
    return RankingTask(find_protocol("temporal"), "test", users, targets, none, candidates, 0, 0.0)


def test_slices_by_hand():
    task = task_of([[0, 1], [2], [0, 3]], 5)
    topk = np.array([[0, 4, -1], [4, 2, 3], [1, 2, 4]], np.int32)
    evaluation = Evaluation(ranking_metrics(topk, task.targets, catalogue=5, ks=(1, 2)), topk)
    parts = [
        Slice("users", "first two", np.array([True, True, False]), "users"),
        Slice("users", "everyone", np.array([True, True, True]), "users"),
        Slice("songs", "song 0", task.targets.items == 0, "targets"),
        Slice("songs", "others", task.targets.items != 0, "targets"),
        Slice("songs", "all", np.ones(5, bool), "targets"),
    ]
    found = measure(parts, {"model": evaluation}, task, metric="recall@2", seed=0)
    values = [each["values"]["model"] for each in found]
    # Users: recalls are 1/2, 1, 0. Targets: song 0 is found for one of two users, of the others one of three.
    assert values == pytest.approx([0.75, 0.5, 0.5, 1 / 3, 2 / 5])
    assert values[1] == pytest.approx(evaluation.metrics["recall@2"])
    assert [each["size"] for each in found] == [2, 3, 2, 3, 5]
    assert [each["metric"] for each in found] == ["recall@2"] * 5
    for each in found:
        low, high = each["intervals"]["model"]
        assert low <= each["values"]["model"] <= high
