"""The present of a log: far times on both sides, holidays, tiny logs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music_map.preprocess.present import DAY, FarTimes, far_times, present_of

YEAR_2100 = 4_102_444_800
DENSE = np.arange(1_600_000_000, 1_600_000_000 + 300 * DAY, 3_600)


@pytest.mark.parametrize("count", [1, 3, 50])
def test_a_few_times_in_2100_are_not_the_present(count):
    times = np.concatenate([DENSE, np.full(count, YEAR_2100)])
    found = far_times(np.random.default_rng(0).permutation(times))
    assert found == FarTimes(DENSE[0], DENSE[-1], 0, count)
    assert present_of(times) == DENSE[-1]


def test_times_in_1970_are_far_too_and_both_sides_at_once():
    times = np.concatenate([[0, 5], DENSE, [YEAR_2100]])
    assert far_times(times) == FarTimes(DENSE[0], DENSE[-1], 2, 1)


def test_a_chain_of_outliers_is_cut_at_its_first_gap():
    late = DENSE[-1] + np.array([40, 41, 300]) * DAY
    assert far_times(np.concatenate([DENSE, late])) == FarTimes(DENSE[0], DENSE[-1], 0, 3)


def test_what_many_events_share_is_no_outlier():
    times = np.concatenate([DENSE, np.full(len(DENSE) // 50, YEAR_2100)])
    assert present_of(times) == YEAR_2100


def test_a_holiday_like_others_before_is_no_gap():
    days = np.concatenate([np.arange(0, 200), np.arange(221, 500), np.arange(552, 553)]) * DAY
    times = (days[:, None] + np.arange(5) * 600).ravel()
    assert present_of(times) == times[-1]
    with_one_more = np.append(times, times[-1] + 3_000 * DAY)
    assert present_of(with_one_more) == times[-1]


def test_weekly_events_are_not_far_from_each_other():
    weeks = np.arange(1_500) * 7 * DAY
    assert far_times(weeks) == FarTimes(0, weeks[-1], 0, 0)


def test_tiny_logs():
    assert present_of(np.array([7])) == 7
    assert present_of(np.array([0, 1, 2, YEAR_2100])) == YEAR_2100
    assert far_times(np.array([1_600_000_000 + n for n in range(9)] + [YEAR_2100])).num_late == 1
    # Nine days and then one after two months: too few to say.
    assert far_times(np.append(np.arange(9) * DAY, 70 * DAY)) == FarTimes(0, 70 * DAY, 0, 0)
    assert far_times(np.full(10, 5)) == FarTimes(5, 5, 0, 0)
    with pytest.raises(ValueError, match="no events"):
        present_of(np.array([], np.uint32))


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 400)), min_size=1, max_size=40))
def test_counts_stand_for_events_and_the_bulk_is_kept(pairs):
    times, counts = (np.array(column) for column in zip(*pairs, strict=True))
    found = far_times(times, counts)
    assert found == far_times(np.repeat(times, counts))
    total = counts.sum()
    assert found.num_early + found.num_late <= 2 * max(1, total // 100)
    assert found.num_early == counts[times < found.first].sum() and found.num_late == counts[times > found.last].sum()
    assert {found.first, found.last} <= set(times.tolist())


def test_far_times_are_told_by_side():
    assert FarTimes(5, 9, 0, 0).warnings() == []
    early, late = FarTimes(5, 9, 1, 20).warnings()
    assert early.startswith("1 events lie far before all others (second 5)")
    assert late.startswith("20 events lie far after all others (second 9)")
