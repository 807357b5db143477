"""Chooses on sessions of past windows how much counts beside the attention, and what a playlist of one taste is.

    score(j) = q' . z_j + together * sum_i a_i C_ij

with q' the query q of the fitted heads turned to where sessions go on, see `music_map.playlist.onward`, and a their
attention. The maps of q' and C are of sessions before the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from music_map.evaluation.playlist import Sessions
from music_map.playlist.attention import attend
from music_map.playlist.companions import Companions
from music_map.playlist.fit import Examples, ndcg_of
from music_map.playlist.heads import Heads, Mixture
from music_map.playlist.onward import Onward, go_on, onward_of
from music_map.playlist.space import embed
from music_map.playlist.tastes import cohesion
from music_map.topk import top_k

# Weights that are tried, and the one that stays if sessions are too few to tell: it does well on the validation splits
# of generated logs, MovieLens and 30Music (docs/lab-notes.md).
WEIGHTS, DEFAULT = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0), 2.0
# The same of where sessions go on.
STRENGTHS, NO_STRENGTH = (0.0, 0.5, 1.0, 2.0, 4.0), 0.0
_AT, _BLOCK = 20, 256


class Evidence(NamedTuple):
    """Of one window.

    Attributes:
      examples: sessions cut at random.
      companions: of the sessions before the window; None: they are not used.
      before: the sessions before the window; None: where they go on is not used.
      first: sessions cut after one song, and the session of each example, int [N]; see `examples_at`.
      later: the same, cut after each of the protocol's larger numbers of songs: long sessions are few, so all measure.
    """

    examples: Examples
    companions: Companions | None = None
    before: Sessions | None = None
    first: tuple[Examples, np.ndarray] | None = None
    later: tuple[Examples, np.ndarray] | None = None


class _Queries(NamedTuple):
    """Of examples: the songs in their space, queries float32 [N, d] and attention float32 [N, n]."""

    examples: Examples
    placed: np.ndarray
    queries: np.ndarray
    weights: np.ndarray

    def turned(self, onward: Onward, strength: float) -> np.ndarray:
        """The queries turned to where sessions go on."""
        where = self.examples.where
        totals = np.where(where[..., None], self.placed[self.examples.songs], 0.0).sum(axis=1)
        return go_on(self.queries, totals, where.sum(axis=1), onward, (strength, strength))


def fit_mixture(heads: Heads, windows: Sequence[Evidence], *, mixed_share: float, seed: int = 0) -> Mixture:
    """The mixture of heads that are fitted.

    First the strengths of where sessions go on, with the weight DEFAULT, then the weight. Each is chosen on each half
    of the sessions by NDCG@20 and measured on the other; 0, and DEFAULT, stay unless the gain over them is more than a
    standard error.

    Args:
      heads: see `music_map.playlist.fit.fit_heads`.
      windows: at least one.
      mixed_share: the share of sessions whose cohesion is below the bound.
      seed: of the halves.
    """
    placed = [np.asarray(embed(jnp.asarray(w.examples.items), w.examples.moments, heads.space)) for w in windows]
    maps = [
        None if w.before is None else onward_of(w.before, z, seed=seed) for w, z in zip(windows, placed, strict=True)
    ]
    strengths = []
    for cut in ("first", "later"):
        found = []
        for window, z, to in zip(windows, placed, maps, strict=True):
            if to is not None and getattr(window, cut) is not None:
                examples, session = getattr(window, cut)
                made = _queries(heads, examples, z)
                tried = [made.queries, *(made.turned(to, strength) for strength in STRENGTHS[1:])]
                measured = _ndcg(made, window.companions, [(queries, DEFAULT) for queries in tried])
                of, count = np.unique(session, return_inverse=True, return_counts=True)[1:]
                # Cuts of a session are no independent samples: each session counts once, by its mean.
                found.append(np.stack([np.bincount(of, column) / count for column in measured.T], axis=1))
        strengths.append(_chosen(np.concatenate(found), STRENGTHS, NO_STRENGTH, seed) if found else NO_STRENGTH)
    one, several = strengths
    found, cohesions = [], []
    for window, z, to in zip(windows, placed, maps, strict=True):
        made, examples = _queries(heads, window.examples, z), window.examples
        queries = made.queries if to is None or several == 0 else made.turned(to, several)
        if window.companions is not None:
            found.append(_ndcg(made, window.companions, [(queries, weight) for weight in WEIGHTS]))
        there = examples.target_weight > 0
        cohesions += [
            cohesion(z[np.concatenate([songs[own], examples.candidates[targets[of]]])])
            for songs, own, targets, of in zip(examples.songs, examples.where, examples.targets, there, strict=True)
        ]
    together = _chosen(np.concatenate(found), WEIGHTS, DEFAULT, seed) if found else 0.0
    least = np.quantile(cohesions, mixed_share) if mixed_share > 0 else -1.0
    return Mixture(*map(np.float32, (together, least, one, several)))


def _queries(heads: Heads, examples: Examples, placed: np.ndarray) -> _Queries:
    made = _attend(placed[examples.songs], examples.where, examples.popularity[examples.songs], heads.ordered)
    return _Queries(examples, placed, *map(np.asarray, made))


def _ndcg(made: _Queries, companions: Companions | None, tries: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """NDCG@20 of each example with each of some queries and weights: float64 [N, W]."""
    examples, found = made.examples, []
    candidates = made.placed[examples.candidates].T
    matrix = None if companions is None else companions.matrix[:, examples.candidates]
    for start in range(0, len(examples.songs), _BLOCK):
        # The last block begins earlier where it would be shorter: one shape, one program.
        first = max(min(start, len(examples.songs) - _BLOCK), 0)
        rows = slice(first, first + _BLOCK)
        songs, own = examples.songs[rows], examples.where[rows]
        plus = np.zeros((len(songs), len(examples.candidates)), np.float32)
        if matrix is not None:
            ends = np.concatenate([[0], np.cumsum(own.sum(axis=1))])
            attention = sparse.csr_array((made.weights[rows][own], songs[own], ends), (len(songs), matrix.shape[0]))
            plus = (attention @ matrix).toarray()
        part = examples._replace(targets=examples.targets[rows], target_weight=examples.target_weight[rows])
        values, last = [], None
        for queries, weight in tries:
            if queries is not last:
                score, last = np.where(examples.own[rows], -np.inf, queries[rows] @ candidates), queries
            values.append(ndcg_of(part, *_best(score, plus, np.float32(weight), part.targets)))
        found.append(np.stack(values, axis=1)[start - first :])
    return np.concatenate(found)


_attend = jax.jit(attend)


@jax.jit
def _best(
    score: jax.Array, plus: jax.Array, weight: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """See `music_map.playlist.fit.ndcg_of`."""
    score = score + weight * plus
    return *top_k(score, min(_AT, score.shape[1])), jnp.take_along_axis(score, targets, axis=1)


def _chosen(ndcg: np.ndarray, values: Sequence[float], default: float, seed: int) -> float:
    """The value whose column does best, `default` unless that is sure; see `fit_mixture`."""
    gain = ndcg - ndcg[:, [values.index(default)]]
    half = np.random.default_rng(seed).permutation(len(gain)) % 2 == 0
    if half.all() or not half.any():
        return default
    other = np.concatenate([gain[part, np.argmax(gain[~part].mean(axis=0))] for part in (half, ~half)])
    better = other.mean() > other.std() / np.sqrt(len(other))
    return values[int(np.argmax(gain.mean(axis=0)))] if better else default
