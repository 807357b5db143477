"""The encoder against its formula in dense float64 NumPy, and its behaviour at the edges of the graph."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import make_graph, random_graph
from paper import PAPER

from music_map.errors import UserError
from music_map.model import encoder
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import adjacency


def dense_encoder(dense, user, item, *, layers, alpha, beta, gamma, layer_weights=None):
    """The formula, written with dense matrices and loops over nothing but layers."""
    layer_weights = np.full(layers, 1 / layers) if layer_weights is None else layer_weights
    du, di = dense.sum(1), dense.sum(0)
    power = lambda d, p: np.array([x**p if x > 0 else 0.0 for x in d])  # noqa: E731
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)  # noqa: E731
    to_users = dense * power(du, -alpha)[:, None] * power(di, -beta)[None, :]
    to_items = dense.T * power(di, -alpha)[:, None] * power(du, -beta)[None, :]
    u, i, us, its = user, item, 0.0, 0.0
    for k in range(layers):
        u, i = to_users @ unit(i), to_items @ unit(u)
        us, its = us + layer_weights[k] * u, its + layer_weights[k] * i
    return gamma * user + (1 - gamma) * us, gamma * item + (1 - gamma) * its


def make(settings, seed=0):
    graph, dense = random_graph(seed)
    inputs = EncoderInputs(adjacency(graph, degree=settings.degree), None)
    params = encoder.init(jax.random.key(seed), settings, inputs)
    return inputs, params, dense


@pytest.mark.parametrize("backend", ["csr", "segment"])
@pytest.mark.parametrize(("layers", "alpha", "beta", "gamma"), [(2, 0.6, -0.1, 0.2), (3, 0.5, 0.5, 0.0), (1, 1, 0, 1)])
def test_apply_equals_the_formula(backend, layers, alpha, beta, gamma):
    settings = dataclasses.replace(PAPER, num_layers=layers, alpha=alpha, beta=beta, gamma=gamma, backend=backend)
    inputs, params, dense = make(settings)
    user, item, _ = encoder.encode(params, inputs, settings)
    wanted = dense_encoder(
        dense, *(np.asarray(params[n], np.float64) for n in ("user", "item")),
        layers=layers, alpha=alpha, beta=beta, gamma=gamma,
    )  # fmt: skip
    np.testing.assert_allclose(user, wanted[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(item, wanted[1], rtol=1e-5, atol=1e-6)


def test_hand_worked_one_layer():
    """One user, two songs, weights 1 and 3: d_u = 4, d_i = (1, 3), alpha = 1, beta = 1."""
    settings = dataclasses.replace(PAPER, num_layers=1, embedding_dim=2, alpha=1.0, beta=1.0, gamma=0.0)
    inputs = EncoderInputs(adjacency(make_graph([0, 0], [0, 1], [1.0, 3.0], 1, 2), degree="weighted"), None)
    params = {"user": jnp.array([[3.0, 4.0]]), "item": jnp.array([[2.0, 0.0], [0.0, 5.0]])}
    user, item, _ = encoder.encode(params, inputs, settings)
    # 1 / (4 * 1) * (1, 0) + 3 / (4 * 3) * (0, 1)
    np.testing.assert_allclose(user, [[0.25, 0.25]], rtol=1e-6)
    # songs: 1 / (1 * 4) * (.6, .8) and 3 / (3 * 4) * (.6, .8)
    np.testing.assert_allclose(item, [[0.15, 0.2], [0.15, 0.2]], rtol=1e-6)


def test_gradients_are_finite_where_nodes_have_no_edges():
    inputs, params, _ = make(PAPER)
    loss = lambda p: sum(jnp.sum(jnp.sin(x)) for x in encoder.encode(p, inputs, PAPER)[:2])  # noqa: E731
    for leaf in jax.tree.leaves(jax.grad(loss)(params)):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-18, 1e-5])
def test_rows_that_shrank_to_nothing_keep_finite_values_and_gradients(size):
    settings = dataclasses.replace(PAPER, gamma=0.0)
    inputs, params, _ = make(settings)
    params = jax.tree.map(lambda p: p.at[:3].mul(size), params)
    value, grads = jax.value_and_grad(lambda p: jnp.sum(jnp.square(encoder.encode(p, inputs, settings)[0])))(params)
    assert all(np.isfinite(x).all() for x in (value, *jax.tree.leaves(grads)))


def test_gradient_equals_finite_differences_of_the_formula():
    inputs, params, dense = make(PAPER, seed=3)
    probe = np.random.default_rng(0).normal(size=dense.shape)

    def of(user, item):
        u, i = dense_encoder(dense, user, item, layers=2, alpha=0.6, beta=-0.1, gamma=0.2)
        return np.sum(probe * (u @ i.T))

    grad = jax.grad(
        lambda p: jnp.sum(jnp.asarray(probe) * jnp.dot(*(lambda u, i, _: (u, i.T))(*encoder.encode(p, inputs, PAPER))))
    )(params)
    user, item = (np.asarray(params[n], np.float64) for n in ("user", "item"))
    for at in [(0, 0), (3, 2), (6, 5)]:
        for which in (0, 1):
            moved = [user.copy(), item.copy()]
            moved[which][at] += 1e-6
            difference = (of(*moved) - of(user, item)) / 1e-6
            np.testing.assert_allclose(grad[("user", "item")[which]][at], difference, rtol=2e-3, atol=2e-4)


def test_cosine_gives_unit_rows_and_keeps_zero_rows_finite():
    settings = dataclasses.replace(PAPER, score="cosine")
    inputs, params, _ = make(settings)
    user, item, _ = encoder.encode(params, inputs, settings)
    np.testing.assert_allclose(np.linalg.norm(user, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(item, axis=1), 1.0, rtol=1e-5)


def test_zero_layers_is_matrix_factorisation():
    settings = dataclasses.replace(PAPER, num_layers=0)
    inputs, params, _ = make(settings)
    user, item, _ = encoder.encode(params, inputs, settings)
    np.testing.assert_array_equal(user, params["user"])
    np.testing.assert_array_equal(item, params["item"])


def test_adaptive_starts_at_gamma_and_equal_layers_and_learns():
    adaptive = dataclasses.replace(PAPER, adaptive=True)
    inputs, params, _ = make(adaptive)
    fixed = {k: params[k] for k in ("user", "item")}
    for a, b in zip(
        encoder.encode(params, inputs, adaptive)[:2], encoder.encode(fixed, inputs, PAPER)[:2], strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    grad = jax.grad(lambda p: jnp.sum(encoder.encode(p, inputs, adaptive)[0] ** 2))(params)
    assert float(grad["combine"]["gamma_logit"]) != 0.0
    assert np.any(np.asarray(grad["combine"]["layer_logits"]) != 0.0)


@pytest.mark.parametrize(
    ("field", "value"), [("num_layers", -1), ("gamma", 1.5), ("score", "euclid"), ("id_dropout", 1.0), ("degree", "x")]
)
def test_settings_without_meaning_are_named(field, value):
    with pytest.raises(UserError, match=f"config.model.{field}="):
        dataclasses.replace(PAPER, **{field: value})
