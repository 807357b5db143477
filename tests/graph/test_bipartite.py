"""The graph's two views, parallel edges, bad arguments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.graph.bipartite import Edges, from_edges, listeners_of


def edges_of(rows: list[tuple[int, int, float]]) -> Edges:
    user, item, weight = zip(*rows, strict=True) if rows else ((), (), ())
    return Edges(np.array(user, np.int64), np.array(item, np.int64), np.array(weight, np.float64))


edge_rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(1, 9).map(float)), max_size=30)


@given(rows=edge_rows, negatives=edge_rows)
def test_both_views_hold_every_edge(rows: list, negatives: list) -> None:
    graph = from_edges(*edges_of(rows), num_users=5, num_items=6, negatives=edges_of(negatives))
    assert (graph.num_users, graph.num_items, graph.num_edges) == (5, 6, len(rows))
    by_user = sorted(rows, key=lambda row: row[:2])
    assert list(zip(graph.user.tolist(), graph.item.tolist(), graph.weight.tolist(), strict=True)) == by_user
    for user in range(5):
        here = slice(graph.user_offsets[user], graph.user_offsets[user + 1])
        assert set(graph.user[here].tolist()) <= {user}
        assert graph.item[here].tolist() == [row[1] for row in by_user if row[0] == user]
    assert sorted(graph.item_order.tolist()) == list(range(len(rows)))
    for item in range(6):
        here = graph.item_order[graph.item_offsets[item] : graph.item_offsets[item + 1]]
        found = list(zip(graph.user[here].tolist(), graph.weight[here].tolist(), strict=True))
        assert found == [(row[0], row[2]) for row in by_user if row[1] == item]
    stored = zip(graph.negative_user.tolist(), graph.negative_item.tolist(), strict=True)
    assert list(stored) == sorted(row[:2] for row in negatives)


@given(rows=edge_rows)
def test_listeners_are_users_counted_once(rows: list) -> None:
    graph = from_edges(*edges_of(rows), num_users=5, num_items=6)
    expected = np.zeros(6, np.int64)
    for _, item in {row[:2] for row in rows}:
        expected[item] += 1
    found = listeners_of(graph)
    assert found.tolist() == expected.tolist() and found.dtype == np.int64


def test_types() -> None:
    graph = from_edges(*edges_of([(0, 1, 0.5)]), num_users=1, num_items=2)
    types = {name: array.dtype.name for name, array in graph._asdict().items()}
    assert types == {
        "user_offsets": "int64",
        "user": "int32",
        "item": "int32",
        "weight": "float32",
        "item_offsets": "int64",
        "item_order": "int32",
        "negative_user": "int32",
        "negative_item": "int32",
        "negative_weight": "float32",
    }


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (Edges(np.array([0, 1]), np.array([0]), np.array([1.0])), "must be of one length"),
        (Edges(np.array([2]), np.array([0]), np.array([1.0])), r"user indices must be in \[0, 2\)"),
        (Edges(np.array([0]), np.array([-1]), np.array([1.0])), r"item indices must be in \[0, 3\)"),
        (Edges(np.array([0]), np.array([0]), np.array([0.0])), "weights must be positive and finite"),
        (Edges(np.array([0]), np.array([0]), np.array([np.nan])), "weights must be positive and finite"),
        (Edges(np.array([0]), np.array([0]), np.array([np.inf])), "weights must be positive and finite"),
    ],
)
def test_bad_edges(edges: Edges, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_edges(*edges, num_users=2, num_items=3)
    with pytest.raises(UserError, match=f"negative edges: .*{message}"):
        from_edges(*edges_of([(0, 0, 1.0)]), num_users=2, num_items=3, negatives=edges)
