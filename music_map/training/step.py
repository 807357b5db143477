"""The training step: draw a batch, encode, loss, regularise, one update; many steps per dispatch."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from music_map.losses import ranking
from music_map.losses.settings import LOSSES, LossSettings
from music_map.losses.table import Scores
from music_map.model import encoder
from music_map.model.encoder import Embeddings, EncoderInputs, Params
from music_map.model.settings import ModelSettings
from music_map.training.optimizer import OptimizerSettings, learning_rate, make_optimizer
from music_map.training.sampling import Batch, SampleData, draw, observed_block

# Measured at every step and averaged between two log lines.
MEASURES = ("loss", "ranking_loss", "explicit_negative_loss", "l2", "grad_norm", "param_norm", "update_norm")


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """The static settings of a step; hashable.

    Attributes:
      model, loss, optimizer: settings of these three.
      batch_size: B, all devices together; it need not be a multiple of their number.
    """

    model: ModelSettings
    loss: LossSettings
    optimizer: OptimizerSettings
    batch_size: int


@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that the next step depends on; a checkpoint holds this.

    Attributes:
      step: int32 [], steps done.
      params: parameters.
      opt_state: optimizer state.
      key: random key of the run; step s uses fold_in(key, s).
      metric_sums: sums of MEASURES since the last log line, float32 [] each, and "count".
    """

    step: jax.Array
    params: Params
    opt_state: Any
    key: jax.Array
    metric_sums: dict[str, jax.Array]

    def logged(self, empty: dict[str, jax.Array]) -> TrainState:
        """The state right after a log line: the sums start again from `empty`."""
        return dataclasses.replace(self, metric_sums=empty)


# Checkpoints name arrays by these fields.
_STORED_AS = {"step": "step", "params": "params", "opt_state": "opt_state", "key": "key", "metric_sums": "window"}
jax.tree_util.register_pytree_with_keys(
    TrainState,
    lambda s: (tuple((jax.tree_util.GetAttrKey(key), getattr(s, name)) for name, key in _STORED_AS.items()), None),
    lambda _, children: TrainState(*children),
)


def empty_sums() -> dict[str, jax.Array]:
    """The sums right after a log line."""
    return {name: jnp.zeros((), jnp.float32) for name in (*MEASURES, "count")}


def create_state(settings: StepSettings, inputs: EncoderInputs, *, seed: int) -> TrainState:
    """The state before the first step, a function of the seed."""
    init_key, key = jax.random.split(jax.random.key(seed))
    params = encoder.init(init_key, settings.model, inputs)
    opt_state = make_optimizer(settings.optimizer).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, jax.random.key_data(key), empty_sums())


class BatchRows(NamedTuple):
    """Embeddings of this device's share of a batch's rows.

    Attributes:
      user, item: float32 [B, d], of the observed pairs.
      negative: of Batch.negatives: [B, d], [N, d], or [I, d] for all songs.
      disliked: users and songs of the dislikes, [B, d] each; None without dislikes.
      base: [B, d] each: e^(0) of the nodes that the loss scores row by row, for the regularisation.
      mean_item: [d], the expected embedding of a drawn pair's song; None unless popularity smooths the loss.
    """

    user: jax.Array
    item: jax.Array
    negative: jax.Array
    disliked: Embeddings | None
    base: list[jax.Array]
    mean_item: jax.Array | None


def encode_batch(
    params: Params, inputs: EncoderInputs, data: SampleData, batch: Batch, key: jax.Array, settings: StepSettings
) -> BatchRows:
    """Encodes a batch. All nodes are encoded if all songs are wanted or rows are partitioned, else the batch's only."""
    layout, loss = inputs.layout, LOSSES.find(settings.loss.name)
    against, smoothed = loss.negatives, loss.cross_entropy and settings.loss.popularity_smoothing > 0
    users, items = [batch.users], [batch.items]
    if against == "one":
        items.append(batch.negatives)
    if batch.dislikes is not None:
        users.append(batch.dislikes.user)
        items.append(batch.dislikes.item)
    negative = mean_item = None
    if against == "all" or smoothed or layout.partitioned:
        every = encoder.encode(params, inputs, settings.model, key)
        user, user0 = ([layout.take_users(x, at) for at in users] for x in (every.user, every.base.user))
        item, item0 = ([layout.take_items(x, at) for at in items] for x in (every.item, every.base.item))
        if against == "shared":
            negative = layout.take_shared(every.item, batch.negatives)
        elif against == "all":
            negative = layout.all_items(every.item)
        if smoothed:
            drawn = layout.own_items(data.item_probability, every.item.shape[0], fill=0.0)
            mean_item = drawn @ every.item
            mean_item = layout.axis.sum(mean_item) if layout.partitioned else mean_item
    else:
        # One call for all rows, so that the last layer is propagated once.
        at = Embeddings(*(jnp.concatenate([layout.axis.share(x) for x in xs]) for xs in (users, items)))
        if against == "shared":
            at = at._replace(item=jnp.concatenate([at.item, batch.negatives]))
        some = encoder.encode(params, inputs, settings.model, key, at)
        size = at.user.shape[0] // len(users)
        user, user0 = (jnp.split(x, len(users)) for x in (some.user, some.base.user))
        ends = [size * n for n in range(1, len(items) + 1)]
        (*item, negative), (*item0, _) = (jnp.split(x, ends) for x in (some.item, some.base.item))
    return BatchRows(
        user[0],
        item[0],
        item[1] if against == "one" else negative,
        None if batch.dislikes is None else Embeddings(user[-1], item[-1]),
        [user0[0], *item0[: 2 if against == "one" else 1]],
        mean_item,
    )


def score(batch: Batch, rows: BatchRows, inputs: EncoderInputs, num_items: int, loss: LossSettings) -> Scores:
    """The scores of a batch, with the mask of negatives."""
    layout, edges = inputs.layout, inputs.adjacency.users_from_items.forward
    positive = jnp.sum(rows.user * rows.item, axis=-1)
    against, where = LOSSES.find(loss.name).negatives, None
    if against == "one":
        return Scores(positive, jnp.sum(rows.user * rows.negative, axis=-1), num_items=num_items)
    own = batch.negatives[None, :] == layout.axis.share(batch.items)[:, None]
    if loss.mask_observed:  # this masks the pair's own song too, as the user has played it
        where = ~observed_block(edges, batch.users, batch.negatives, num_items, layout)
        where = where | own if against == "all" else where
    elif against == "shared":
        where = ~own
    return Scores(positive, rows.user @ rows.negative.T, where, batch.log_correction, num_items)


def objective(
    rows: BatchRows, batch: Batch, inputs: EncoderInputs, num_items: int, settings: StepSettings
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of an encoded batch and its parts: float [] each.

    With several devices, each returns the share of its rows; the loss is the sum over the devices.
    """
    loss, size, mean = settings.loss, settings.batch_size, inputs.layout.axis.batch_mean
    scores = score(batch, rows, inputs, num_items, loss)
    cost = LOSSES.find(loss.name).cost(scores, loss)
    if rows.mean_item is not None:
        expected = rows.user @ rows.mean_item
        smoothing = ranking.popularity_smoothing(scores.positive, expected, temperature=loss.temperature)
        cost += loss.popularity_smoothing * smoothing
    parts = {"ranking_loss": mean(cost, size), "explicit_negative_loss": jnp.zeros(())}
    if batch.dislikes is not None:
        disliked = jnp.sum(rows.disliked.user * rows.disliked.item, axis=-1)
        margin, temperature = loss.explicit_negative_margin, loss.temperature
        cost = ranking.explicit_negative(disliked, margin=margin, temperature=temperature)
        parts["explicit_negative_loss"] = mean(cost, size, batch.dislikes.weight)
    parts["l2"] = mean(ranking.l2(*rows.base), size)
    weights = {"ranking_loss": 1.0, "explicit_negative_loss": loss.explicit_negative_weight, "l2": loss.l2}
    return sum(weight * parts[name] for name, weight in weights.items()), parts


def batch_loss(
    params: Params, inputs: EncoderInputs, data: SampleData, key: jax.Array, settings: StepSettings
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Draws a batch, encodes it and returns its `objective`."""
    keys = jax.random.split(key, 4)
    batch = draw(keys[:3], inputs, data, settings.loss, settings.batch_size)
    rows = encode_batch(params, inputs, data, batch, keys[3], settings)
    return objective(rows, batch, inputs, data.item_probability.shape[0], settings)


def train_step(state: TrainState, inputs: EncoderInputs, data: SampleData, settings: StepSettings) -> TrainState:
    """One update. Adds the step's MEASURES to `state.metric_sums`."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    axis = inputs.layout.axis
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
    sums = {name: total + measured[name] for name, total in state.metric_sums.items()}
    return TrainState(state.step + 1, params, opt_state, state.key, sums)


def run_steps(
    state: TrainState, inputs: EncoderInputs, data: SampleData, num_steps: jax.Array, *, settings: StepSettings
) -> tuple[TrainState, jax.Array]:
    """Runs `num_steps` steps in one program. The number is an array, so all numbers share one compilation.

    Args:
      state: where to start.
      inputs, data: graph, features, sampling tables.
      num_steps: int32 [].
      settings: static.

    Returns:
      The new state, and bool []: whether loss and gradients stayed finite. The loop ends after the first step that is
      not finite; `state.step` then counts this step too.
    """
    last = state.step + num_steps

    def running(carry: tuple[TrainState, jax.Array]) -> jax.Array:
        state, finite = carry
        return (state.step < last) & finite

    def advance(carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state = train_step(carry[0], inputs, data, settings)
        # A sum that contains a NaN or an infinity is not finite.
        return state, jnp.isfinite(state.metric_sums["loss"]) & jnp.isfinite(state.metric_sums["grad_norm"])

    return jax.lax.while_loop(running, advance, (state, jnp.array(True)))


# The state is donated.
train_steps = jax.jit(run_steps, static_argnames="settings", donate_argnums=0)


def rate_at(settings: OptimizerSettings, step: int) -> float:
    """The learning rate that the given step uses."""
    return float(learning_rate(settings)(step))
