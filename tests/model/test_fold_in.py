"""A user's embedding from messages is the encoder's own; regressions; what new users get."""

import dataclasses

import jax
import numpy as np
import pytest
from graphs import random_graph
from paper import PAPER

from music_map.model import encoder
from music_map.model.encoder import EncoderInputs
from music_map.model.fold_in import FoldIn, Learning, learned_part, make_fold_in, received, ridge
from music_map.model.propagation import adjacency


def trained(settings, graph):
    inputs = EncoderInputs(adjacency(graph, degree=settings.degree), None)
    params = encoder.init(jax.random.key(0), settings, inputs)
    users, items, _ = encoder.encode(params, inputs, settings)
    return params, np.asarray(users), np.asarray(items), encoder.messages(params, inputs, settings)


@pytest.mark.parametrize("name", ["lightgcnpp", "lightgcn"])
@pytest.mark.parametrize(("layers", "adaptive", "degree"), [(1, False, "weighted"), (3, True, "count")])
def test_messages_add_up_to_the_encoders_own_users(name, layers, adaptive, degree):
    settings = dataclasses.replace(
        PAPER, name=name, num_layers=layers, adaptive=adaptive, degree=degree, score="dot", backend="csr"
    )
    graph, _ = random_graph(0)
    params, users, _, sent = trained(settings, graph)
    x = received(
        np.asarray(sent.items), graph.user_offsets, graph.item, graph.weight, power=float(sent.power), degree=degree
    )
    found = float(sent.base) * np.asarray(params["user"]) + x
    np.testing.assert_allclose(found, users, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["lightgcnpp", "mf"])
def test_folded_in_users_are_near_the_trained_ones(name):
    settings = dataclasses.replace(PAPER, name=name, num_layers=2, score="cosine", backend="csr")
    graph, _ = random_graph(1, num_users=60, num_items=40)
    _, users, items, sent = trained(settings, graph)
    if name == "mf":  # untrained users know nothing of their songs
        assert sent is None
        users = received(items, graph.user_offsets, graph.item, graph.weight, power=-1.0, degree="weighted")
        users /= np.maximum(np.linalg.norm(users, axis=1, keepdims=True), 1e-9)
    fold_in = make_fold_in(
        graph,
        users=users,
        items=items,
        messages=None if sent is None else np.asarray(sent.items),
        power=0.0 if sent is None else float(sent.power),
        degree=settings.degree,
        unit=True,
    )
    found = fold_in.embed(graph.user_offsets, graph.item, graph.weight)
    known = np.diff(graph.user_offsets) > 0
    np.testing.assert_allclose(np.linalg.norm(found[known], axis=1), 1, rtol=1e-5)
    assert not found[~known].any()
    assert np.sum(found * users, axis=1)[known].mean() > 0.8
    # A song without train edges sends what its embedding predicts.
    assert fold_in.messages[-1].any() == items[-1].any()


def test_ridge_finds_a_linear_map():
    rng = np.random.default_rng(0)
    x, a = rng.normal(size=(500, 4)), rng.normal(size=(4, 3))
    # The strength is a hundredth of the mean squared feature.
    np.testing.assert_allclose(ridge(x, x @ a), a / 1.01, atol=1e-2)


def test_worked_by_hand():
    # Weights 1 and 3, degree 4: 4^-0.5 (1 [2, 0] + 3 [0, 2]) = [1, 3].
    fold_in = FoldIn(np.array([[2, 0], [0, 2]], np.float32), -0.5, "weighted", unit=False)
    edges = np.array([0, 2, 2]), np.array([0, 1]), np.array([1, 3], np.float32)
    np.testing.assert_allclose(fold_in.embed(*edges), [[1, 3], [0, 0]])
    # By count the degree is 2.
    counted = fold_in._replace(degree="count", unit=True).embed(*edges)
    np.testing.assert_allclose(counted[0], np.array([1, 3]) / 10**0.5, rtol=1e-6)


def test_the_learned_part_is_a_newton_step_of_the_loss():
    rng = np.random.default_rng(0)
    z, x = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    own, others = np.array([3, 8, 21]), np.setdiff1d(np.arange(30), [3, 8, 21])
    learning = Learning(z, base=0.3, temperature=0.7, pull=0.05)

    def loss(e):
        score = z @ (x + learning.base * e) / learning.temperature
        return jax.nn.logsumexp(score[others]) - score[own].mean() + learning.pull / 2 * (e @ e)

    nothing = np.zeros(4, np.float32)
    wanted = -np.linalg.solve(jax.hessian(loss)(nothing), jax.grad(loss)(nothing))
    found = learned_part(x, own, learning)
    t = next(t for t in 0.5 ** np.arange(10) if loss(t * wanted) < loss(nothing))
    assert t < 1  # songs at random: a whole step goes too far
    np.testing.assert_allclose(found, t * wanted, rtol=1e-3)
    assert not learned_part(x, np.arange(30), learning).any()  # all songs are the user's
    fold_in = FoldIn(z, -1.0, "count", unit=False)
    edges = np.array([0, 3, 3]), own, np.ones(3, np.float32)
    alone, with_it = fold_in.embed(*edges), fold_in._replace(learning=learning).embed(*edges)
    np.testing.assert_allclose(with_it[0], alone[0] + 0.3 * learned_part(alone[0], own, learning), rtol=1e-5)
    assert not with_it[1].any()  # a user without edges has learned nothing


def test_of_many_songs_the_likeliest_count(monkeypatch):
    rng = np.random.default_rng(1)
    z, x = rng.normal(size=(500, 4)).astype(np.float32), 6 * rng.normal(size=4).astype(np.float32)
    learning, own = Learning(z, base=0.3, temperature=1.0, pull=0.05), np.array([1, 2])
    whole = learned_part(x, own, learning)
    monkeypatch.setattr("music_map.model.fold_in._MOST_LIKELY", 200)
    np.testing.assert_allclose(learned_part(x, own, learning), whole, rtol=0.02, atol=0.02)
