"""The filters by name."""

from __future__ import annotations

import numpy as np

from music_map.graph_filter.settings import KINDS, Kind


def plateau(eigenvalues: np.ndarray) -> np.ndarray:
    """h(w) = 1/2 - 1/2 (1 - 2 w)^1.5 below 1/2, 1/2 + 1/2 (2 w - 1)^1.5 above: steep at both ends, flat in the middle.

    The step response of ChebyCF (Kim et al., SIGIR 2025) as a function of the eigenvalue.
    """
    from_half = 2.0 * eigenvalues - 1.0
    return 0.5 + 0.5 * np.sign(from_half) * np.abs(from_half) ** 1.5


def ridge(eigenvalues: np.ndarray, *, strength: float = 0.1) -> np.ndarray:
    """h(w) = w / (w + l): ridge regression of each song on all songs, l = `strength`."""
    return eigenvalues / (eigenvalues + strength)


_TENTHS = tuple(n / 10 for n in range(11))
KINDS.register("linear", Kind(None, 0.0, (0.2, *_TENTHS)))
KINDS.register("chebyshev", Kind(plateau, 0.2, (0.4, *_TENTHS)))
KINDS.register("ridge", Kind(ridge, 0.0, (0.4, *_TENTHS)))
