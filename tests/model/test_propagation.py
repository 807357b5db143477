"""Sparse products against float64 dense algebra, forward and backward, on every backend."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import make_graph, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.model import propagation
from music_map.model.gather_kernel import Tiling, cut, gather_sum
from music_map.model.propagation import BACKENDS, Csr, adjacency, choose_backend, coo_matrix, prepare, spmm, spmm_rows


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_products_and_gradients_equal_dense_algebra(backend, seed):
    graph, dense = random_graph(seed)
    matrix = adjacency(graph, degree="weighted").users_from_items
    rng = np.random.default_rng(seed)
    x_items, x_users = rng.normal(size=(dense.shape[1], 5)), rng.normal(size=(dense.shape[0], 5))

    for m, a, x in ((matrix, dense, x_items), (matrix.T, dense.T, x_users)):
        g = rng.normal(size=(a.shape[0], 5))
        y, pull = jax.vjp(lambda x, m=m: spmm(m, x, backend), jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(y, a @ x, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(pull(jnp.asarray(g, jnp.float32))[0], a.T @ g, rtol=1e-5, atol=1e-5)
        assert np.all(np.asarray(y)[-1] == 0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_edge(backend):
    graph = make_graph([0], [0], [2.5], 1, 1)
    matrix = adjacency(graph, degree="weighted").users_from_items
    np.testing.assert_array_equal(spmm(matrix, jnp.array([[2.0, 4.0]]), backend), [[5.0, 10.0]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_parallel_edges_add_up(backend):
    graph = make_graph([0, 0, 1], [1, 1, 0], [1.0, 2.0, 4.0], 2, 2)
    matrix = adjacency(graph, degree="weighted").users_from_items
    np.testing.assert_array_equal(spmm(matrix, jnp.array([[1.0], [10.0]]), backend), [[30.0], [4.0]])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.floats(-3, 3)), min_size=1, max_size=20))
def test_backends_agree(entries):
    rows, columns, values = map(np.array, zip(*entries, strict=True))
    matrix = coo_matrix(rows, columns, values, num_rows=5, num_columns=4)
    x = jnp.arange(8.0).reshape(4, 2)
    dense = np.zeros((5, 4))
    np.add.at(dense, (rows, columns), values)
    for backend in BACKENDS:
        np.testing.assert_allclose(spmm(matrix, x, backend), dense @ np.asarray(x), rtol=1e-4, atol=1e-4)


def test_degrees():
    graph, dense = random_graph(0)
    weighted, counted = adjacency(graph, degree="weighted"), adjacency(graph, degree="count")
    np.testing.assert_allclose(weighted.user_degree, dense.sum(1), rtol=1e-6)
    np.testing.assert_allclose(weighted.item_degree, dense.sum(0), rtol=1e-6)
    np.testing.assert_array_equal(counted.user_degree, (dense > 0).sum(1))
    np.testing.assert_array_equal(counted.item_degree, (dense > 0).sum(0))


def test_backend_names():
    assert choose_backend("auto") == "csr"  # the tests run on CPU
    with pytest.raises(UserError, match=r"config\.model\.backend='cuda'"):
        choose_backend("cuda")
    with pytest.raises(UserError, match="is for GPUs, not for cpu"):
        choose_backend("pallas")


@pytest.mark.parametrize(("capability", "chosen"), [("9.0", "pallas"), ("7.5", "segment"), ("gfx90a", "segment")])
def test_backends_of_a_gpu(monkeypatch, capability, chosen):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(compute_capability=capability)])
    assert choose_backend("auto") == chosen and choose_backend("pallas") == "pallas"
    assert choose_backend("auto", num_edges=700_000) == "segment"
    assert choose_backend("auto", num_edges=5_000_000) == chosen
    with pytest.raises(UserError, match="JAX_BCOO_CUSPARSE_LOWERING is 1"):
        choose_backend("csr")


def test_the_gradient_does_not_scatter(monkeypatch):
    """The backward product runs through the same kernel as the forward one, with the transpose."""
    seen = []
    product = propagation._product
    monkeypatch.setattr(
        propagation, "_product", lambda m, x, b: (seen.append(m.offsets.shape[0] - 1), product(m, x, b))[1]
    )
    graph, dense = random_graph(1)
    matrix = adjacency(graph, degree="weighted").users_from_items
    jax.grad(lambda x: spmm(matrix, x, "csr").sum())(jnp.ones((dense.shape[1], 2)))
    assert seen == [dense.shape[0], dense.shape[1]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_is_gathered_and_float32_summed(backend):
    graph, dense = random_graph(3, num_users=40, num_items=30)
    matrix = adjacency(graph, degree="count").users_from_items
    x = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    stored = jnp.asarray(x, jnp.bfloat16)
    out, back = jax.vjp(lambda x: spmm(matrix, x, backend), stored)
    assert out.dtype == jnp.float32
    # The rows lose bits, the sums do not.
    np.testing.assert_allclose(out, dense.astype(np.float32) @ np.asarray(stored, np.float32), rtol=1e-4, atol=1e-4)
    g = np.random.default_rng(1).normal(size=out.shape).astype(np.float32)
    (gradient,) = back(jnp.asarray(g))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(gradient, np.float32), dense.T @ g, rtol=0.05, atol=0.2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "rows",
    [[3], [5, 5, 1], [0, 6, 3, 6, 0, 2, 1, 4, 5, 3]],
    ids=["few entries", "repeats", "more than a third of the entries"],
)
def test_some_rows_of_a_product_and_their_gradient_equal_dense_algebra(backend, rows):
    graph, dense = random_graph(2, hub=False)
    matrix = adjacency(graph, degree="weighted").users_from_items
    rng, rows = np.random.default_rng(0), np.array(rows)
    x, g = rng.normal(size=(dense.shape[1], 5)), rng.normal(size=(len(rows), 5))
    product = jax.jit(lambda x: jax.vjp(lambda x: spmm_rows(matrix, x, jnp.asarray(rows), backend), x))
    y, pull = product(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(y, (dense @ x)[rows], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pull(jnp.asarray(g, jnp.float32))[0], dense[rows].T @ g, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["segment", "csr"])
def test_rows_that_fit_are_copied_and_others_cost_the_whole_product(backend, monkeypatch):
    """Both branches are exact; which one runs is seen by spoiling the other."""
    graph, dense = random_graph(2, hub=False)
    matrix = adjacency(graph, degree="weighted").users_from_items
    x = jnp.ones((dense.shape[1], 2))
    monkeypatch.setattr(propagation, "_copy_rows", lambda m, rows, offsets, room: Csr(offsets, *m[1:])._replace(
        values=m.values * jnp.nan))  # fmt: skip
    assert np.isnan(spmm_rows(matrix, x, jnp.array([3]), backend)).all()
    everyone = jnp.arange(dense.shape[0])
    np.testing.assert_allclose(spmm_rows(matrix, x, everyone, backend), dense @ np.asarray(x), rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_bfloat16(backend):
    graph, dense = random_graph(3, num_users=40, num_items=30)
    matrix = adjacency(graph, degree="count").users_from_items
    stored = jnp.asarray(np.random.default_rng(0).normal(size=(30, 8)), jnp.bfloat16)
    rows = jnp.array([3, 1, 3])
    out, back = jax.vjp(lambda x: spmm_rows(matrix, x, rows, backend), stored)
    assert out.dtype == jnp.float32 and back(out)[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(out, (dense @ np.asarray(stored, np.float64))[np.asarray(rows)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tiling", [Tiling(piece=8, chunk=4, warps=1), Tiling(piece=256, chunk=16, warps=2), Tiling()])
def test_hubs_and_empty_rows_in_the_kernel(tiling):
    """Rows of none, one, a whole piece and several pieces of entries."""
    count = np.array([0, 3, 1300, 0, 256, 1, 257, 8, 9, 512, 0])
    rng, edges = np.random.default_rng(0), int(count.sum())
    rows, columns = np.repeat(np.arange(len(count)), count), rng.integers(0, 11, edges)
    values, x = rng.normal(size=edges), rng.normal(size=(11, 5))
    dense = np.zeros((len(count), 11))
    np.add.at(dense, (rows, columns), values)
    matrix = coo_matrix(rows, columns, values, num_rows=len(count), num_columns=11).forward
    pieces = cut(matrix.offsets[:-1], jnp.diff(matrix.offsets), edges, tiling.piece)
    y = gather_sum(
        pieces, matrix.columns, matrix.values, jnp.asarray(x, jnp.float32), num_rows=len(count), interpret=True,
        tiling=tiling,
    )  # fmt: skip
    np.testing.assert_allclose(y, dense @ x, rtol=1e-4, atol=1e-4)


def test_a_prepared_matrix_is_not_cut_again(monkeypatch):
    graph, _ = random_graph(3, num_users=40, num_items=30)
    matrix = adjacency(graph, degree="weighted").users_from_items
    x = jnp.asarray(np.random.default_rng(0).normal(size=(30, 8)), jnp.float32)
    assert prepare(matrix, "csr") is matrix
    prepared = prepare({"a": matrix, "b": x}, "pallas")["a"]

    def product_and_gradient(m):
        out, back = jax.vjp(lambda x: spmm(m, x, "pallas"), x)
        return out, back(out)[0]

    wanted = product_and_gradient(matrix)
    monkeypatch.setattr(propagation, "cut", None)
    for a, b in zip(product_and_gradient(prepared), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_kernel_compiles_to_triton_without_a_gpu():
    like = [jax.ShapeDtypeStruct(*a) for a in (((9,), "int32"), ((40,), "int32"), ((40,), "float32"))]
    x = jax.ShapeDtypeStruct((11, 64), "bfloat16")

    def product(offsets, columns, values, x):
        pieces = cut(offsets[:-1], jnp.diff(offsets), 40)
        return gather_sum(pieces, columns, values, x, num_rows=8, interpret=False)

    traced = jax.jit(product).trace(*like, x)
    assert "__gpu$xla.gpu.triton" in traced.lower(lowering_platforms=("cuda",)).as_text()
