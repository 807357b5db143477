"""Marks that are taken back, by hand and against a search of all withdrawals."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from music_map.preprocess.dataset import DISLIKE, EVENT_TYPES, LIKE, WITHDRAWAL_TYPES, Events, Withdrawals
from music_map.preprocess.marks import standing


def events_of(*rows: tuple[int, int, int, int]) -> Events:
    """Rows (user, item, timestamp, kind)."""
    columns = [*(zip(*rows, strict=True) if rows else [()] * 4), [1] * len(rows), [0] * len(rows)]
    return Events(*(np.array(c, t) for c, t in zip(columns, EVENT_TYPES, strict=True)))


def withdrawals_of(*rows: tuple[int, int, int, int]) -> Withdrawals:
    """Rows (user, item, timestamp, kind)."""
    columns = zip(*rows, strict=True) if rows else [()] * 4
    return Withdrawals(*(np.array(c, t) for c, t in zip(columns, WITHDRAWAL_TYPES, strict=True)))


marks = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 9), st.sampled_from([LIKE, DISLIKE])), max_size=20
)


@given(rows=marks, taken=marks)
def test_a_mark_stands_unless_taken_back_later(rows: list, taken: list) -> None:
    for kind in (LIKE, DISLIKE):
        expected = [
            mark[3] == kind and not any((*mark[:2], kind) == (*w[:2], w[3]) and w[2] >= mark[2] for w in taken)
            for mark in rows
        ]
        assert standing(events_of(*rows), withdrawals_of(*taken), kind, num_items=4).tolist() == expected


def test_withdrawals_are_of_the_same_kind_user_and_song() -> None:
    events = events_of((0, 3, 10, LIKE), (0, 3, 10, DISLIKE), (1, 3, 10, LIKE))
    others = withdrawals_of((0, 3, 20, DISLIKE), (0, 4, 20, LIKE), (2, 3, 20, LIKE))
    assert standing(events, others, LIKE, num_items=10).tolist() == [True, False, True]
    assert standing(events, others, DISLIKE, num_items=10).tolist() == [False, False, False]


def test_a_like_given_again_after_an_unlike_stands() -> None:
    events = events_of((0, 3, 10, LIKE), (0, 3, 30, LIKE))
    withdrawn = withdrawals_of((0, 3, 5, LIKE), (0, 3, 20, LIKE))
    assert standing(events, withdrawn, LIKE, num_items=10).tolist() == [False, True]
