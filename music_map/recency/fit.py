"""Fitting the head: a softmax over songs, convex in the head's weights.

For user u with targets T in a window and s the score,

    loss_u = -1/|T| sum_{t in T} log(exp s_t / sum_i exp s_i),    loss = sum_u loss_u + strength/2 ||w - w_0||^2

with w the weights of features of unit deviation and w_0 what the encoder alone would score: few users fit little. The
sum over all songs is that over the songs likely to matter (targets, familiar songs, the first of each feature) plus
that over uniform samples of the others, weighted to stand for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from music_map.evaluation.protocols import RankingTask
from music_map.recency.history import FAMILIARITY
from music_map.recency.moment import Moment
from music_map.recency.scores import DENSE, FEATURES, Embeddings, Weights, dense_features
from music_map.recency.settings import RecencySettings


class Examples(NamedTuple):
    """N users with up to C songs each.

    Attributes:
      features: float32 [N, C, F], see scores.FEATURES.
      log_weight: float32 [N, C], log of how many songs the song stands for; -inf where there is none.
      target: float32 [N, C], 1 / |T| for targets, else 0.
    """

    features: np.ndarray
    log_weight: np.ndarray
    target: np.ndarray


def gather(
    task: RankingTask, moment: Moment, embeddings: Embeddings, settings: RecencySettings, *, seed: int
) -> Examples:
    """Examples of one window: the task's targets and candidates, with features as of the moment before it.

    Args:
      task: of the window; its users are the moment's.
      moment: the last one before the window.
      embeddings: of an encoder that knows no event of the window.
      settings: how many users and songs are drawn.
      seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    chosen = np.arange(len(task.users))
    if len(chosen) > settings.num_users:
        chosen = np.sort(rng.choice(chosen, settings.num_users, replace=False))
    candidates = task.candidates.copy()
    heads = np.argsort(-np.where(candidates[:, None], moment.trend, -np.inf), axis=0, kind="stable")
    popular = np.unique(heads[: settings.num_top])
    block = max(1, 2**24 // (candidates.size * len(DENSE)))
    parts = []
    for start in range(0, len(chosen), block):
        picked = chosen[start : start + block]
        rows = moment.rows(task.users[picked])
        dense = dense_features(moment, embeddings, rows)
        for at, (user, row) in enumerate(zip(picked, rows, strict=True)):
            parts.append(_example(task, moment, dense[:, at], int(user), int(row), candidates, popular, settings, rng))
    return _stack(parts)


def _example(
    task: RankingTask,
    moment: Moment,
    dense: np.ndarray,
    user: int,
    row: int,
    candidates: np.ndarray,
    popular: np.ndarray,
    settings: RecencySettings,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [C, F], log weights [C] and targets [C] of one user."""
    targets = task.targets.items[task.targets.offsets[user] : task.targets.offsets[user + 1]]
    targets = targets[candidates[targets]]
    if len(targets) == 0:
        return np.zeros((0, len(FEATURES)), np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32)
    if len(targets) > settings.max_targets:
        targets = rng.choice(targets, settings.max_targets, replace=False)
    allowed = candidates.copy()
    allowed[task.masked.items[task.masked.offsets[user] : task.masked.offsets[user + 1]]] = False
    low, high = moment.familiar.offsets[row : row + 2]
    met = moment.familiar.items[low:high]
    known = moment.familiar.features[low:high]
    best = np.argsort(-known[:, FAMILIARITY.index("activation^0.5")], kind="stable")[: settings.num_familiar]
    masked = np.where(allowed, dense, -np.inf)
    top = min(settings.num_top, dense.shape[1] - 1)
    first = np.argpartition(-masked, top, axis=1)[:, :top]
    sure = np.unique(np.concatenate([targets, met[best], popular, first.ravel()]))
    sure = sure[allowed[sure]]
    others = np.flatnonzero(allowed)
    others = others[~np.isin(others, sure, assume_unique=True)]
    sample = others if len(others) <= settings.num_random else rng.choice(others, settings.num_random, replace=False)
    songs = np.concatenate([sure, sample])
    weight = np.concatenate(
        [np.zeros(len(sure)), np.full(len(sample), np.log(max(len(others), 1) / max(len(sample), 1)))]
    )
    familiar = np.zeros((len(songs), len(FAMILIARITY)), np.float32)
    at = np.minimum(np.searchsorted(met, songs), max(len(met) - 1, 0))
    if len(met):
        is_met = met[at] == songs
        familiar[is_met] = known[at[is_met]]
    features = np.concatenate([dense[:, songs].T, moment.trend[songs], familiar], axis=1)
    return features.astype(np.float32), weight.astype(np.float32), np.isin(songs, targets) / np.float32(len(targets))


def _stack(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Examples:
    parts = [part for part in parts if len(part[1])]
    width = max((len(part[1]) for part in parts), default=0)
    examples = Examples(
        np.zeros((len(parts), width, len(FEATURES)), np.float32),
        np.full((len(parts), width), -np.inf, np.float32),
        np.zeros((len(parts), width), np.float32),
    )
    for at, part in enumerate(parts):
        for column, values in zip(examples, part, strict=True):
            column[at, : len(values)] = values
    return examples


def join(examples: Sequence[Examples]) -> Examples:
    """The examples of several windows as one."""
    return _stack([part for window in examples for part in zip(*window, strict=True)])


def fit_head(
    examples: Examples, *, strength: float, prior: Weights, used: Sequence[str] = FEATURES
) -> dict[str, float]:
    """The weights of least loss.

    Args:
      examples: of all windows.
      strength: of the regularization.
      prior: weights that it draws to; 0 where a feature is not named.
      used: features that may have a weight; the others get 0.

    Returns:
      weight by feature.
    """
    there = np.isfinite(examples.log_weight)
    columns = [FEATURES.index(name) for name in used]
    x = examples.features[:, :, columns]
    deviation = np.maximum(x[there].std(axis=0, dtype=np.float64), 1e-6)
    scaled = jnp.asarray(x / deviation.astype(np.float32))
    start = np.array([prior.get(name, 0.0) for name in used]) * deviation
    origin = jnp.asarray(start, jnp.float32)
    log_weight, target = jnp.asarray(examples.log_weight), jnp.asarray(examples.target)

    @jax.jit
    def loss(w: jax.Array) -> jax.Array:
        score = scaled @ w
        total = jax.scipy.special.logsumexp(score + log_weight, axis=1)
        nll = total - jnp.sum(target * score, axis=1)
        return jnp.sum(nll) + 0.5 * strength * jnp.sum((w - origin) ** 2)

    value_and_grad = jax.jit(jax.value_and_grad(loss))

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = value_and_grad(jnp.asarray(w, jnp.float32))
        return float(value), np.asarray(grad, np.float64)

    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    weights = dict.fromkeys(FEATURES, 0.0)
    weights |= dict(zip(used, (found.x / deviation).tolist(), strict=True))
    return weights
