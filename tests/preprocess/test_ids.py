"""Counting and looking up ids, dense and sparse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music_map.preprocess.dataset import index_of
from music_map.preprocess.ids import Counter, IdIndex

batches = st.lists(st.lists(st.integers(0, 60) | st.just(2**32 - 1), max_size=20), max_size=5)


@given(batches=batches, dense_values=st.sampled_from([0, 10, 100]), first=st.sampled_from([0, 3]))
def test_counter_counts(batches: list[list[int]], dense_values: int, first: int) -> None:
    counter = Counter(first, dense_values=dense_values)
    everything = [value + first for batch in batches for value in batch if value + first < 2**32]
    for batch in batches:
        counter.add(np.array([v + first for v in batch if v + first < 2**32], np.uint32))
    values, counts = np.unique(np.array(everything, np.int64), return_counts=True)
    found = counter.result()
    assert found[0].tolist() == values.tolist() and found[1].tolist() == counts.tolist()


@given(ids=st.sets(st.integers(0, 40) | st.just(2**32 - 1)), dense_values=st.sampled_from([0, 100, 2**33]))
def test_index_finds_positions(ids: set[int], dense_values: int) -> None:
    if dense_values == 2**33 and 2**32 - 1 in ids:
        return  # a table of 16 GiB
    ascending = np.array(sorted(ids), np.uint32)
    wanted = np.array([*range(45), 2**32 - 1], np.uint32)
    expected = [sorted(ids).index(w) if w in ids else -1 for w in wanted.tolist()]
    assert IdIndex(ascending, dense_values=dense_values).lookup(wanted).tolist() == expected
    assert index_of(ascending, wanted).tolist() == expected


@pytest.mark.parametrize("dense_values", [0, 100])
def test_index_of_nothing(dense_values: int) -> None:
    index = IdIndex(np.array([3], np.uint32), dense_values=dense_values)
    assert index.lookup(np.empty(0, np.uint32)).shape == (0,)
