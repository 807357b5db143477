"""Fitting the head: a softmax over songs, convex in the head's weights.

For user u with targets T in a window and s the score,

    loss_u = -1/|T| sum_{t in T} log(exp s_t / sum_i exp s_i),    loss = sum_u loss_u + strength/2 ||w - w_0||^2

with w the weights of features scaled to unit deviation and w_0 the weights of the encoder's score alone. With few users
the regularization keeps w near w_0. The sum over all songs is estimated: songs that are likely to matter (targets,
familiar songs, the first songs of each feature) are summed exactly, and uniform samples of the others are weighted to
stand for all others.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from music_map.evaluation.protocols import RankingTask
from music_map.evaluation.ranking import best_songs, mask_indices
from music_map.recency.history import FAMILIARITY
from music_map.recency.scores import FEATURES, BlockFeatures, RecencyScorer, Weights
from music_map.recency.settings import RecencySettings
from music_map.reporter import Progress, silent


class Examples(NamedTuple):
    """N users with up to C songs each.

    Attributes:
      features: float32 [N, C, F], see scores.FEATURES.
      log_weight: float32 [N, C], log of the number of songs that the song stands for; -inf for padding.
      target: float32 [N, C], 1 / |T| for targets, else 0.
    """

    features: np.ndarray
    log_weight: np.ndarray
    target: np.ndarray


def gather(
    task: RankingTask, scorer: RecencyScorer, settings: RecencySettings, *, seed: int, progress: Progress = silent
) -> Examples:
    """Examples of one window: the task's targets and candidates, with features as of the moment before the window.

    Args:
      task: of the window.
      scorer: as of the last moment before the window, with an encoder that has seen no event of the window. Its weights
        are not used.
      settings: the numbers of users and songs to draw.
      seed: of all draws.
      progress: reports users.
    """
    rng = np.random.default_rng(seed)
    chosen = np.arange(len(task.users))
    if len(chosen) > settings.num_users:
        chosen = np.sort(rng.choice(chosen, settings.num_users, replace=False))
    trend = scorer.moment.trend(scorer.now)
    heads = np.argsort(-np.where(task.candidates[:, None], trend, -np.inf), axis=0, kind="stable")
    popular = np.unique(heads[: settings.num_top])
    top, allowed = min(settings.num_top, scorer.num_items), jnp.asarray(task.candidates)
    block = max(1, scorer.block_size // 2)
    parts = []
    with progress("recency", len(chosen), "user") as advance:
        for start in range(0, len(chosen), block):
            picked = chosen[start : start + block]
            # The last block is padded: one shape needs one compilation.
            filled = np.append(picked, np.full(block - len(picked), picked[0]))
            withheld = task.masked.select(filled)
            features = scorer.features(task.users[filled])
            best = np.asarray(
                _best(features.on_device, allowed, *mask_indices(withheld, 0, block, out_of_range=block), k=top)
            )
            drawn = [
                _draw(task, features, best[:, at], at, int(user), popular, settings, rng)
                for at, user in enumerate(picked)
            ]
            songs = np.full((block, _room(max(len(part[0]) for part in drawn))), -1, np.int32)
            for at, part in enumerate(drawn):
                songs[at, : len(part[0])] = part[0]
            values = features.at(songs)
            parts += [(values[at, : len(part[0])], *part[1:]) for at, part in enumerate(drawn)]
            advance(len(picked))
    return _stack(parts)


@functools.partial(jax.jit, static_argnames="k")
def _best(features: jax.Array, allowed: jax.Array, rows: jax.Array, items: jax.Array, *, k: int) -> jax.Array:
    """For each feature and user, the songs of largest value: int32 [F, B, k] from [F, B, I]."""
    return jax.lax.map(lambda scores: best_songs(scores, allowed, rows, items, k=k)[0], features)


def _room(length: int) -> int:
    """The next multiple of 256: few shapes to compile for."""
    return max(1, -(-length // 256)) * 256


def _draw(
    task: RankingTask,
    features: BlockFeatures,
    best: np.ndarray,
    at: int,
    user: int,
    popular: np.ndarray,
    settings: RecencySettings,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Songs int [C], log weights [C] and targets [C] of one user, the `at`-th of the block.

    Args:
      best: int32 [F, k], the first songs of each feature that the device computes.
    """
    targets = task.targets.items[task.targets.offsets[user] : task.targets.offsets[user + 1]]
    targets = targets[task.candidates[targets]]
    if len(targets) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32)
    if len(targets) > settings.max_targets:
        targets = rng.choice(targets, settings.max_targets, replace=False)
    allowed = task.candidates.copy()
    allowed[task.masked.items[task.masked.offsets[user] : task.masked.offsets[user + 1]]] = False
    lists = features.lists
    mine = slice(*lists.offsets[at : at + 2])
    met, known = lists.items[mine], lists.features[mine, FAMILIARITY.index("activation^0.5")]
    found = [targets, met[np.argsort(-known, kind="stable")[: settings.num_familiar]], popular, best[best >= 0]]
    for songs, values in features.of_names(at):
        there = allowed[songs]
        songs, values = songs[there], values[there]
        found.append(songs[np.argsort(-values, kind="stable")[: settings.num_top]])
    sure = np.unique(np.concatenate(found))
    sure = sure[allowed[sure]]
    is_other = allowed
    is_other[sure] = False
    others = np.flatnonzero(is_other)
    sample = others if len(others) <= settings.num_random else rng.choice(others, settings.num_random, replace=False)
    songs = np.concatenate([sure, sample])
    stands_for = np.log(max(len(others), 1) / max(len(sample), 1))
    weight = np.concatenate([np.zeros(len(sure)), np.full(len(sample), stands_for)])
    return songs, weight.astype(np.float32), np.isin(songs, targets) / np.float32(len(targets))


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
    """The weights that minimize the loss.

    Args:
      examples: of all windows.
      strength: of the regularization.
      prior: w_0, the weights that the regularization pulls towards; 0 for features without an entry.
      used: features that may have a weight; the others get 0.

    Returns:
      weight by feature.
    """
    there = np.isfinite(examples.log_weight)
    columns = [FEATURES.index(name) for name in used]
    x = examples.features[:, :, columns]
    deviation = np.maximum(x[there].std(axis=0, dtype=np.float64), 1e-6)
    start = np.array([prior.get(name, 0.0) for name in used]) * deviation
    arrays = x / deviation.astype(np.float32), examples.log_weight, examples.target, start.astype(np.float32)
    given = [jnp.asarray(array) for array in arrays]

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = _value_and_grad(jnp.asarray(w, jnp.float32), *given, np.float32(strength))
        return float(value), np.asarray(grad, np.float64)

    from scipy.optimize import minimize  # takes a third of a second

    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    weights = dict.fromkeys(FEATURES, 0.0)
    weights |= dict(zip(used, (found.x / deviation).tolist(), strict=True))
    return weights


@jax.jit
@jax.value_and_grad
def _value_and_grad(
    w: jax.Array, x: jax.Array, log_weight: jax.Array, target: jax.Array, origin: jax.Array, strength: jax.Array
) -> jax.Array:
    """The loss, and its gradient, of weights w [F] for features x [N, C, F] scaled to unit deviation."""
    score = x @ w
    total = jax.scipy.special.logsumexp(score + log_weight, axis=1)
    nll = total - jnp.sum(target * score, axis=1)
    return jnp.sum(nll) + 0.5 * strength * jnp.sum((w - origin) ** 2)
