"""Runner, the loop's interface to the devices: a state, many steps at once, parameters and embeddings by node."""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol

import jax
import jax.numpy as jnp

from music_map.model import encoder
from music_map.model.encoder import EncoderInputs, Messages, Params
from music_map.model.propagation import prepare
from music_map.model.settings import ModelSettings
from music_map.training.sampling import SampleData
from music_map.training.step import StepSettings, TrainState, create_state, empty_sums, train_steps
from music_map.training.subgraph import Subgraphs


class Runner(Protocol):
    """The devices and the placement of the graph on them.

    Attributes:
      settings: the static settings of a step.
      num_edges: E of the whole graph.
    """

    settings: StepSettings
    num_edges: int

    def create_state(self, seed: int) -> TrainState:
        """The state before the first step, a function of the seed alone."""

    def steps_left(self, step: int) -> int:
        """The number of steps, from `step` on, that one call of `advance` can run."""

    def advance(self, state: TrainState, step: int, num_steps: int) -> tuple[TrainState, jax.Array]:
        """Runs `num_steps` steps from `step` = state.step on, see `music_map.training.step.run_steps`.

        The state is donated.
        """

    def empty_sums(self) -> dict[str, jax.Array]:
        """The sums right after a log line."""

    def params(self, params: Params) -> Params:
        """The state's parameters with a row for each node, in the nodes' order."""

    def encode(self, params: Params) -> tuple[jax.Array, jax.Array]:
        """User embeddings [U, d] and song embeddings [I, d]; takes the parameters that `params` returns."""

    def messages(self, params: Params) -> Messages | None:
        """What the songs send to a user, see `music_map.model.encoder.messages`; parameters as for `encode`."""


@functools.partial(jax.jit, static_argnames="settings")
def _encode(params: Params, inputs: EncoderInputs, settings: ModelSettings) -> tuple[jax.Array, jax.Array]:
    return encoder.encode(params, inputs, settings)[:2]


_messages = jax.jit(encoder.messages, static_argnames="settings")

# Without subgraphs, one program runs any number of steps.
ANY_NUMBER = 2**31 - 1


class OneDevice:
    """Everything on one device; with subgraphs, one subgraph at a time."""

    def __init__(
        self,
        inputs: EncoderInputs,
        data: SampleData | None,
        settings: StepSettings,
        *,
        subgraphs: Subgraphs | None = None,
    ):
        self.settings = settings
        self._subgraphs = subgraphs
        self.num_edges = inputs.adjacency.users_from_items.forward.columns.shape[0]
        # The whole graph may be in the host's memory; then it is encoded there.
        (self._where,) = inputs.adjacency.user_degree.devices()
        self._model = settings.model
        if self._where.platform == "cpu" and settings.model.backend == "pallas" and jax.default_backend() != "cpu":
            self._model = dataclasses.replace(settings.model, backend="csr")
        self._inputs, self._data = prepare(inputs, self._model.backend), data

    def create_state(self, seed: int) -> TrainState:
        return create_state(self.settings, self._inputs, seed=seed)

    def steps_left(self, step: int) -> int:
        return ANY_NUMBER if self._subgraphs is None else self._subgraphs.at(step)[2]

    def advance(self, state: TrainState, step: int, num_steps: int) -> tuple[TrainState, jax.Array]:
        inputs, data = (self._inputs, self._data) if self._subgraphs is None else self._subgraphs.at(step)[:2]
        return train_steps(state, inputs, data, jnp.int32(num_steps), settings=self.settings)

    def empty_sums(self) -> dict[str, jax.Array]:
        return empty_sums()

    def params(self, params: Params) -> Params:
        return params

    def encode(self, params: Params) -> tuple[jax.Array, jax.Array]:
        return _encode(jax.device_put(params, self._where), self._inputs, self._model)

    def messages(self, params: Params) -> Messages | None:
        return _messages(jax.device_put(params, self._where), self._inputs, self._model)
