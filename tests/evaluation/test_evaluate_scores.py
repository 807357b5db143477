import json

import numpy as np
import pytest
from checkerboard import history

from music_map.evaluation.baselines.popularity import most_popular
from music_map.evaluation.evaluate import confidence_interval, evaluate_beside_baselines, evaluate_scores
from music_map.evaluation.metrics import per_user_metric
from music_map.evaluation.protocols import build_task
from music_map.evaluation.ranking import embedding_scores
from music_map.preprocess.dataset import LISTEN, Events

USERS, ITEMS = 40, 60


def listens(dense):
    user, item = (a.astype(np.int32) for a in np.nonzero(dense))
    n = len(user)
    return Events(
        user,
        item,
        np.zeros(n, np.uint32),
        np.full(n, LISTEN, np.uint8),
        np.ones(n, np.uint8),
        np.full(n, 100, np.uint16),
    )


@pytest.fixture(scope="module")
def data():
    part = np.random.default_rng(5).choice(4, (USERS, ITEMS), p=[0.6, 0.2, 0.1, 0.1])
    return {"train": listens(part == 1), "val": listens(part == 2), "test": listens(part == 3)}, part


def task_of(data, name, split="test"):
    return build_task(name, split, **data[0], num_users=USERS, num_items=ITEMS)


@pytest.mark.parametrize("name", ["temporal", "lightgcn"])
def test_masked_songs_never_leak_and_an_oracle_is_perfect(data, name):
    task, part = task_of(data, name), data[1]
    # Loves everything heard before, then the targets: only the mask keeps the heard songs away.
    scores = np.where(part == 1, 3.0, np.where(part == 3, 1.0, 0.0)).astype(np.float32)
    result = evaluate_scores(lambda users: scores[users], task, ks=(5, 10))
    assert not task.masked.contains(np.arange(len(task.users))[:, None], result.topk).any()
    # Values are 1 where no target is cold: every song of this data has train listens.
    for key in ("ndcg@5", "ndcg_pooled@10", "recall_min@10", "mrr@5", "map@10", "hit_rate@5"):
        assert result.metrics[key] == pytest.approx(1.0), key


def test_masking_validation_songs_at_test_raises_the_figures(data):
    part = data[1]
    scores = ((part == 2) | (part == 3)).astype(np.float32) + 1e-3 * np.arange(ITEMS, dtype=np.float32)
    masked, open_ = (evaluate_scores(lambda u: scores[u], task_of(data, n)) for n in ("temporal", "lightgcn"))
    assert masked.metrics["ndcg@10"] > open_.metrics["ndcg@10"] + 0.1


def test_report_is_json_with_the_fixed_keys(data):
    task = task_of(data, "temporal", "val")
    rng = np.random.default_rng(0)
    model = embedding_scores(rng.normal(size=(USERS, 4)), rng.normal(size=(ITEMS, 4)))
    train = data[0]["train"]
    popular = most_popular(history(train.user, train.item, train.timestamp, num_users=USERS, num_items=ITEMS))
    report = evaluate_beside_baselines(model, [("most_pop", popular)], task, ks=(10, 20))
    assert json.loads(json.dumps(report)) == report
    assert report["protocol"] == "temporal" and report["split"] == "val"
    assert report["num_users"] == len(task.users) and report["num_targets"] == task.num_targets
    assert report["num_candidates"] == ITEMS and report["num_dropped_users"] == 0 == report["cold_target_share"]
    assert report["baselines"]["most_pop"].keys() == report["model"].keys() >= {"recall@20", "ndcg@20", "coverage@10"}
    assert report["model"] == evaluate_scores(model, task, ks=(10, 20), block_size=7).metrics


def test_report_has_intervals_of_everything_and_of_paired_differences(data):
    task, part = task_of(data, "temporal"), data[1]
    noise = np.random.default_rng(1).normal(size=part.shape).astype(np.float32)
    good, bad = (lambda u: (noise + (part == 3))[u]), (lambda u: noise[u])
    report = evaluate_beside_baselines({"model": good, "model_again": good}, [("noise", bad)], task, ks=(10, 20))
    intervals = report["intervals"]
    keys = {key for key in report["model"] if not key.startswith("coverage")}
    assert intervals["level"] == 0.95 and set(intervals["model"]) == keys == set(intervals["baselines"]["noise"])
    for key in keys:
        for name, metrics, bounds in (
            ("model", report["model"], intervals["model"]),
            ("noise", report["baselines"]["noise"], intervals["baselines"]["noise"]),
        ):
            low, high = bounds[key]
            assert low <= metrics[key] <= high, (name, key)
        low, high = intervals["model_minus"]["noise"][key]
        assert low <= report["model"][key] - report["baselines"]["noise"][key] <= high
        assert intervals["model_minus"]["model_again"][key] == [0.0, 0.0]
    assert intervals["model_minus"]["noise"]["ndcg@10"][0] > 0
    # The interval of a mean over users is that of its values.
    found = evaluate_scores(good, task, ks=(10, 20))
    assert intervals["model"]["ndcg@20"] == pytest.approx(confidence_interval("ndcg@20", task, found.topk, seed=0))


def test_confidence_interval_of_a_value_and_of_a_difference(data):
    task, part = task_of(data, "temporal"), data[1]
    noise = np.random.default_rng(1).normal(size=part.shape).astype(np.float32)
    good = evaluate_scores(lambda u: (noise + (part == 3))[u], task)
    bad = evaluate_scores(lambda u: noise[u], task)
    low, high = confidence_interval("ndcg@10", task, good.topk, seed=0)
    assert low < good.metrics["ndcg@10"] < high
    gain = good.metrics["ndcg@10"] - bad.metrics["ndcg@10"]
    low, high = confidence_interval("ndcg@10", task, good.topk, seed=0, against=bad.topk)
    assert 0 < low < gain < high
    assert confidence_interval("ndcg@10", task, good.topk, seed=0, against=good.topk) == (0.0, 0.0)
    assert per_user_metric("ndcg@10", good.topk, task.targets).shape == task.users.shape
