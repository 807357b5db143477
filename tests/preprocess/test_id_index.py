"""Counting and looking up ids, dense and sparse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music_map.ids import index_of
from music_map.preprocess.ids import Counter, IdIndex

batches = st.lists(st.lists(st.integers(0, 60) | st.just(2**32 - 1), max_size=20), max_size=5)


@given(
    batches=batches,
    dense_values=st.sampled_from([0, 10, 100]),
    first=st.sampled_from([0, 3, 1_700_000_000]),
    step=st.sampled_from([1, 5]),
    weighted=st.booleans(),
)
def test_counter_counts(batches: list[list[int]], dense_values: int, first: int, step: int, weighted: bool) -> None:
    counter = Counter(dense_values=dense_values)
    everything = []
    for batch in batches:
        values = np.array([v for v in (first + step * n for n in batch) if v < 2**32], np.uint32)
        counter.add(values, np.full(len(values), 3) if weighted else None)
        everything += values.tolist() * (3 if weighted else 1)
        if counter.is_dense:
            assert counter.seen(values).tolist() == [everything.count(v) for v in values.tolist()]
    values, counts = np.unique(np.array(everything, np.int64), return_counts=True)
    found = counter.result()
    assert found.values.tolist() == values.tolist() and found.counts.tolist() == counts.tolist()


def test_counter_finds_out_that_its_step_was_none() -> None:
    counter = Counter()
    counter.add(np.array([100, 110, 120], np.uint32))
    counter.add(np.array([80, 115], np.uint32))
    counter.add(np.array([7, 110], np.uint32))
    assert counter.result().values.tolist() == [7, 80, 100, 110, 115, 120]
    assert counter.result().counts.tolist() == [1, 1, 1, 2, 1, 1]


@given(ids=st.sets(st.integers(0, 200) | st.just(2**32 - 1)), mapped_ids=st.sampled_from([0, 100, 1_000]))
def test_index_finds_positions(ids: set[int], mapped_ids: int) -> None:
    ascending = np.array(sorted(ids), np.uint32)
    wanted = np.array([*range(210), 2**32 - 1], np.uint32)
    expected = [sorted(ids).index(w) if w in ids else -1 for w in wanted.tolist()]
    assert IdIndex(ascending, mapped_ids=mapped_ids).lookup(wanted).tolist() == expected
    assert index_of(ascending, wanted).tolist() == expected


@pytest.mark.parametrize("mapped_ids", [0, 100])
def test_index_of_nothing(mapped_ids: int) -> None:
    index = IdIndex(np.array([3], np.uint32), mapped_ids=mapped_ids)
    assert index.lookup(np.empty(0, np.uint32)).shape == (0,)
    assert index.lookup(np.array([3], np.uint32)).dtype == np.int32
