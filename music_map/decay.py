"""Decay by half-life."""

from __future__ import annotations

import numpy as np


def decay(age: np.ndarray | float, half_life: np.ndarray | float) -> np.ndarray:
    """2^(-age / half-life), float64; age and half-life are in the same unit and broadcast."""
    return np.exp2(-np.asarray(age, np.float64) / half_life)
