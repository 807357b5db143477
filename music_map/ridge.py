"""Least squares with a pull towards 0, from sums over the rows."""

from __future__ import annotations

import numpy as np


def solve_ridge(gram: np.ndarray, cross: np.ndarray, share: float) -> np.ndarray:
    """argmin_A ||x A - y||^2 + share l ||A||^2 with l the mean eigenvalue of x^T x.

        A = (x^T x + share l I)^-1 x^T y

    Args:
      gram: x^T x, float64 [d, d]; rows may be counted several times.
      cross: x^T y, float64 [d, e].
      share: of l, > 0.

    Returns:
      A, float64 [d, e].
    """
    strength = share * max(np.trace(gram) / len(gram), 1e-12)
    return np.linalg.solve(gram + strength * np.eye(len(gram)), cross)
