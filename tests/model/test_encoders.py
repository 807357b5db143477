"""Every encoder of the table: rows as of the whole; LightGCN and matrix factorisation against dense NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import random_graph
from paper import PAPER

from music_map.model import encoder
from music_map.model.encoder import Embeddings, EncoderInputs
from music_map.model.propagation import adjacency, prepare

NAMES = ["lightgcnpp", "lightgcn", "mf"]


def made(settings):
    graph, dense = random_graph(0)
    inputs = EncoderInputs(adjacency(graph, degree=settings.degree), None)
    return inputs, encoder.init(jax.random.key(0), settings, inputs), dense


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("layers", "score", "backend"),
    [(0, "dot", "csr"), (1, "cosine", "pallas"), (2, "dot", "segment"), (3, "dot", "csr")],
)
def test_rows_of_a_batch_and_their_gradients_are_those_of_the_whole(name, layers, score, backend):
    settings = dataclasses.replace(PAPER, name=name, num_layers=layers, score=score, adaptive=True, backend=backend)
    inputs, params, _ = made(settings)
    inputs = prepare(inputs, backend)
    users, items = jnp.array([3, 0, 3, 6]), jnp.array([8, 1, 4, 1, 1])
    probe = jax.random.normal(jax.random.key(1), (4, 5))

    def rows(params):
        user, item, base = encoder.encode(params, inputs, settings, rows=Embeddings(users, items))
        return jnp.sum(probe * (user @ item.T)), (user, item, *base)

    def whole(params):
        user, item, base = encoder.encode(params, inputs, settings)
        return jnp.sum(probe * (user[users] @ item[items].T)), (
            user[users],
            item[items],
            base[0][users],
            base[1][items],
        )

    (a, b) = (jax.jit(jax.value_and_grad(f, has_aux=True))(params) for f in (rows, whole))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_lightgcn_is_the_mean_of_all_layers_without_normalising(layers):
    inputs, params, dense = made(settings := dataclasses.replace(PAPER, name="lightgcn", num_layers=layers))
    user, item = (np.asarray(params[n], np.float64) for n in ("user", "item"))
    power = lambda d: np.where(d > 0, np.maximum(d, 1e-300) ** -0.5, 0.0)  # noqa: E731
    weights = dense * power(dense.sum(1))[:, None] * power(dense.sum(0))[None, :]
    total = [user, item]
    for _ in range(layers):
        user, item = weights @ item, weights.T @ user
        total = [total[0] + user, total[1] + item]
    for got, wanted in zip(encoder.encode(params, inputs, settings)[:2], total, strict=True):
        np.testing.assert_allclose(got, wanted / (layers + 1), rtol=1e-5, atol=1e-6)


def test_matrix_factorisation_is_the_parameters():
    inputs, params, _ = made(settings := dataclasses.replace(PAPER, name="mf"))
    assert set(params) == {"user", "item"}
    for got, name in zip(encoder.encode(params, inputs, settings)[:2], ("user", "item"), strict=True):
        np.testing.assert_array_equal(got, params[name])


def test_initial_embeddings_follow_the_seed_and_not_the_encoder():
    inputs, params, _ = made(PAPER)
    other = encoder.init(jax.random.key(0), dataclasses.replace(PAPER, name="mf"), inputs)
    np.testing.assert_array_equal(params["item"], other["item"])
    assert np.any(np.asarray(params["user"]) != np.asarray(encoder.init(jax.random.key(1), PAPER, inputs)["user"]))
