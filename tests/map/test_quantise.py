"""Vectors in bytes: within rounding of the vectors, of unit length again; 0 stays 0."""

import numpy as np
import pytest

from music_map.map.quantise import dequantise, quantise, worst_error


def unit_rows(count, dim, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.int8), (16, np.int16)])
def test_rounded_to_half_a_step(bits, dtype):
    vectors = unit_rows(50, 16)
    codes = quantise(vectors, bits=bits)
    assert codes.dtype == dtype and np.abs(codes.astype(int)).max(axis=1).tolist() == [np.iinfo(dtype).max] * 50
    back = dequantise(codes)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1.0, rtol=1e-6)
    # Half a step in each of 16 numbers, twice for the length that is made 1 again.
    step = np.abs(vectors).max(axis=1) / np.iinfo(dtype).max
    assert (np.linalg.norm(vectors - back, axis=1) <= 2 * 0.5 * step * np.sqrt(16) + 1e-6).all()
    assert worst_error(vectors, codes) == pytest.approx(np.linalg.norm(vectors - back, axis=1).max())


def test_zero_rows_and_no_rows():
    assert not quantise(np.zeros((2, 4), np.float32), bits=8).any()
    assert not dequantise(np.zeros((2, 4), np.int8)).any()
    assert quantise(np.zeros((0, 4), np.float32), bits=8).shape == (0, 4)
