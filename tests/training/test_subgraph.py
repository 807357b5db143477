"""Parts of the graph: exact rows for their users, unbiased for songs, reproducible, one program for all."""

import numpy as np
import pytest
from graphs import random_graph

from music_map.model import encoder
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import adjacency
from music_map.model.settings import ModelSettings
from music_map.training.sampling import observed_block, sample_data
from music_map.training.subgraph import Subgraphs

GRAPH, DENSE = random_graph(0, num_users=41, num_items=12, density=0.4)


def settings(layers=1):
    return ModelSettings(
        num_layers=layers, embedding_dim=4, alpha=0.6, beta=-0.1, gamma=0.2, adaptive=False, degree="weighted",
        score="dot", init_std=0.1, audio=False, metadata=False, id_dropout=0.0, cold_neighbours=0, backend="csr",
    )  # fmt: skip


def parts(num_parts=4, items="uniform", seed=0, backend="csr"):
    inputs = EncoderInputs(adjacency(GRAPH, degree="weighted"), None)
    data = sample_data(GRAPH, users="uniform", items=items)
    return inputs, Subgraphs(GRAPH, inputs, data, num_parts=num_parts, steps_per_part=3, seed=seed, backend=backend)


def params(num_users=41, num_items=12):
    rng = np.random.default_rng(1)
    return {
        "user": rng.normal(size=(num_users, 4)).astype(np.float32),
        "item": rng.normal(size=(num_items, 4)).astype(np.float32),
    }


@pytest.mark.parametrize("backend", ["csr", "segment", "pallas"])
def test_users_of_a_part_are_exact_and_songs_right_in_the_mean(backend):
    inputs, split = parts(backend=backend)
    model = ModelSettings(**{**vars(settings()), "backend": backend})
    users, items = map(np.asarray, encoder.encode(params(), inputs, model)[:2])
    total = np.zeros_like(items)
    for number in range(4):
        part, _, _ = split.at(3 * number)
        some_users, some_items, _ = encoder.encode(params(), part, model)
        mine = split.users_of(number)
        np.testing.assert_allclose(np.asarray(some_users)[mine], users[mine], rtol=1e-4, atol=1e-5)
        total += np.asarray(some_items)
    # 40 users with edges in 4 parts of 10: the four estimates average to the whole.
    np.testing.assert_allclose(total / 4, items, rtol=1e-3, atol=1e-4)


def test_an_epoch_sees_every_user_once_and_the_next_deals_anew():
    _, split = parts()
    dealt = [split.users_of(number) for number in range(8)]
    assert sorted(np.concatenate(dealt[:4])) == sorted(np.concatenate(dealt[4:])) == list(range(40))
    assert any((a != b).any() for a, b in zip(dealt[:4], dealt[4:], strict=True))
    again = parts()[1]
    assert (again.users_of(5) == dealt[5]).all() and (parts(seed=1)[1].users_of(5) != dealt[5]).any()


def test_steps_and_shapes():
    _, split = parts()
    shapes = set()
    for step in range(24):
        inputs, data, left = split.at(step)
        assert left == 3 - step % 3
        forward = inputs.adjacency.users_from_items.forward
        shapes.add((forward.columns.shape, data.positives.users.shape))
    assert len(shapes) == 1


@pytest.mark.parametrize("items", ["uniform", "weight"])
def test_pairs_come_from_the_part(items):
    import jax

    from music_map.training.sampling import draw_positives

    _, split = parts(items=items)
    inputs, data, _ = split.at(4)
    edges = inputs.adjacency.users_from_items.forward
    users, songs = map(np.asarray, draw_positives(jax.random.key(0), edges, data.positives, 500))
    assert set(users) <= set(split.users_of(1)) and (DENSE[users, songs] > 0).all()
    block = np.asarray(observed_block(edges, users, np.arange(12), 12))
    np.testing.assert_array_equal(block, DENSE[users] > 0)
