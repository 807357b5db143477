"""The devices of a step, seen from inside the step, and the places of rows (of nodes and of a batch) on them.

A step is written for one device. With a single device every function here is the identity or plain indexing, so the
same step runs on one device and on many:

    size 1            the device has everything
    replicated        every device has all nodes and edges, and 1/n of the batch
    sharded           every device has 1/n of the nodes, the edges that end there, and 1/n of the batch

The objective is the sum of the devices' losses, and gradients are those of the sum.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

NAME = "devices"


@dataclasses.dataclass(frozen=True)
class Axis:
    """The devices of a step. Hashable, so that jit can take it as a static argument.

    Attributes:
      size: n, the number of devices.
      sharded: whether nodes and edges are partitioned.
    """

    size: int = 1
    sharded: bool = False

    @property
    def _alone(self) -> bool:
        # A mesh of one device takes the same path as one of eight, so that tests on one device cover it.
        return self.size == 1 and not self.sharded

    def sum(self, tree):
        """Sums each leaf over the devices."""
        return tree if self._alone else jax.lax.psum(tree, NAME)

    def gather(self, x: jax.Array) -> jax.Array:
        """All rows of an array whose rows are partitioned: [R, ...] -> [n R, ...]."""
        return jax.lax.all_gather(x, NAME, tiled=True) if self.sharded else x

    def local(self, slots: jax.Array, num_rows: int) -> tuple[jax.Array, jax.Array]:
        """The slots' rows on this device, clipped to [0, num_rows), and whether each slot is on this device."""
        if not self.sharded:
            return slots, jnp.ones(slots.shape, bool)
        at = slots - jax.lax.axis_index(NAME) * num_rows
        return jnp.clip(at, 0, num_rows - 1), (at >= 0) & (at < num_rows)

    def take(self, x: jax.Array, slots: jax.Array) -> jax.Array:
        """x[slots] on every device; each device contributes the rows that it has of a partitioned array."""
        if not self.sharded:
            return x[slots]
        return jax.lax.psum(self._own(x, slots), NAME)

    def take_share(self, x: jax.Array, slots: jax.Array) -> jax.Array:
        """x[slots] for this device's share of a batch, padded like `share`: [B] -> [ceil(B / n), ...]."""
        if not self.sharded:
            return x[self.share(slots)]
        return self.scatter(self._own(x, self.filled(slots)))

    def scatter(self, x: jax.Array) -> jax.Array:
        """This device's rows of the sum over the devices: [n R, ...] -> [R, ...]."""
        return jax.lax.psum_scatter(x, NAME, tiled=True)

    def _own(self, x: jax.Array, slots: jax.Array) -> jax.Array:
        """x[slots] for slots on this device, 0 for others."""
        at, here = self.local(slots, x.shape[0])
        return jnp.where(here.reshape(here.shape + (1,) * (x.ndim - 1)), x[at], 0)

    def filled(self, batch: jax.Array) -> jax.Array:
        """A batch padded with its first row to a multiple of n: [B] -> [n ceil(B / n)]."""
        short = -batch.shape[0] % self.size
        return jnp.concatenate([batch, jnp.broadcast_to(batch[:1], (short,))]) if short else batch

    def share(self, batch: jax.Array) -> jax.Array:
        """This device's rows of a batch that all devices have: [B] -> [ceil(B / n)], padded with the first row."""
        if self._alone:
            return batch
        batch = self.filled(batch)
        rows = batch.shape[0] // self.size
        return jax.lax.dynamic_slice_in_dim(batch, jax.lax.axis_index(NAME) * rows, rows)

    def batch_mean(self, cost: jax.Array, batch_size: int, weight: jax.Array | None = None) -> jax.Array:
        """This device's part of the mean over a batch: sum_b w_b cost_b / sum_b w_b, 0 if all weights are 0.

        Args:
          cost: float [ceil(B / n)], of this device's rows; padding does not count.
          batch_size: B.
          weight: float [B], at least 0, of the whole batch; None: equal weights.

        Returns:
          float [].
        """
        if weight is None and self._alone:
            return jnp.mean(cost)
        weight = jnp.ones(batch_size) if weight is None else weight
        total = jnp.sum(weight)
        part = self.share(weight / jnp.where(total > 0, total, 1.0))
        if not self._alone:
            at = jax.lax.axis_index(NAME) * len(part) + jnp.arange(len(part))
            part = jnp.where(at < batch_size, part, 0.0)
        return jnp.sum(jnp.where(part > 0, part * cost, 0.0))

    def reduce_gradients(self, grads):
        """Gradients of the summed objective: those of partitioned embeddings are complete, all others are summed."""
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NodeLayout:
    """The places of rows of nodes and of a batch. Nodes are numbers of users and songs. If their rows are partitioned,
    each node has a slot, and some slots are empty.

    Attributes:
      axis: the devices; static.
      user_slot: int32 [U]. This and all below are None if every device has all rows, in the nodes' order.
      item_slot: int32 [I].
      slot_item: int32 [slots], the song of each slot; I for an empty one.
      user_edges: int32 [U], number of edges of each user.
      user_offsets: int32 [U + 1], their running sum; None if it does not fit int32.
    """

    axis: Axis = dataclasses.field(default=ONE, metadata={"static": True})
    user_slot: jax.Array | None = None
    item_slot: jax.Array | None = None
    slot_item: jax.Array | None = None
    user_edges: jax.Array | None = None
    user_offsets: jax.Array | None = None

    @property
    def partitioned(self) -> bool:
        """Whether rows are cut over the devices."""
        return self.user_slot is not None

    def take_users(self, x: jax.Array, users: jax.Array) -> jax.Array:
        """Rows of the users in this device's share of a batch: x [R, d] -> [ceil(B / n), d]."""
        return self.axis.take_share(x, self.user_slot[users] if self.partitioned else users)

    def take_items(self, x: jax.Array, items: jax.Array) -> jax.Array:
        """Rows of the songs in this device's share of a batch, likewise."""
        return self.axis.take_share(x, self.item_slot[items] if self.partitioned else items)

    def take_shared(self, x: jax.Array, items: jax.Array) -> jax.Array:
        """Rows of songs that all devices need: x [R, d] -> [N, d]."""
        return self.axis.take(x, self.item_slot[items] if self.partitioned else items)

    def all_items(self, x: jax.Array) -> jax.Array:
        """Rows of all songs, in their order, on every device: x [R, d] -> [I, d]."""
        return self.axis.gather(x)[self.item_slot] if self.partitioned else x

    def own_items(self, values: jax.Array, num_rows: int, fill: float | bool) -> jax.Array:
        """From values of all songs [I], those of this device's rows [num_rows], with `fill` in empty slots."""
        if not self.partitioned:
            return values
        start = jax.lax.axis_index(NAME) * num_rows
        return values.at[jax.lax.dynamic_slice_in_dim(self.slot_item, start, num_rows)].get(
            mode="fill", fill_value=fill
        )

    def items_at(self, columns: jax.Array) -> jax.Array:
        """The songs for columns of the users' edges."""
        return self.slot_item[columns] if self.partitioned else columns

    def user_rows(self, users: jax.Array, num_rows: int) -> tuple[jax.Array, jax.Array]:
        """The users' rows on this device, clipped to [0, num_rows), and whether each user is on this device."""
        return self.axis.local(self.user_slot[users] if self.partitioned else users, num_rows)


WHOLE = NodeLayout()
