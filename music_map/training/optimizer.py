"""The optimizer and its learning rate, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer: those fields of TrainSettings that a step is compiled for. TrainSettings checks them. Hashable.

    Attributes:
      name: "adam" or "adamw".
      learning_rate: the peak.
      schedule: "constant", or "cosine" down to 0 at `total_steps`.
      warmup_steps: linear from 0 to the peak over the first steps.
      weight_decay: the weight decay of AdamW.
      clip_norm: gradients are scaled to this global norm at most; 0 switches it off.
      total_steps: length of the schedule.
    """

    name: str
    learning_rate: float
    schedule: str
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    total_steps: int


def learning_rate(settings: OptimizerSettings) -> optax.Schedule:
    """The schedule: step -> learning rate."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if settings.schedule == "constant":
        after = optax.constant_schedule(peak)
    else:
        after = optax.cosine_decay_schedule(peak, max(settings.total_steps - warmup, 1))
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def _clip(most: float, norm: Callable[[Any], jax.Array]) -> optax.GradientTransformation:
    """optax.clip_by_global_norm with a given norm: optax's own would see one device's rows only."""

    def scaled(updates: Any, params: Any) -> Any:
        del params
        factor = jnp.minimum(1.0, most / jnp.maximum(norm(updates), jnp.finfo(jnp.float32).tiny))
        return jax.tree.map(lambda g: g * factor, updates)

    return optax.stateless(scaled)


def make_optimizer(
    settings: OptimizerSettings, *, norm: Callable[[Any], jax.Array] = optax.tree.norm
) -> optax.GradientTransformation:
    """Clipping, then Adam or AdamW with the schedule.

    Args:
      settings: the optimizer and its learning rate.
      norm: computes the L2 norm of all gradients, also of those on other devices.
    """
    rate = learning_rate(settings)
    update = optax.adam(rate) if settings.name == "adam" else optax.adamw(rate, weight_decay=settings.weight_decay)
    return optax.chain(_clip(settings.clip_norm, norm), update) if settings.clip_norm else update
