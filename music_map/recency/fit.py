"""Fitting the head: a softmax over songs, convex in the head's weights.

For user u with targets T in a window and s the score,

    loss_u = -1/|T| sum_{t in T} log(exp s_t / sum_i exp s_i),    loss = sum_u loss_u + strength/2 ||w - w_0||^2

with w the weights of features scaled to unit deviation and w_0 those of a prior. With few users the regularization
keeps w near w_0, and gives nearly equal features equal shares. The sum over all songs is estimated: songs that are
likely to matter (targets, familiar songs, the first songs of each feature) are summed exactly, and uniform samples of
the others are weighted to stand for all others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from music_map import processes
from music_map.evaluation.protocols import RankingTask
from music_map.evaluation.ranking import mask_indices
from music_map.mesh import own_positions, put_own
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
        are not used. If several processes score together, each gathers the examples of its share of the users.
      settings: the numbers of users and songs to draw.
      seed: of all draws; a user's do not depend on the other users.
      progress: reports users.
    """
    chosen = np.arange(len(task.users))
    if len(chosen) > settings.num_users:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, settings.num_users, replace=False))
    trend = scorer.moment.trend(scorer.now)
    heads = np.argsort(-np.where(task.candidates[:, None], trend, -np.inf), axis=0, kind="stable")
    popular = np.unique(heads[: settings.num_top])
    top, together = min(settings.num_top, scorer.num_items), getattr(scorer, "together", False)
    own, count = range(len(chosen)), len(chosen)
    devices, allowed = 1, jnp.asarray(task.candidates)
    if together:  # each process has its share of the users, and all go through equally many blocks
        own, count = processes.share(len(chosen)), len(processes.share(len(chosen), 0))
        devices, allowed = scorer.num_devices, scorer.allowed(task.candidates)
    block = -(-max(1, scorer.block_size // 2) // devices) * devices
    parts = []
    with progress("recency", count, "user") as advance:
        for start in range(own.start, own.start + count, block):
            picked = chosen[start : min(start + block, own.stop)]
            # The last block is padded: one shape needs one compilation.
            filled = np.append(picked, np.full(block - len(picked), chosen[0]))
            withheld = task.masked.select(filled)
            features = scorer.features(task.users[filled])
            masked = mask_indices(withheld, 0, block, out_of_range=block)
            best = scorer.first_songs(features, allowed, *masked, k=top)
            drawn = [
                _draw(
                    task, features, best[:, at], at, int(user), popular, settings, np.random.default_rng((seed, user))
                )
                for at, user in enumerate(picked)
            ]
            songs = np.full((block, _room(max((len(part[0]) for part in drawn), default=0))), -1, np.int32)
            for at, part in enumerate(drawn):
                songs[at, : len(part[0])] = part[0]
            values = features.at(songs)
            parts += [(values[at, : len(part[0])], *part[1:]) for at, part in enumerate(drawn)]
            advance(min(block, own.start + count - start))
    return _stack(parts)


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


# More plays of a song never lower its score, and the longer ago the last one is, the lower. Without this the counts and
# the age, which say nearly the same, get weights of opposite signs. These cancel on the past windows and do not where
# the log has grown or its pace has changed.
NOT_NEGATIVE = frozenset((*(name for name in FAMILIARITY if name.startswith("activation")), "log_count"))
NOT_POSITIVE = frozenset(("log_age",))
# A feature that hardly varies would get any weight; features are logarithms or shares.
_LEAST_DEVIATION = 1e-2


def fit_head(
    examples: Examples,
    *,
    strength: float,
    prior: Weights,
    used: Sequence[str] = FEATURES,
    mesh: Mesh | None = None,
) -> dict[str, float]:
    """The weights that minimize the loss.

    Args:
      examples: of all windows; of several processes, each its own.
      strength: of the regularization.
      prior: w_0, the weights that the regularization pulls towards; 0 for features without an entry.
      used: features that may have a weight; the others get 0.
      mesh: devices that share the examples, of all processes; None: one device.

    Returns:
      weight by feature.
    """
    there = np.isfinite(examples.log_weight)
    columns = [FEATURES.index(name) for name in used]
    x = examples.features[:, :, columns]
    mean, deviation = _mean_and_deviation(x[there].astype(np.float64))
    deviation = np.maximum(deviation, _LEAST_DEVIATION)
    start = np.array([prior.get(name, 0.0) for name in used]) * deviation
    # The softmax is the same without the means. With them, the squares of a mean far from 0 would leave nothing of the
    # Hessian's float32.
    x = np.where(there[..., None], (x - mean.astype(np.float32)) / deviation.astype(np.float32), np.float32(0))
    arrays = x, examples.log_weight, examples.target
    given = [jnp.asarray(array) for array in arrays] if mesh is None else _over_devices(mesh, *arrays)
    origin = start.astype(np.float32)

    def at(w: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        found = _value_and_derivatives(w.astype(np.float32), *given, origin, np.float32(strength))
        return tuple(np.asarray(x, np.float64) for x in found)

    weights = dict.fromkeys(FEATURES, 0.0)
    least = np.array([0.0 if name in NOT_NEGATIVE else -np.inf for name in used])
    most = np.array([0.0 if name in NOT_POSITIVE else np.inf for name in used])
    weights |= dict(zip(used, (_minimum(at, start, least, most) / deviation).tolist(), strict=True))
    return weights


# Newton's method ends where a step lowers the loss, summed over users, by less than this, or after so many steps.
_TOLERANCE, _MOST_STEPS = 1e-3, 50
_MOST_SWEEPS = 1_000


def _minimum(
    at: Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]],
    w: np.ndarray,
    least: np.ndarray,
    most: np.ndarray,
) -> np.ndarray:
    """The minimum of a strictly convex function over least <= w <= most by Newton's method.

    Args:
      at: gives value, gradient [F] and Hessian [F, F].
      w: float64 [F], the start, within the bounds.
      least, most: float64 [F], infinite where any weight may be.
    """
    value, gradient, hessian = at(w)
    for _ in range(_MOST_STEPS):
        step = w - _least_of_parabola(gradient, hessian, w, least, most)
        gain, share = float(gradient @ step), 1.0
        found = at(w - step)
        # Values have the precision of float32. A shorter step is tried only where the loss clearly does not fall.
        while found[0] > value - 1e-4 * share * gain + 1e-6 * abs(value) and share > 1e-3:
            share /= 2
            found = at(w - share * step)
        w, (value, gradient, hessian) = w - share * step, found
        if gain / 2 < _TOLERANCE:
            break
    return w


def _least_of_parabola(
    gradient: np.ndarray, hessian: np.ndarray, w: np.ndarray, least: np.ndarray, most: np.ndarray
) -> np.ndarray:
    """argmin over least <= x <= most of gradient (x - w) + (x - w) hessian (x - w) / 2, by coordinate descent.

    Weights that end on their bound in the free minimum are few, so the descent starts from it.
    """
    x = np.clip(w - np.linalg.solve(hessian, gradient), least, most)
    slope = gradient + hessian @ (x - w)
    for _ in range(_MOST_SWEEPS):
        largest = 0.0
        for at in range(len(x)):
            change = min(max(x[at] - slope[at] / hessian[at, at], least[at]), most[at]) - x[at]
            x[at] += change
            slope += change * hessian[:, at]
            largest = max(largest, change * change * hessian[at, at])
        if largest < 1e-9:
            break
    return x


def _mean_and_deviation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column of all processes' rows, float64 [F] of [N, F]."""

    def total(values: np.ndarray) -> np.ndarray:
        return processes.sum_of(values.sum(axis=0))

    count = max(float(processes.sum_of(np.float64(len(x)))), 1.0)
    mean = total(x) / count
    return mean, np.sqrt(total((x - mean) ** 2) / count)


def _over_devices(mesh: Mesh, x: np.ndarray, log_weight: np.ndarray, target: np.ndarray) -> list[jax.Array]:
    """Examples cut over devices; padding has the loss log(1) = 0 whatever the weights."""
    own = len(own_positions(mesh))
    rows, width = (processes.largest(n) for n in (-(-len(x) // own), x.shape[1]))
    wide, more = width - x.shape[1], rows * own - len(x)
    log_weight = np.pad(log_weight, ((0, 0), (0, wide)), constant_values=-np.inf)
    rest = np.full((more, width), -np.inf, np.float32)
    rest[:, :1] = 0.0
    arrays = (
        np.pad(x, ((0, more), (0, wide), (0, 0))),
        np.concatenate([log_weight, rest]),
        np.pad(target, ((0, more), (0, wide))),
    )
    return list(put_own(mesh, arrays))


@jax.jit
def _value_and_derivatives(
    w: jax.Array, x: jax.Array, log_weight: jax.Array, target: jax.Array, origin: jax.Array, strength: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The loss, its gradient [F] and its Hessian [F, F] at weights w [F] of features x [N, C, F] of unit deviation.

    With p_u the softmax over the songs and m_u = sum_c p_uc x_uc the expected features of user u,

        gradient = sum_u (m_u - sum_c target_uc x_uc),    Hessian = sum_u (sum_c p_uc x_uc x_uc^T - m_u m_u^T)

    plus those of the regularization.
    """
    exact = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    score = exact("ncf,f->nc", x, w)
    total = jax.scipy.special.logsumexp(score + log_weight, axis=1)
    chosen = jnp.exp(score + log_weight - total[:, None])
    expected = exact("nc,ncf->nf", chosen, x)
    value = jnp.sum(total - jnp.sum(target * score, axis=1)) + 0.5 * strength * jnp.sum((w - origin) ** 2)
    gradient = jnp.sum(expected, axis=0) - exact("nc,ncf->f", target, x) + strength * (w - origin)
    half = x * jnp.sqrt(chosen)[:, :, None]
    hessian = exact("ncf,ncg->fg", half, half) - exact("nf,ng->fg", expected, expected)
    return value, gradient, hessian + strength * jnp.eye(len(w))
