"""The devices that a step runs on, seen from inside the step: sums, gathers and the part of a batch that is this one's.

A step is written for one device of an `Axis`. With `ONE` every function here is the identity or a plain indexing, so
there is a single step, whatever it runs on:

    size 1            everything is here
    replicated        every device has all nodes and edges, and 1/n of the batch
    sharded           every device has 1/n of the nodes, the edges that end there, and 1/n of the batch

The objective is the sum of what the devices' losses give, and a gradient is that of the sum.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

NAME = "devices"


@dataclasses.dataclass(frozen=True)
class Axis:
    """Hashable, so that jit can take it as a static argument.

    Attributes:
      size: n, devices.
      sharded: nodes and edges are partitioned.
    """

    size: int = 1
    sharded: bool = False

    @property
    def _alone(self) -> bool:
        # One device of a mesh takes the same path as eight: what is tested on one is what runs on many.
        return self.size == 1 and not self.sharded

    def sum(self, tree):
        """Sums each leaf over the devices."""
        return tree if self._alone else jax.lax.psum(tree, NAME)

    def gather(self, x: jax.Array) -> jax.Array:
        """All rows of an array whose rows are partitioned: [R, ...] -> [n R, ...]."""
        return jax.lax.all_gather(x, NAME, tiled=True) if self.sharded else x

    def local(self, slots: jax.Array, num_rows: int) -> tuple[jax.Array, jax.Array]:
        """Rows of the slots here, clipped into [0, num_rows), and whether each is here at all."""
        if not self.sharded:
            return slots, jnp.ones(slots.shape, bool)
        at = slots - jax.lax.axis_index(NAME) * num_rows
        return jnp.clip(at, 0, num_rows - 1), (at >= 0) & (at < num_rows)

    def take(self, x: jax.Array, slots: jax.Array) -> jax.Array:
        """x[slots] on every device; of a partitioned array each device gives the rows it has."""
        if not self.sharded:
            return x[slots]
        return jax.lax.psum(self._have(x, slots), NAME)

    def take_mine(self, x: jax.Array, slots: jax.Array) -> jax.Array:
        """x[slots] for this device's rows of a batch, filled up as by `mine`: [B] -> [ceil(B / n), ...]."""
        if not self.sharded:
            return x[self.mine(slots)]
        return self.scatter(self._have(x, self.filled(slots)))

    def scatter(self, x: jax.Array) -> jax.Array:
        """This device's rows of the sum over the devices: [n R, ...] -> [R, ...]."""
        return jax.lax.psum_scatter(x, NAME, tiled=True)

    def _have(self, x: jax.Array, slots: jax.Array) -> jax.Array:
        at, here = self.local(slots, x.shape[0])
        return jnp.where(here.reshape(here.shape + (1,) * (x.ndim - 1)), x[at], 0)

    def filled(self, batch: jax.Array) -> jax.Array:
        """A batch filled up with its first row to a multiple of n: [B] -> [n ceil(B / n)]."""
        short = -batch.shape[0] % self.size
        return jnp.concatenate([batch, jnp.broadcast_to(batch[:1], (short,))]) if short else batch

    def mine(self, batch: jax.Array) -> jax.Array:
        """This device's rows of a batch that all devices have: [B] -> [ceil(B / n)], filled up with the first row."""
        if self._alone:
            return batch
        batch = self.filled(batch)
        rows = batch.shape[0] // self.size
        return jax.lax.dynamic_slice_in_dim(batch, jax.lax.axis_index(NAME) * rows, rows)

    def row_weights(self, batch_size: int) -> jax.Array | None:
        """Weights of this device's rows in a mean over the batch: 1 / B, 0 for what fills up. float32 [ceil(B / n)].

        None where the rows are the batch: their plain mean.
        """
        if self._alone:
            return None
        rows = -(-batch_size // self.size)
        at = jax.lax.axis_index(NAME) * rows + jnp.arange(rows)
        return jnp.where(at < batch_size, 1.0 / batch_size, 0.0)

    def reduce_gradients(self, grads):
        """Gradients of the summed objective: partitioned embeddings have theirs whole, the rest are summed."""
        if self._alone:
            return grads
        if not self.sharded:
            return jax.lax.psum(grads, NAME)
        return {key: g if key in PARTITIONED else jax.lax.psum(g, NAME) for key, g in grads.items()}

    def norm(self, params) -> jax.Array:
        """L2 norm over all parameters, or gradients or updates shaped like them. float32 []."""
        squares = {key: sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(sub)) for key, sub in params.items()}
        here = sum(value for key, value in squares.items() if key in PARTITIONED)
        if self.sharded:
            here = jax.lax.psum(here, NAME)
        return jnp.sqrt(here + sum(value for key, value in squares.items() if key not in PARTITIONED))


# Parameters with a row for each node.
PARTITIONED = ("user", "item")

ONE = Axis()
