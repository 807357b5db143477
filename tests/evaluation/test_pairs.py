import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from music_map.evaluation.pairs import Pairs

ROWS, ITEMS = 5, 9
pair_sets = st.sets(st.tuples(st.integers(0, ROWS - 1), st.integers(0, ITEMS - 1)))


def pairs_of(pairs, repeat=1):
    listed = np.array(sorted(pairs, key=lambda p: (p[1] * 7 + p[0]) % 11) * repeat, np.int64).reshape(-1, 2)
    return Pairs.of(listed[:, 0], listed[:, 1], num_rows=ROWS, num_items=ITEMS)


def as_set(pairs):
    return set(zip(pairs.rows.tolist(), pairs.items.tolist(), strict=True))


def test_worked_example():
    pairs = Pairs.of(np.array([2, 0, 0, 2]), np.array([5, 7, 3, 5]), num_rows=3, num_items=8)
    assert pairs.offsets.tolist() == [0, 2, 2, 3] and pairs.items.tolist() == [3, 7, 5]
    assert pairs.offsets.dtype == np.int64 and pairs.items.dtype == np.int32
    assert pairs.num_rows == 3 and pairs.sizes.tolist() == [2, 0, 1] and pairs.rows.tolist() == [0, 0, 2]


@given(pair_sets)
def test_holds_each_pair_once_in_order(pairs):
    made = pairs_of(pairs, repeat=2)
    assert list(zip(made.rows.tolist(), made.items.tolist(), strict=True)) == sorted(pairs)


@given(pair_sets, st.lists(st.integers(0, ROWS - 1)))
def test_select_takes_rows_in_the_order_given(pairs, rows):
    selected = pairs_of(pairs).select(np.array(rows, np.int32))
    assert selected.num_rows == len(rows)
    assert as_set(selected) == {(new, i) for new, old in enumerate(rows) for r, i in pairs if r == old}


@given(pair_sets)
def test_contains_broadcasts_and_knows_no_negative_item(pairs):
    items = np.arange(-2, ITEMS + 3)
    found = pairs_of(pairs).contains(np.arange(ROWS)[:, None], items[None])
    assert found.tolist() == [[(r, i) in pairs for i in items] for r in range(ROWS)]


@given(pair_sets, pair_sets)
def test_minus_is_set_difference(pairs, others):
    left = pairs_of(pairs).minus(pairs_of(others))
    assert left.num_rows == ROWS and as_set(left) == pairs - others
