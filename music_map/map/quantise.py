"""Song vectors with one or two bytes per number, so that a page can hold 250,000 of them.

    c_i = round(m z_i / max_j |z_ij|),  m = 127 or 32,767;  z'_i = c_i / ||c_i||

No scale is stored, since vectors have unit length.
"""

from __future__ import annotations

import numpy as np

from music_map.unit import unit_rows

DTYPES = {8: np.int8, 16: np.int16}


def quantise(vectors: np.ndarray, *, bits: int) -> np.ndarray:
    """c of unit rows float32 [I, d]: int8 or int16 [I, d] for 8 or 16 bits; 0 stays 0."""
    most = np.iinfo(DTYPES[bits]).max
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    return np.rint(vectors * (most / np.where(largest > 0, largest, 1.0))).astype(DTYPES[bits])


def dequantise(codes: np.ndarray) -> np.ndarray:
    """z' of codes: unit rows float32 [I, d]."""
    return unit_rows(codes.astype(np.float32))


def worst_error(vectors: np.ndarray, codes: np.ndarray) -> float:
    """max_i ||z_i - z'_i||, which bounds the error of any dot product with a unit vector."""
    return float(np.linalg.norm(vectors - dequantise(codes), axis=1).max(initial=0.0))
