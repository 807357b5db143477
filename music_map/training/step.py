"""The training step: one propagation, all losses, one update; many steps per dispatch."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from music_map.axis import ONE, Axis
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
    """All that a step is compiled for; hashable.

    Attributes:
      model, loss, optimizer: what is trained, and how.
      batch_size: B, of all devices together; it need not be a multiple of their number.
      axis: the devices.
    """

    model: ModelSettings
    loss: LossSettings
    optimizer: OptimizerSettings
    batch_size: int
    axis: Axis = ONE


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


class _Rows(NamedTuple):
    """Embeddings of a batch on this device.

    Attributes:
      users: [B, d] each, of each array of users asked for.
      items: [B, d] each, likewise.
      shared: [N, d], of the songs that all rows share; None without.
      users0, items0: [B, d] each, of the same arrays: rows of e^(0).
      item_all: [I, d], all songs of this device, or None where only the batch's were encoded.
    """

    users: list[jax.Array]
    items: list[jax.Array]
    shared: jax.Array | None
    users0: list[jax.Array]
    items0: list[jax.Array]
    item_all: jax.Array | None


def _encode(
    params: Params,
    inputs: Inputs,
    dropout_key: jax.Array,
    settings: StepSettings,
    *,
    users: list[jax.Array],
    items: list[jax.Array],
    shared: jax.Array | None,
    whole: bool,
) -> _Rows:
    """Encodes a batch; `whole`: with all songs. Nodes are given as slots where rows are partitioned."""
    axis, model = settings.axis, settings.model
    if whole or axis.sharded:
        user_all, item_all, (user0, item0) = lightgcn.apply(params, inputs, model, dropout_key, axis)
        return _Rows(
            *([axis.take_mine(x, at) for at in ats] for x, ats in ((user_all, users), (item_all, items))),
            None if shared is None else axis.take(item_all, shared),
            *([axis.take_mine(x, at) for at in ats] for x, ats in ((user0, users), (item0, items))),
            item_all,
        )
    my_users, my_items = [axis.mine(at) for at in users], [axis.mine(at) for at in items]
    user, item, (user0, item0) = lightgcn.apply_rows(
        params,
        inputs,
        model,
        jnp.concatenate(my_users),
        jnp.concatenate(my_items if shared is None else [*my_items, shared]),
        dropout_key,
    )
    size = my_users[0].shape[0]

    def parts(x: jax.Array, ats: list[jax.Array]) -> list[jax.Array]:
        return [x[b * size : (b + 1) * size] for b in range(len(ats))]

    shared_rows = None if shared is None else item[len(items) * size :]
    return _Rows(parts(user, users), parts(item, items), shared_rows, parts(user0, users), parts(item0, items), None)


def batch_loss(
    params: Params, inputs: Inputs, data: SampleData, key: jax.Array, settings: StepSettings
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Draws a batch and gives its loss and the parts of it. Returns float [] and float [] each.

    On several devices each gives its rows' share: the loss is the sum over the devices.
    """
    positive_key, negative_key, dislike_key, dropout_key = jax.random.split(key, 4)
    loss, axis, layout, edges = settings.loss, settings.axis, inputs.layout, inputs.adjacency.users_from_items.forward
    num_items, size = data.item_probability.shape[0], settings.batch_size

    def user_at(users: jax.Array) -> jax.Array:
        return users if layout is None else layout.user_slot[users]

    def item_at(items: jax.Array) -> jax.Array:
        return items if layout is None else layout.item_slot[items]

    # Every device draws the whole batch, which is a few integers a row, and scores its own rows of it. All is drawn
    # before anything is encoded: the last layer needs only what a batch asks for.
    users, items = sampling.draw_positives(positive_key, edges, data.positives, size, layout, axis)
    all_users, all_items, songs, log_q = [user_at(users)], [item_at(items)], None, None
    if loss.name == "bpr":
        unheard = sampling.draw_unobserved(negative_key, edges, users, num_items, layout, axis)
        all_items.append(item_at(unheard))
    elif loss.name != "softmax":
        songs, log_q = sampling.draw_negatives(negative_key, items, data.item_probability, loss)
    has_dislikes = bool(loss.explicit_negative_weight and data.dislikes.user.shape[0])
    if has_dislikes:
        at = jax.random.randint(dislike_key, (size,), 0, data.dislikes.user.shape[0])
        by, of, dislike_weight = data.dislikes.user[at], data.dislikes.item[at], data.dislikes.weight[at]
        all_users.append(user_at(by))
        all_items.append(item_at(of))
    smoothing = loss.popularity_smoothing if loss.name not in ("bpr", "sampled_bpr") else 0.0

    rows = _encode(
        params, inputs, dropout_key, settings, users=all_users, items=all_items,
        shared=None if songs is None else item_at(songs), whole=loss.name == "softmax" or smoothing > 0,
    )  # fmt: skip
    user, item, item_all = rows.users[0], rows.items[0], rows.item_all
    regularised = [rows.users0[0], rows.items0[0]]
    my_items, row_weights = axis.mine(items), axis.row_weights(size)
    positive = jnp.sum(user * item, axis=-1)

    if loss.name == "bpr":
        negative = jnp.sum(user * rows.items[1], axis=-1)
        ranking_loss = ranking.bpr(positive, negative, row_weights=row_weights)
        regularised.append(rows.items0[1])
    elif loss.name == "softmax":
        songs = jnp.arange(num_items, dtype=items.dtype)
        candidates = item_all if layout is None else axis.gather(item_all)[layout.item_slot]
        scores = user @ candidates.T
        if loss.mask_observed:
            others = sampling.observed_block(edges, users, songs, num_items, layout, axis)
            scores = jnp.where(others & (songs[None, :] != my_items[:, None]), -jnp.inf, scores)
        ranking_loss = ranking.softmax(scores, my_items, temperature=loss.temperature, row_weights=row_weights)
    else:
        negative = user @ rows.shared.T
        if loss.mask_observed:  # the positive is one of the user's songs
            where = ~sampling.observed_block(edges, users, songs, num_items, layout, axis)
        else:
            where = songs[None, :] != my_items[:, None]
        if loss.name == "sampled_bpr":
            ranking_loss = ranking.sampled_bpr(
                positive, negative, log_correction=log_q, where=where, row_weights=row_weights
            )
        elif loss.name == "sampled_softmax":
            ranking_loss = ranking.sampled_softmax(
                positive,
                negative,
                log_correction=log_q + jnp.log(songs.shape[0] / (loss.softmax_songs or num_items)),
                where=where,
                temperature=loss.temperature,
                row_weights=row_weights,
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
                row_weights=row_weights,
            )

    if smoothing:
        if layout is None:
            mean_item = data.item_probability @ item_all
        else:
            drawn = data.item_probability.at[inputs.items_here()].get(mode="fill", fill_value=0.0)
            mean_item = axis.sum(drawn @ item_all)
        ranking_loss += smoothing * ranking.popularity_smoothing(
            positive, user @ mean_item, temperature=loss.temperature, row_weights=row_weights
        )

    l2 = ranking.l2(*regularised, row_weights=row_weights)
    parts = {"ranking_loss": ranking_loss, "explicit_negative_loss": jnp.zeros(()), "l2": l2}
    total = ranking_loss + loss.l2 * l2
    if has_dislikes:
        scores = jnp.sum(rows.users[-1] * rows.items[-1], axis=-1)
        my_weight = axis.mine(dislike_weight)
        parts["explicit_negative_loss"] = ranking.explicit_negative(
            scores,
            my_weight if row_weights is None else jnp.where(row_weights > 0, my_weight, 0.0),
            margin=loss.explicit_negative_margin,
            temperature=loss.temperature,
            total_weight=jnp.sum(dislike_weight),
        )
        total += loss.explicit_negative_weight * parts["explicit_negative_loss"]
    return total, parts


def train_step(state: TrainState, inputs: Inputs, data: SampleData, settings: StepSettings) -> TrainState:
    """One update; sums of MEASURES go to `state.window`."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    axis = settings.axis
    (loss, parts), grads = jax.value_and_grad(batch_loss, has_aux=True)(state.params, inputs, data, key, settings)
    (loss, parts), grads = axis.sum((loss, parts)), axis.reduce_gradients(grads)
    updates, opt_state = make_optimizer(settings.optimizer, norm=axis.norm).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    measured = parts | {
        "loss": loss,
        "grad_norm": axis.norm(grads),
        "param_norm": axis.norm(params),
        "update_norm": axis.norm(updates),
        "count": 1.0,
    }
    window = {name: total + measured[name] for name, total in state.window.items()}
    return TrainState(state.step + 1, params, opt_state, state.key, window)


def run_steps(
    state: TrainState, inputs: Inputs, data: SampleData, num_steps: jax.Array, *, settings: StepSettings
) -> tuple[TrainState, jax.Array]:
    """Runs `num_steps` steps in one program; the number is data, so any number runs the same program.

    Args:
      state: where to start.
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


# The state is donated.
train_steps = jax.jit(run_steps, static_argnames="settings", donate_argnums=0)


def rate_at(settings: OptimizerSettings, step: int) -> float:
    """The learning rate that the given step uses."""
    return float(learning_rate(settings)(step))
