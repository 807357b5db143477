"""Songs without train edges between their content and the played songs that sound like them, against plain NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.model import cold
from music_map.preprocess.dataset import ItemFeatures


def features(audio, has):
    """Of songs with `has`, the rows of `audio`."""
    audio = audio / np.linalg.norm(audio, axis=1, keepdims=True)
    row = np.where(has, np.cumsum(has) - 1, -1).astype(np.int32)
    none, offsets, ids = np.zeros(0, np.int32), np.zeros(len(has) + 1, np.int64), np.zeros(0, np.uint32)
    lengths = np.zeros(len(has), np.float32)
    return ItemFeatures(audio[has].astype(np.float32), row, offsets, none, ids, offsets, none, ids, lengths)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def naive(embeddings, audio, has, degree, *, count, is_unit):
    audio, placed = unit(audio), embeddings.copy()
    played = [j for j in range(len(degree)) if has[j] and degree[j] > 0]
    for i in range(len(degree)):
        if not has[i] or degree[i] > 0 or not played:
            continue
        near = sorted(played, key=lambda j: -audio[i] @ audio[j])[:count]
        mean = np.mean([embeddings[j] for j in near], axis=0)
        placed[i] = unit(embeddings[i] + unit(mean)) if is_unit else (embeddings[i] + mean) / 2
    return placed


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9), st.booleans())
def test_agrees_with_a_naive_placement(seed, count, is_unit):
    rng = np.random.default_rng(seed)
    audio, embeddings = rng.standard_normal((12, 128)), rng.standard_normal((12, 4))
    embeddings = unit(embeddings) if is_unit else embeddings
    has, degree = rng.random(12) < 0.8, rng.integers(0, 3, 12) * 1.0
    found = cold.nearest(features(audio, has), degree, count=count)
    expected = naive(embeddings, audio, has, degree, count=count, is_unit=is_unit)
    if found is None:
        np.testing.assert_array_equal(expected, embeddings)
        return
    placed = np.asarray(cold.place(jnp.asarray(embeddings, jnp.float32), found, unit=is_unit))
    np.testing.assert_allclose(placed, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("count", "degree"), [(0, [1.0, 0.0]), (3, [1.0, 1.0]), (3, [0.0, 0.0])])
def test_none_where_there_is_nothing_to_do(count, degree):
    assert cold.nearest(features(np.eye(2, 128), np.ones(2, bool)), np.array(degree), count=count) is None
