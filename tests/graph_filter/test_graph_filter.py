"""The filters against dense NumPy algebra."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from music_map.errors import UserError
from music_map.graph_filter.kinds import plateau, ridge
from music_map.graph_filter.operator import FilteredGraph, UserRows, filtered, matrix_of, normalised, spectrum
from music_map.graph_filter.scores import MixedScorer
from music_map.graph_filter.settings import KINDS, GraphFilterSettings


def user_rows(dense):
    matrix = sparse.csr_array(dense.astype(np.float32))
    return UserRows(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data)


def random_weights(seed, num_users=14, num_items=11):
    """Edge weights [U, I]; one user and one song have no edge."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((num_users, num_items)) < 0.4, rng.random((num_users, num_items)) + 0.1, 0.0)
    dense[3], dense[:, 5] = 0.0, 0.0
    return dense.astype(np.float32).astype(np.float64)


def graph_of(dense, *, rank=6, backend="csr"):
    rows = user_rows(dense)
    return FilteredGraph(rows, matrix_of(rows, dense.shape[1], backend=backend), dense.shape[1], rank, 0, backend)


def dense_gram(dense):
    """R~'R~ by dense algebra."""
    roots = [np.sqrt(np.where(total > 0, total, 1.0)) for total in (dense.sum(axis=1), dense.sum(axis=0))]
    scaled = dense / roots[0][:, None] / roots[1][None]
    return scaled.T @ scaled


def dense_scores(dense, kind, exponent, rank):
    """s of all users as the module's formula says, float64 [U, I]."""
    gram, degree = dense_gram(dense), dense.sum(axis=0)
    w, v = (part[..., ::-1][..., :rank] for part in np.linalg.eigh(gram))
    chosen = KINDS.find(kind)
    operator = gram
    if chosen.response is not None:
        c = chosen.response(w)[-1] / w[-1]
        operator = c * gram + v @ np.diag(chosen.response(w) - c * w + chosen.ideal) @ v.T
    there = degree > 0
    before, after = (np.where(there, np.where(there, degree, 1.0) ** p, 0.0) for p in (-exponent, exponent))
    return (dense * before) @ operator * after


def scores_of(graph, kind, exponent, users):
    """s of some users, float32 [B, I]."""
    nothing = (np.zeros((n, 1), np.float32) for n in (len(graph.rows.offsets) - 1, graph.num_items))
    scorer = MixedScorer(*nothing, graph.rows, graph.operator(kind, exponent), 1.0, graph.backend)
    return np.asarray(filtered(scorer.operator.kernel, *scorer.prepare(np.array(users))[1:], backend=graph.backend))


@pytest.mark.parametrize("backend", ["csr", "segment"])
@pytest.mark.parametrize(("kind", "exponent"), [("linear", 0.2), ("linear", 0.0), ("chebyshev", 0.4), ("ridge", 0.2)])
def test_scores_agree_with_dense_algebra(kind, exponent, backend):
    dense, users = random_weights(0), [2, 3, 9, 9]
    found = scores_of(graph_of(dense, backend=backend), kind, exponent, users)
    np.testing.assert_allclose(found, dense_scores(dense, kind, exponent, 6)[users], atol=2e-5)
    assert not found[1].any() and not found[:, 5].any()  # without edges


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.permutations(range(14)))
def test_scores_do_not_depend_on_the_order_of_users_or_on_parallel_edges(seed, order):
    dense = random_weights(seed)
    expected = dense_scores(dense, "linear", 0.2, 6)
    np.testing.assert_allclose(scores_of(graph_of(dense[order]), "linear", 0.2, range(14)), expected[order], atol=2e-5)
    # An edge as two of half its weight.
    rows = user_rows(dense)
    twice = UserRows(2 * rows.offsets, np.repeat(rows.items, 2), np.repeat(rows.weights / 2, 2))
    graph = FilteredGraph(twice, matrix_of(twice, 11, backend="csr"), 11, 6, 0, "csr")
    np.testing.assert_allclose(scores_of(graph, "linear", 0.2, range(14)), expected, atol=2e-5)


def test_spectrum_agrees_with_dense_eigenvalues():
    dense = random_weights(1, 60, 45)
    rows = user_rows(dense)
    graph = graph_of(dense)
    found = spectrum(normalised(matrix_of(rows, 45, backend="csr"), *graph.degrees), rank=8, seed=3, backend="csr")
    w, v = (part[..., ::-1][..., :8] for part in np.linalg.eigh(dense_gram(dense)))
    np.testing.assert_allclose(found.eigenvalues, w, atol=1e-5)
    assert found.eigenvalues[0] == pytest.approx(1.0, abs=1e-5)  # D_i^1/2 1 is an eigenvector of it
    np.testing.assert_allclose(np.abs(np.sum(found.vectors * v, axis=0)), 1.0, atol=1e-3)
    # A rank above that of the graph leaves out what is rounding.
    small = graph_of(np.eye(4)[:, [0, 1, 2, 2]], rank=50).spectrum
    assert small.vectors.shape[0] == 4 and len(small.eigenvalues) == 3


def test_responses():
    w = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    edge = 0.5 - 0.5 * 0.5**1.5
    np.testing.assert_allclose(plateau(w), [0.0, edge, 0.5, 1 - edge, 1.0])
    np.testing.assert_allclose(ridge(w, strength=0.25), [0.0, 0.5, 2 / 3, 0.75, 0.8])


def test_settings_name_unknown_kinds():
    with pytest.raises(UserError, match=r"config.graph_filter.kinds='chebishev'.*did you mean 'chebyshev'"):
        GraphFilterSettings(kinds=("linear", "chebishev"))
    with pytest.raises(UserError, match=r"config.graph_filter.kinds=\(\): must be names of linear, chebyshev, ridge"):
        GraphFilterSettings(kinds=())
