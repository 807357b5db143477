"""Cutoffs in time: the published constants, ties, gaps."""

import numpy as np
import pytest

from music_map.errors import UserError
from music_map.preprocess.splits import Cutoffs, global_temporal_cutoffs, split_sizes, temporal_cutoffs


@pytest.mark.parametrize("last", [26_000_000, 25_999_995, 25_999_005])
def test_global_temporal_has_the_constants_of_the_paper(last: int) -> None:
    tuning = global_temporal_cutoffs(last, train_on_val=False)
    assert tuning[:4] == (25_823_600, 25_825_400, 25_911_800, 25_913_600)
    final = global_temporal_cutoffs(last, train_on_val=True)
    assert final[:4] == (25_911_800, 25_911_800, 25_911_800, 25_913_600)


def test_gaps_belong_to_no_split() -> None:
    cutoffs = global_temporal_cutoffs(26_000_000, train_on_val=False)
    at = np.array([0, 25_823_595, 25_823_600, 25_825_395, 25_825_400, 25_911_795, 25_911_800, 25_913_595, 25_913_600])
    assert cutoffs.assign(at.astype(np.uint32)).tolist() == [0, 0, -1, -1, 1, 1, -1, -1, 2]


def test_shares_without_ties_are_exact() -> None:
    cutoffs = temporal_cutoffs(
        np.arange(100) * 5, np.ones(100, int), train_fraction=0.8, val_fraction=0.1, train_on_val=False
    )
    assert cutoffs == Cutoffs(400, 400, 450, 450, (0, 0))


def test_ties_stay_together_and_are_counted() -> None:
    # 10 events; 80 % would end inside the four at 30. Before them are 6 events, after them 10: 6 and 10 are equally far
    # from 8, so the earlier. 90 % is nearest to all 10, which leaves no test.
    times, counts = np.array([0, 10, 20, 30]), np.array([2, 2, 2, 4])
    cutoffs = temporal_cutoffs(times, counts, train_fraction=0.8, val_fraction=0.1, train_on_val=False)
    assert cutoffs.train_before == 30 and cutoffs.moved == (-2, 1)
    with pytest.raises(UserError, match="the test split would be empty"):
        split_sizes(cutoffs, times, counts, train_on_val=False)


def test_train_on_val_joins_val_to_train() -> None:
    times, counts = np.arange(100) * 5, np.ones(100, int)
    cutoffs = temporal_cutoffs(times, counts, train_fraction=0.8, val_fraction=0.1, train_on_val=True)
    assert split_sizes(cutoffs, times, counts, train_on_val=True) == {"train": 90, "val": 0, "test": 10, "gap": 0}


def test_a_log_shorter_than_the_held_out_days_is_an_error() -> None:
    times, counts = np.array([0, 50_000]), np.array([5, 5])
    cutoffs = global_temporal_cutoffs(50_000, train_on_val=False)
    with pytest.raises(UserError, match="the train split would be empty"):
        split_sizes(cutoffs, times, counts, train_on_val=False)
