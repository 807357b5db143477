"""The line that says whether a model is ahead of the baselines."""

import pytest

from music_map.run.evaluation import verdict


def result(interval):
    """A model of .30 beside two baselines, the better of .25, with the interval of the difference from that one."""
    return {
        "split": "test",
        "model": {"ndcg@20": 0.3},
        "baselines": {"most_pop": {"ndcg@20": 0.1}, "item_knn": {"ndcg@20": 0.25}},
        "intervals": {"model_minus": {"most_pop": {"ndcg@20": (0.1, 0.3)}, "item_knn": {"ndcg@20": interval}}},
    }


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.01, 0.09), "the model is ahead of every baseline: test ndcg@20 0.3000 against 0.2500 of item_knn"),
        ((-0.01, 0.11), "NOT AHEAD: the difference between the model and item_knn may be chance: test ndcg@20 0.3000"),
        ((-0.09, -0.01), "NOT AHEAD: item_knn is better than the model, beyond chance: test ndcg@20 0.3000"),
    ],
)
def test_it_names_the_best_baseline_and_whether_chance_may_be_why(interval, said):
    told = verdict(result(interval), metric="ndcg@20")
    assert told.startswith(said) and told.endswith(f"difference [{interval[0]:+.4f}, {interval[1]:+.4f}]")


def test_without_baselines_it_says_so():
    alone = result((0, 0)) | {"baselines": {}}
    assert verdict(alone, metric="ndcg@20") == "no baseline to compare with: model ndcg@20 0.3000"
