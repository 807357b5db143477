"""Which songs a scorer shows: popularity bias, concentration and coverage."""

from __future__ import annotations

from typing import Any

import numpy as np

_TENTHS = 10


def gini(counts: np.ndarray) -> float:
    """Concentration of exposure: 0 if every song is shown equally often, near 1 if one song alone is shown.

    With x_1 <= ... <= x_n: G = sum_i (2 i - n - 1) x_i / (n sum_i x_i).

    Args:
      counts: [n], times shown, not all 0.
    """
    x = np.sort(np.asarray(counts, np.float64))
    n = len(x)
    return float(((2 * np.arange(1, n + 1) - n - 1) * x).sum() / (n * x.sum()))


def tenths(listeners: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The tenth of the candidates that each song belongs to, by listeners.

    Args:
      listeners: int [I], users of train with an edge.
      candidates: bool [I].

    Returns:
      int64 [I]: 0 for the most heard tenth to 9 for the least heard; -1 where the song is no candidate.
    """
    songs = np.flatnonzero(candidates)
    order = songs[np.argsort(-listeners[songs], kind="stable")]
    tenth = np.full(len(listeners), -1, np.int64)
    tenth[order] = np.arange(len(order)) * _TENTHS // max(len(order), 1)
    return tenth


def exposure(shown: np.ndarray, listeners: np.ndarray, candidates: np.ndarray) -> dict[str, Any]:
    """Popularity, concentration and coverage of shown songs, as JSON-able values.

    Args:
      shown: int [N], a song for each time that it is shown; negative ones are padding.
      listeners: int [I], users of train with an edge.
      candidates: bool [I]; other songs are left out (a target need not be a candidate).

    Returns:
      {"median_listeners", "mean_listeners", "gini", "coverage": share of the candidates that is ever shown,
      "tenths": share of what is shown, by tenth of the candidates, the most heard first}.
    """
    shown = np.asarray(shown).ravel()
    shown = shown[shown >= 0]
    shown = shown[candidates[shown]]
    counts = np.bincount(shown, minlength=len(listeners))[candidates]
    share = np.bincount(tenths(listeners, candidates)[shown], minlength=_TENTHS) / max(len(shown), 1)
    heard = listeners[shown]
    return {
        "median_listeners": float(np.median(heard)),
        "mean_listeners": float(heard.mean()),
        "gini": gini(counts),
        "coverage": float((counts > 0).mean()),
        "tenths": share.tolist(),
    }
