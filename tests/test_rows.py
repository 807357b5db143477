"""Compressed rows and decay by half-life, against plain lists."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from music_map.decay import decay
from music_map.rows import offsets_of, offsets_of_sorted, row_of_each, select

lists = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=6)


@given(lists, st.data())
def test_rows_are_those_of_the_lists(rows, data):
    offsets = offsets_of(np.array([len(row) for row in rows]))
    values = np.array([value for row in rows for value in row], np.int64)
    assert [values[a:b].tolist() for a, b in itertools.pairwise(offsets)] == rows
    assert row_of_each(offsets).tolist() == [r for r, row in enumerate(rows) for _ in row]
    np.testing.assert_array_equal(offsets_of_sorted(row_of_each(offsets), len(rows)), offsets)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    of_chosen, at = select(offsets, np.array(chosen, np.int64))
    assert values[at].tolist() == [value for row in chosen for value in rows[row]]
    np.testing.assert_array_equal(of_chosen, np.cumsum([0, *(len(rows[row]) for row in chosen)]))


def test_decay_halves():
    np.testing.assert_allclose(decay(np.array([0, 7, 14]), 7.0), [1, 0.5, 0.25])
    np.testing.assert_allclose(decay(3.0, np.array([1.0, 3.0])), [0.125, 0.5])
