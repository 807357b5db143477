"""What the loop needs of the devices it runs on: a state, many steps at once, parameters and embeddings by node."""

from __future__ import annotations

import functools
from typing import Protocol

import jax
import jax.numpy as jnp

from music_map.model import lightgcn
from music_map.model.lightgcn import Inputs, ModelSettings, Params
from music_map.training.sampling import SampleData
from music_map.training.step import StepSettings, TrainState, create_state, empty_window, train_steps


class Runner(Protocol):
    """Devices, and how the graph lies on them.

    Attributes:
      settings: what a step is compiled for.
      num_edges: E of the whole graph.
    """

    settings: StepSettings
    num_edges: int

    def create_state(self, seed: int) -> TrainState:
        """The state before the first step, a function of the seed alone."""

    def advance(self, state: TrainState, num_steps: int) -> tuple[TrainState, jax.Array]:
        """`num_steps` steps, see `music_map.training.step.run_steps`; the state is donated."""

    def empty_window(self) -> dict[str, jax.Array]:
        """The sums right after a log line."""

    def params(self, params: Params) -> Params:
        """The state's parameters with a row for each node, in the nodes' order."""

    def encode(self, params: Params) -> tuple[jax.Array, jax.Array]:
        """User embeddings [U, d] and song embeddings [I, d] from parameters as `params` gives them."""


@functools.partial(jax.jit, static_argnames="settings")
def _encode(params: Params, inputs: Inputs, settings: ModelSettings) -> tuple[jax.Array, jax.Array]:
    return lightgcn.apply(params, inputs, settings)[:2]


class OneDevice:
    """All on one device."""

    def __init__(self, inputs: Inputs, data: SampleData | None, settings: StepSettings):
        self.settings = settings
        self.num_edges = inputs.adjacency.users_from_items.forward.columns.shape[0]
        self._inputs, self._data = inputs, data

    def create_state(self, seed: int) -> TrainState:
        return create_state(self.settings, self._inputs, seed=seed)

    def advance(self, state: TrainState, num_steps: int) -> tuple[TrainState, jax.Array]:
        return train_steps(state, self._inputs, self._data, jnp.int32(num_steps), settings=self.settings)

    def empty_window(self) -> dict[str, jax.Array]:
        return empty_window()

    def params(self, params: Params) -> Params:
        return params

    def encode(self, params: Params) -> tuple[jax.Array, jax.Array]:
        return _encode(params, self._inputs, self.settings.model)
