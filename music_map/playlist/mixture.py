"""Chooses on sessions of past windows how much songs listened to together count, and what a playlist of one taste is.

    score(j) = q . z_j + together * sum_i a_i C_ij

with q and the attention a of the fitted heads and C counted before the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from music_map.playlist.attention import attend
from music_map.playlist.companions import Companions
from music_map.playlist.fit import Examples, ndcg_of
from music_map.playlist.heads import Heads, Mixture
from music_map.playlist.space import embed
from music_map.playlist.tastes import cohesion
from music_map.topk import top_k

# Weights that are tried, and the one that stays if sessions are too few to tell: it does well on the validation splits
# of generated logs, MovieLens and 30Music (docs/lab-notes.md).
WEIGHTS, DEFAULT = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0), 2.0
_AT, _BLOCK = 20, 256


def fit_mixture(
    heads: Heads, windows: Sequence[tuple[Examples, Companions | None]], *, mixed_share: float, seed: int = 0
) -> Mixture:
    """The mixture of heads that are fitted.

    The weight is chosen on each half of the examples by NDCG@20 and measured on the other; it stays DEFAULT unless the
    gain over that is more than a standard error.

    Args:
      heads: see `music_map.playlist.fit.fit_heads`.
      windows: at least one; companions are those before the window, None where they are not used.
      mixed_share: the share of sessions whose cohesion is below the bound.
      seed: of the halves.
    """
    found, cohesions = [], []
    for examples, companions in windows:
        placed = np.asarray(embed(jnp.asarray(examples.items), examples.moments, heads.space))
        rows = placed[examples.songs]
        queries, weights = map(
            np.asarray, _attend(rows, examples.where, examples.popularity[examples.songs], heads.ordered)
        )
        if companions is not None:
            found.append(_ndcg(examples, placed, queries, weights, companions))
        there = examples.target_weight > 0
        cohesions += [
            cohesion(placed[np.concatenate([songs[own], examples.candidates[targets[of]]])])
            for songs, own, targets, of in zip(examples.songs, examples.where, examples.targets, there, strict=True)
        ]
    together = _chosen(np.concatenate(found), seed) if found else 0.0
    least = np.quantile(cohesions, mixed_share) if mixed_share > 0 else -1.0
    return Mixture(np.float32(together), np.float32(least))


def _ndcg(
    examples: Examples, placed: np.ndarray, queries: np.ndarray, weights: np.ndarray, companions: Companions
) -> np.ndarray:
    """NDCG@20 of each example with each of WEIGHTS: float64 [N, W]."""
    matrix, found = companions.matrix[:, examples.candidates], []
    candidates = placed[examples.candidates].T
    for start in range(0, len(queries), _BLOCK):
        # The last block begins earlier where it would be shorter: one shape, one program.
        first = max(min(start, len(queries) - _BLOCK), 0)
        rows = slice(first, first + _BLOCK)
        songs, own = examples.songs[rows], examples.where[rows]
        ends = np.concatenate([[0], np.cumsum(own.sum(axis=1))])
        attention = sparse.csr_array((weights[rows][own], songs[own], ends), (len(songs), matrix.shape[0]))
        score = np.where(examples.own[rows], -np.inf, queries[rows] @ candidates)
        plus = (attention @ matrix).toarray()
        part = examples._replace(targets=examples.targets[rows], target_weight=examples.target_weight[rows])
        values = [ndcg_of(part, *_best(score, plus, np.float32(weight), part.targets)) for weight in WEIGHTS]
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


def _chosen(ndcg: np.ndarray, seed: int) -> float:
    gain = ndcg - ndcg[:, [WEIGHTS.index(DEFAULT)]]
    half = np.random.default_rng(seed).permutation(len(gain)) % 2 == 0
    if half.all() or not half.any():
        return DEFAULT
    other = np.concatenate([gain[part, np.argmax(gain[~part].mean(axis=0))] for part in (half, ~half)])
    better = other.mean() > other.std() / np.sqrt(len(other))
    return WEIGHTS[int(np.argmax(gain.mean(axis=0)))] if better else DEFAULT
