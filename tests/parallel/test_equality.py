"""Many devices give the losses and embeddings of one, step for step."""

import dataclasses

import jax
import numpy as np
import pytest
from uneven import GRAPH, STEP

from music_map.model import fusion
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import adjacency
from music_map.parallel.runners import make_runner
from music_map.preprocess.dataset import ItemFeatures


def features(num_items):
    rng = np.random.default_rng(1)
    audio = rng.normal(size=(num_items // 2, 128)).astype(np.float32)
    row = np.full(num_items, -1, np.int32)
    row[rng.permutation(num_items)[: len(audio)]] = np.arange(len(audio))
    artists = np.sort(rng.integers(0, 3, num_items))
    return ItemFeatures(
        audio=audio / np.linalg.norm(audio, axis=1, keepdims=True),
        audio_row=row,
        artist_offsets=np.concatenate([[0], np.cumsum(artists)]),
        artists=rng.integers(0, 11, artists.sum()).astype(np.int32),
        artist_ids=np.arange(11),
        album_offsets=np.arange(num_items + 1),
        albums=rng.integers(0, 17, num_items).astype(np.int32),
        album_ids=np.arange(17),
        track_seconds=rng.integers(0, 300, num_items).astype(np.float32),
    )


def train(mode, step, devices, *, users="uniform", items="weight", steps=20):
    adjacent = adjacency(GRAPH, degree="weighted")
    model = step.model
    extra = None
    if model.audio or model.metadata:
        raw = features(len(GRAPH.item_offsets) - 1)
        extra = fusion.features(raw, np.asarray(adjacent.item_degree), audio=model.audio, metadata=model.metadata)
    runner = make_runner(
        mode,
        graph=GRAPH,
        inputs=EncoderInputs(adjacent, extra),
        users=users,
        items=items,
        settings=step,
        devices=jax.devices()[:devices],
    )
    state = runner.create_state(3)
    losses = []
    for step_number in range(steps):
        state, finite = runner.advance(state, step_number, 1)
        assert finite
        losses.append({name: float(value) for name, value in state.metric_sums.items()})
        state = state.logged(runner.empty_sums())
    params = runner.params(state.params)
    return losses, params, runner.encode(params)


def assert_equal(one, many):
    for a, b in zip(one[0], many[0], strict=True):
        assert a == pytest.approx(b, rel=3e-4, abs=1e-6)
    for a, b in zip(jax.tree.leaves(one[1:]), jax.tree.leaves(many[1:]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


@pytest.fixture(scope="module")
def one():
    return train("none", STEP, 1)


@pytest.mark.parametrize(
    ("mode", "devices"),
    [
        ("pmap", 1),
        ("pmap", 2),
        ("pmap", 4),
        ("pmap", 8),
        ("sharded", 1),
        ("sharded", 2),
        ("sharded", 4),
        ("sharded", 8),
    ],
)
def test_twenty_steps_equal_those_of_one_device(mode, devices, one):
    assert_equal(one, train(mode, STEP, devices))


def changed(loss=None, model=None, optimizer=None):
    return dataclasses.replace(
        STEP,
        loss=dataclasses.replace(STEP.loss, **(loss or {})),
        model=dataclasses.replace(STEP.model, **(model or {})),
        optimizer=dataclasses.replace(STEP.optimizer, **(optimizer or {})),
    )


PLAIN = {"audio": False, "metadata": False, "id_dropout": 0.0}


@pytest.mark.parametrize(
    ("step", "sampling"),
    [
        (changed({"name": "bpr"}, PLAIN | {"score": "dot"}), {"users": "degree", "items": "uniform"}),
        (changed({"name": "softmax", "mask_observed": True}, PLAIN), {"users": "degree", "items": "weight"}),
        (changed({"name": "softmax", "mask_observed": False}, PLAIN | {"num_layers": 0}), {}),
        (
            changed({"name": "sampled_softmax", "negatives": "in_batch"}, PLAIN),
            {"users": "uniform", "items": "uniform"},
        ),
        (changed({"name": "sampled_bpr", "mask_observed": False}, PLAIN | {"backend": "segment"}), {}),
        (
            changed(
                {"negatives": "uniform"}, {"metadata": False, "backend": "pallas"}, {"clip_norm": 0, "name": "adam"}
            ),
            {},
        ),
    ],
)
def test_every_loss_and_sampling(step, sampling):
    one = train("none", step, 1, steps=3, **sampling)
    for mode in ("pmap", "sharded"):
        assert_equal(one, train(mode, step, 2, steps=3, **sampling))
