"""The playlist query against plain NumPy, and its behaviour under permutation, padding and single songs."""

import jax.numpy as jnp
import numpy as np
import pytest

from music_map.retrieval.playlist import attend


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


SONGS = unit(np.random.default_rng(0).normal(size=(5, 4))).astype(np.float32)


def query(songs, temperature=0.3, padding=0):
    rows = np.concatenate([songs, np.full((padding, songs.shape[1]), 9.0, np.float32)])
    where = np.arange(len(rows)) < len(songs)
    return tuple(map(np.asarray, attend(jnp.asarray(rows), jnp.asarray(where), jnp.float32(temperature))))


def test_formula():
    centre = unit(SONGS.sum(0))
    a = np.exp(SONGS @ centre / 0.3)
    a /= a.sum()
    q, weights = query(SONGS)
    np.testing.assert_allclose(weights, a, rtol=1e-5)
    np.testing.assert_allclose(q, unit(a @ SONGS), rtol=1e-5)


def test_one_song_is_its_own_query():
    q, weights = query(SONGS[:1])
    np.testing.assert_allclose(q, SONGS[0], rtol=1e-6)
    np.testing.assert_allclose(weights, [1.0])


def test_order_does_not_matter():
    order = np.array([3, 1, 4, 0, 2])
    q, weights = query(SONGS)
    q2, weights2 = query(SONGS[order])
    np.testing.assert_allclose(q, q2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights[order], weights2, rtol=1e-5)


@pytest.mark.parametrize("padding", [1, 3])
def test_padding_changes_nothing(padding):
    q, weights = query(SONGS)
    q2, weights2 = query(SONGS, padding=padding)
    np.testing.assert_allclose(q, q2, rtol=1e-6)
    np.testing.assert_allclose(weights2[:5], weights, rtol=1e-6)
    assert np.all(weights2[5:] == 0)


def test_temperature_goes_from_the_most_central_song_to_the_mean():
    _, hot = query(SONGS, temperature=1e4)
    np.testing.assert_allclose(hot, 0.2, atol=1e-4)
    _, cold = query(SONGS, temperature=1e-3)
    assert cold.max() > 0.99


def test_songs_that_cancel_out_stay_finite():
    q, weights = query(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32))
    assert np.isfinite(q).all()
    np.testing.assert_allclose(weights, [0.5, 0.5])
