"""Draws against their stated distributions; determinism by key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import make_graph, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.losses.settings import LossSettings
from music_map.model.propagation import adjacency
from music_map.training import sampling

N = 60_000


def edges_of(graph):
    return adjacency(graph, degree="count").users_from_items.forward


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_observed_equals_the_dense_matrix(seed):
    graph, dense = random_graph(seed)
    users, items = np.indices(dense.shape)
    got = sampling.observed(edges_of(graph), jnp.asarray(users.ravel()), jnp.asarray(items.ravel()))
    np.testing.assert_array_equal(np.asarray(got).reshape(dense.shape), dense > 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 9))
def test_observed_block_equals_the_dense_matrix(seed, num_rows, num_columns):
    graph, dense = random_graph(seed)
    rng = np.random.default_rng(seed)
    # Drawn with repeats.
    users, items = rng.integers(dense.shape[0], size=num_rows), rng.integers(dense.shape[1], size=num_columns)
    got = sampling.observed_block(
        edges_of(graph), jnp.asarray(users, jnp.int32), jnp.asarray(items, jnp.int32), dense.shape[1]
    )
    np.testing.assert_array_equal(got, dense[users][:, items] > 0)


@pytest.mark.parametrize("users", ["uniform", "degree"])
@pytest.mark.parametrize("items", ["uniform", "weight"])
def test_positives_follow_their_distribution(users, items):
    graph, dense = random_graph(5)
    data = sampling.sample_data(graph, users=users, items=items)
    share = dense if items == "weight" else (dense > 0).astype(float)
    share = share / np.maximum(share.sum(1, keepdims=True), 1e-9)
    degree = (dense > 0).sum(1)
    of_user = degree / degree.sum() if users == "degree" else (degree > 0) / (degree > 0).sum()
    wanted = share * of_user[:, None]
    drawn = sampling.draw_positives(jax.random.key(0), edges_of(graph), data.positives, N)
    counts = np.zeros(dense.shape)
    np.add.at(counts, tuple(map(np.asarray, drawn)), 1 / N)
    assert np.all(counts[dense == 0] == 0)
    # Five standard deviations of a binomial share.
    assert np.all(np.abs(counts - wanted) <= 5 * np.sqrt(wanted / N) + 1e-9)
    np.testing.assert_allclose(data.item_probability, wanted.sum(0), rtol=1e-5, atol=1e-7)


def test_unobserved_songs_are_uniform_over_what_the_user_has_not_heard():
    graph, dense = random_graph(2)
    user = 1
    drawn = sampling.draw_unobserved(jax.random.key(0), edges_of(graph), jnp.full(N, user), dense.shape[1])
    share = np.bincount(np.asarray(drawn), minlength=dense.shape[1]) / N
    free = dense[user] == 0
    assert np.all(share[~free] == 0)
    np.testing.assert_allclose(share[free], 1 / free.sum(), rtol=0.1)


def test_draws_are_functions_of_the_key():
    graph, _ = random_graph(2)
    data = sampling.sample_data(graph, users="uniform", items="weight")
    draw = lambda seed: np.asarray(sampling.draw_positives(jax.random.key(seed), edges_of(graph), data.positives, 50))  # noqa: E731
    np.testing.assert_array_equal(draw(0), draw(0))
    assert np.any(draw(0) != draw(1))


@pytest.mark.parametrize(("negatives", "size"), [("uniform", 4), ("in_batch", 3), ("mixed", 4)])
def test_negatives_state_their_probability(negatives, size):
    settings_ = LossSettings(name="sampled_softmax", negatives=negatives, num_negatives=4)
    probability = np.array([0.5, 0.3, 0.2, 0.0, 0.0])
    songs, log_q = sampling.draw_negatives(jax.random.key(0), jnp.array([0, 1, 1]), jnp.asarray(probability), settings_)
    assert songs.shape == log_q.shape == (size,)
    share = {"uniform": 0.0, "in_batch": 1.0, "mixed": 2 / 4}[negatives]
    # I q_j with I = 5
    wanted = np.log((1 - share) + share * 5 * probability[np.asarray(songs)])
    np.testing.assert_allclose(log_q, wanted, rtol=1e-5, atol=1e-6)
    in_batch = {"uniform": [], "in_batch": [0, 1, 1], "mixed": [0, 1]}[negatives]
    np.testing.assert_array_equal(songs[size - len(in_batch) :], in_batch)


def test_a_user_who_has_heard_everything_still_draws():
    graph = make_graph([0, 0], [0, 1], [1.0, 1.0], 1, 2)
    drawn = sampling.draw_unobserved(jax.random.key(0), edges_of(graph), jnp.zeros(3, jnp.int32), 2)
    assert np.all((np.asarray(drawn) >= 0) & (np.asarray(drawn) < 2))
