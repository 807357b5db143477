"""The training step: one propagation, all losses, one update; many steps per dispatch."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from music_map.losses import ranking
from music_map.losses.settings import LossSettings
from music_map.model import lightgcn
from music_map.model.lightgcn import Inputs, ModelSettings, Params
from music_map.training import sampling
from music_map.training.optimizer import OptimizerSettings, learning_rate, make_optimizer
from music_map.training.sampling import SampleData

# Measured at every step and averaged between two log lines.
MEASURES = ("loss", "ranking_loss", "explicit_negative_loss", "l2", "grad_norm", "param_norm", "update_norm")


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """All that a step is compiled for; hashable."""

    model: ModelSettings
    loss: LossSettings
    optimizer: OptimizerSettings
    batch_size: int


class TrainState(NamedTuple):
    """What a checkpoint holds: everything the next step depends on.

    Attributes:
      step: int32 [], steps done.
      params: parameters.
      opt_state: optimizer state.
      key: random key of the run; step s uses fold_in(key, s).
      window: sums of MEASURES since the last log line, float32 [] each, and "count".
    """

    step: jax.Array
    params: Params
    opt_state: Any
    key: jax.Array
    window: dict[str, jax.Array]


def empty_window() -> dict[str, jax.Array]:
    """The sums right after a log line."""
    return {name: jnp.zeros((), jnp.float32) for name in (*MEASURES, "count")}


def create_state(settings: StepSettings, inputs: Inputs, *, seed: int) -> TrainState:
    """The state before the first step, a function of the seed."""
    init_key, key = jax.random.split(jax.random.key(seed))
    adjacency = inputs.adjacency
    params = lightgcn.init(
        init_key,
        settings.model,
        num_users=adjacency.user_degree.shape[0],
        num_items=adjacency.item_degree.shape[0],
        inputs=inputs,
    )
    opt_state = make_optimizer(settings.optimizer).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, jax.random.key_data(key), empty_window())


def batch_loss(
    params: Params, inputs: Inputs, data: SampleData, key: jax.Array, settings: StepSettings
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Draws a batch and gives its loss and the parts of it. Returns float [] and float [] each."""
    positive_key, negative_key, dislike_key, dropout_key = jax.random.split(key, 4)
    loss, edges = settings.loss, inputs.adjacency.users_from_items.forward
    num_items = data.item_probability.shape[0]
    users, items = sampling.draw_positives(positive_key, edges, data.positives, settings.batch_size)
    user_all, item_all, (user0, item0) = lightgcn.apply(params, inputs, settings.model, dropout_key)
    user, item = user_all[users], item_all[items]
    positive = jnp.sum(user * item, axis=-1)
    regularised = [user0[users], item0[items]]

    if loss.name == "bpr":
        unheard = sampling.draw_unobserved(negative_key, edges, users, num_items)
        ranking_loss = ranking.bpr(positive, jnp.sum(user * item_all[unheard], axis=-1))
        regularised.append(item0[unheard])
    elif loss.name == "softmax":
        scores = user @ item_all.T
        if loss.mask_observed:
            songs = jnp.arange(num_items, dtype=items.dtype)
            others = sampling.observed_block(edges, users, songs, num_items) & (songs[None, :] != items[:, None])
            scores = jnp.where(others, -jnp.inf, scores)
        ranking_loss = ranking.softmax(scores, items, temperature=loss.temperature)
    else:
        songs, log_q = sampling.draw_negatives(negative_key, items, data.item_probability, loss)
        negative = user @ item_all[songs].T
        if loss.mask_observed:  # the positive is one of the user's songs
            where = ~sampling.observed_block(edges, users, songs, num_items)
        else:
            where = songs[None, :] != items[:, None]
        if loss.name == "sampled_bpr":
            ranking_loss = ranking.sampled_bpr(positive, negative, log_correction=log_q, where=where)
        elif loss.name == "sampled_softmax":
            ranking_loss = ranking.sampled_softmax(
                positive,
                negative,
                log_correction=log_q + jnp.log(songs.shape[0] / num_items),
                where=where,
                temperature=loss.temperature,
            )
        else:
            ranking_loss = ranking.debiased_contrastive(
                positive,
                negative,
                log_correction=log_q,
                where=where,
                temperature=loss.temperature,
                positive_prior=loss.positive_prior,
                num_negatives=songs.shape[0],
            )

    if loss.popularity_smoothing and loss.name not in ("bpr", "sampled_bpr"):
        expected = user @ (data.item_probability @ item_all)
        ranking_loss += loss.popularity_smoothing * ranking.popularity_smoothing(
            positive, expected, temperature=loss.temperature
        )

    parts = {"ranking_loss": ranking_loss, "explicit_negative_loss": jnp.zeros(()), "l2": ranking.l2(*regularised)}
    total = ranking_loss + loss.l2 * parts["l2"]
    if loss.explicit_negative_weight and data.dislikes.user.shape[0]:
        at = jax.random.randint(dislike_key, (settings.batch_size,), 0, data.dislikes.user.shape[0])
        scores = jnp.sum(user_all[data.dislikes.user[at]] * item_all[data.dislikes.item[at]], axis=-1)
        parts["explicit_negative_loss"] = ranking.explicit_negative(
            scores, data.dislikes.weight[at], margin=loss.explicit_negative_margin, temperature=loss.temperature
        )
        total += loss.explicit_negative_weight * parts["explicit_negative_loss"]
    return total, parts


def train_step(state: TrainState, inputs: Inputs, data: SampleData, settings: StepSettings) -> TrainState:
    """One update; sums of MEASURES go to `state.window`."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    (loss, parts), grads = jax.value_and_grad(batch_loss, has_aux=True)(state.params, inputs, data, key, settings)
    updates, opt_state = make_optimizer(settings.optimizer).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    measured = parts | {
        "loss": loss,
        "grad_norm": optax.tree.norm(grads),
        "param_norm": optax.tree.norm(params),
        "update_norm": optax.tree.norm(updates),
        "count": 1.0,
    }
    window = {name: total + measured[name] for name, total in state.window.items()}
    return TrainState(state.step + 1, params, opt_state, state.key, window)


@functools.partial(jax.jit, static_argnames="settings", donate_argnums=0)
def train_steps(
    state: TrainState, inputs: Inputs, data: SampleData, num_steps: jax.Array, *, settings: StepSettings
) -> tuple[TrainState, jax.Array]:
    """Runs `num_steps` steps in one dispatch; the number is data, so any number runs the same program.

    Args:
      state: donated.
      inputs, data: graph, features, sampling tables.
      num_steps: int32 [].
      settings: static.

    Returns:
      The new state, and bool []: whether loss and gradients stayed finite. The loop ends at the first step that is
      not finite, and `state.step` is then the number of steps up to and with it.
    """
    last = state.step + num_steps

    def running(carry: tuple[TrainState, jax.Array]) -> jax.Array:
        state, finite = carry
        return (state.step < last) & finite

    def advance(carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state = train_step(carry[0], inputs, data, settings)
        # A sum with one NaN or infinity is not finite.
        return state, jnp.isfinite(state.window["loss"]) & jnp.isfinite(state.window["grad_norm"])

    return jax.lax.while_loop(running, advance, (state, jnp.array(True)))


def rate_at(settings: OptimizerSettings, step: int) -> float:
    """The learning rate that the given step uses."""
    return float(learning_rate(settings)(step))
