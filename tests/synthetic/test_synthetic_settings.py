"""Presets, overrides, and the curves that the presets' numbers are spread over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.synthetic.blocks import BLOCK_LISTENS, BLOCK_USERS, block_offsets
from music_map.synthetic.catalogue import draw_rows, popularity
from music_map.synthetic.marks import quotas
from music_map.synthetic.settings import MIN_LISTENS, PRESETS, settings_for
from music_map.synthetic.users import listens_per_user, pick


def test_50m_has_the_published_rows():
    preset = PRESETS["50m"]
    assert (preset.num_users, preset.num_listeners, preset.num_items) == (10_000, 9_238, 934_057)
    assert (preset.num_listens, preset.num_likes, preset.num_dislikes) == (46_467_212, 881_456, 107_776)
    assert (preset.num_unlikes, preset.num_undislikes) == (312_972, 21_033)


def test_listens_per_user_have_the_published_moments():
    counts = listens_per_user(9_238, 46_467_212)
    assert counts.sum() == 46_467_212
    assert counts[0] == 6 and abs(counts[-1] - 27_617) < 30
    assert abs(counts.mean() - 5_030) < 1 and abs(np.median(counts) - 3_023) < 10


@given(listeners=st.integers(19, 3_000), per_user=st.integers(2 * MIN_LISTENS, 5_000))
def test_listens_per_user_sum_to_any_total(listeners, per_user):
    counts = listens_per_user(listeners, listeners * per_user)
    assert counts.sum() == listeners * per_user
    assert counts.min() >= MIN_LISTENS and np.all(np.diff(counts) >= 0)


def test_overrides_replace_numbers_and_scale_the_marks():
    settings = settings_for("50m", num_users=200, num_items=5_000, num_listens=46_467_212 // 10, seed=3)
    assert (settings.num_users, settings.num_items, settings.num_listens, settings.seed) == (200, 5_000, 4_646_721, 3)
    assert abs(settings.num_likes - 88_145) <= 1


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ({"size": "60m"}, "--size=60m"),
        ({"size": "tiny", "num_users": 3}, "--num_users=3"),
        ({"size": "tiny", "num_items": -1}, "--num_items=-1"),
        ({"size": "tiny", "num_listens": 100}, "--num_listens=100"),
        ({"size": "tiny", "num_listens": 10**9}, "--num_listens=1000000000"),
        ({"size": "tiny", "seed": -1}, "--seed=-1"),
        ({"size": "tiny", "moods_per_session": 0.5}, "--moods_per_session=0.5"),
        ({"size": "tiny", "moods_per_session": float("nan")}, "--moods_per_session=nan"),
        ({"size": "tiny", "artist_runs": 1.0}, "--artist_runs=1.0"),
        ({"size": "tiny", "artist_runs": float("nan")}, "--artist_runs=nan"),
    ],
)
def test_impossible_settings_name_the_flag(arguments, flag):
    with pytest.raises(UserError) as error:
        settings_for(**arguments)
    assert str(error.value).startswith(flag) and "\n" not in str(error.value)


@given(st.lists(st.integers(0, 3 * BLOCK_LISTENS // 2), min_size=1, max_size=300))
def test_blocks_are_bounded_and_cover_all_users(num_listens):
    counts = np.array(num_listens)
    offsets = block_offsets(counts)
    assert offsets[0] == 0 and offsets[-1] == len(counts)
    users = np.diff(offsets)
    assert users.min() >= 1 and users.max() <= BLOCK_USERS
    rows = np.add.reduceat(counts, offsets[:-1])
    assert np.all((rows <= BLOCK_LISTENS) | (users == 1))


def test_a_billion_listens_make_more_blocks_not_larger_ones():
    def largest(num_listens: int) -> int:
        counts = np.random.default_rng(0).permutation(listens_per_user(9_238, num_listens))
        return int(np.add.reduceat(counts, block_offsets(counts)[:-1]).max())

    assert largest(10_000_000) <= BLOCK_LISTENS and largest(1_000_000_000) <= BLOCK_LISTENS


def test_quotas_add_up():
    settings = settings_for("demo")
    parts = quotas(settings, np.array([5, 0, 100_000, 17, 299_978]))
    assert sum(quota.dislikes for quota in parts) == settings.num_dislikes
    assert sum(quota.unlikes for quota in parts) == settings.num_unlikes
    assert parts[1].likes == 0


def test_popularity_falls_with_rank_and_is_flatter_with_less_skew():
    ranks = np.arange(1, 4_001)
    steep, flat = popularity(ranks, 4_000, 1.0), popularity(ranks, 4_000, 0.5)
    assert np.all(np.diff(steep) <= 0) and np.all(steep > 0)
    np.testing.assert_allclose(flat, np.sqrt(steep))


def test_draw_rows_follows_weights_within_each_range():
    cdf = np.cumsum([0.0, 1, 3, 0.5, 0.5, 4])
    uniform = np.array([0.0, 0.24, 0.26, 0.999, 0.0, 0.49, 0.51, 0.999])
    low, high = np.repeat([0, 2], 4), np.repeat([2, 4], 4)
    np.testing.assert_array_equal(draw_rows(cdf, low, high, uniform), [0, 0, 1, 1, 2, 2, 3, 3])


def test_pick_is_the_quantile_of_each_row():
    cumulative = np.array([[0.2, 0.5, 1.0], [2.0, 2.0, 4.0], [1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(pick(cumulative, np.array([0.3, 0.9, 0.1])), [1, 2, 0])
