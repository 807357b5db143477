"""The graph cut into parts of almost equally many edges; an edge belongs to the part of the node where it ends.

Each node gets a slot. There are NUM_PARTS parts with equally many slots, and each of n devices holds NUM_PARTS / n
consecutive parts. The slots do not depend on n, so arrays stored by slot (embeddings, optimizer state, checkpoints)
keep their order on another number of devices.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from music_map.errors import UserError
from music_map.graph.bipartite import BipartiteGraph
from music_map.model.propagation import Csr
from music_map.rows import select

# The number of devices must divide this.
NUM_PARTS = 64

# Each round gives every part one node, the heaviest nodes first, and balances the loads so far. From this round on,
# nodes are light and alike: assigning them in alternating order is enough to keep the loads level.
_MEASURED_ROUNDS = 20_000


@dataclasses.dataclass(frozen=True)
class Slots:
    """Where the nodes of one kind lie.

    Attributes:
      of_node: int32 [N], each node's slot.
      node: int32 [NUM_PARTS x slots of a part], each slot's node; N for an empty one. The last slot of each part is
        empty: padding edges end there.
    """

    of_node: np.ndarray
    node: np.ndarray

    @property
    def num_slots(self) -> int:
        """Slots of all parts."""
        return len(self.node)

    def nodes_of(self, part: int, num_parts: int = NUM_PARTS) -> np.ndarray:
        """The nodes in a part's slots, N for an empty slot."""
        size = self.num_slots // num_parts
        return self.node[part * size : (part + 1) * size]

    def to_slots(self, rows: np.ndarray) -> np.ndarray:
        """Reorders rows from node order to slot order; empty slots get zeros."""
        out = np.zeros((self.num_slots, *rows.shape[1:]), rows.dtype)
        out[self.of_node] = rows
        return out


def make_slots(degree: np.ndarray, num_parts: int = NUM_PARTS) -> Slots:
    """Assigns nodes to parts: numbers of nodes that differ by one at most, and numbers of edges as equal as possible.

    Args:
      degree: int [N], edges that end at each node.
      num_parts: parts, a power of two of at least 2.
    """
    num_nodes = len(degree)
    rounds = -(-num_nodes // num_parts)
    heaviest_first = np.argsort(-degree, kind="stable")
    part_of = np.empty((rounds, num_parts), np.int64)
    loads = np.zeros(num_parts, np.int64)
    padded = np.concatenate([degree[heaviest_first], np.zeros(rounds * num_parts - num_nodes, degree.dtype)])
    by_round = padded.reshape(rounds, num_parts)
    for r in range(min(rounds, _MEASURED_ROUNDS)):
        # The heaviest node of the round goes to the lightest part.
        part_of[r] = np.argsort(loads, kind="stable")
        loads[part_of[r]] += by_round[r]
    rest = np.arange(_MEASURED_ROUNDS, rounds)
    part_of[_MEASURED_ROUNDS:] = np.where(rest[:, None] % 2, np.arange(num_parts)[::-1], np.arange(num_parts))
    # The first parts got the heaviest nodes. Reversing the bits of the part numbers spreads these over all devices.
    bits = num_parts.bit_length() - 1
    reversed_bits = np.array([int(f"{p:0{bits}b}"[::-1], 2) for p in range(num_parts)])
    slot = reversed_bits[part_of] * (rounds + 1) + np.arange(rounds)[:, None]
    of_node = np.empty(num_nodes, np.int32)
    of_node[heaviest_first] = slot.reshape(-1)[:num_nodes]
    node = np.full(num_parts * (rounds + 1), num_nodes, np.int32)
    node[of_node] = np.arange(num_nodes, dtype=np.int32)
    return Slots(of_node, node)


class Ends(NamedTuple):
    """The edges that end at the nodes of a part, sorted by slot, and within a slot in the graph's order.

    Attributes:
      start: int32 [E of the part], the node at the other end.
      weight: float32 [E of the part].
    """

    start: np.ndarray
    weight: np.ndarray


class EdgeParts(Protocol):
    """A graph whose edges are read part by part: from memory, or from the files of `music_map.parallel.storage`.

    Attributes:
      num_edges: E.
      user_offsets, item_offsets: int64 [U + 1], [I + 1], as in a BipartiteGraph.
      user_total, item_total: float64 [U], [I], sums of the edge weights.
      users, items: slots.
    """

    num_edges: int
    user_offsets: np.ndarray
    item_offsets: np.ndarray
    user_total: np.ndarray
    item_total: np.ndarray
    users: Slots
    items: Slots

    def to_users(self, part: int) -> Ends:
        """Edges that end at the users of a part."""

    def to_items(self, part: int) -> Ends:
        """Edges that end at the songs of a part."""


class GraphInMemory:
    """EdgeParts of a graph that this process holds whole, in memory or mapped from files."""

    def __init__(self, graph: BipartiteGraph):
        self._graph = graph
        self.num_edges = graph.num_edges
        self.user_offsets, self.item_offsets = graph.user_offsets, graph.item_offsets
        self.users, self.items = make_slots(np.diff(graph.user_offsets)), make_slots(np.diff(graph.item_offsets))

    @functools.cached_property
    def user_total(self) -> np.ndarray:
        return np.bincount(self._graph.user, self._graph.weight.astype(np.float64), self._graph.num_users)

    @functools.cached_property
    def item_total(self) -> np.ndarray:
        return np.bincount(self._graph.item, self._graph.weight.astype(np.float64), self._graph.num_items)

    def to_users(self, part: int) -> Ends:
        at = positions(self.user_offsets, self.users.nodes_of(part))
        return Ends(self._graph.item[at], self._graph.weight[at])

    def to_items(self, part: int) -> Ends:
        at = self._graph.item_order[positions(self.item_offsets, self.items.nodes_of(part))]
        return Ends(self._graph.user[at], self._graph.weight[at])


def positions(offsets: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """The positions offsets[v]:offsets[v + 1] of all nodes v, concatenated; node N, an empty slot, has none."""
    return select(np.append(offsets, offsets[-1]), nodes)[1]


@dataclasses.dataclass(frozen=True)
class Side:
    """The rows of a sparse matrix by one kind of node, cut over devices.

    Attributes:
      slots: of the nodes.
      offsets: int [N + 1], node v has entries offsets[v]:offsets[v + 1].
      num_devices: n.
      capacity: length of each device's arrays: the most entries of any device, plus one.
    """

    slots: Slots
    offsets: np.ndarray
    num_devices: int
    capacity: int

    @property
    def rows_per_device(self) -> int:
        """Slots on each device."""
        return self.slots.num_slots // self.num_devices

    def parts(self, device: int) -> range:
        """The parts on a device."""
        share = NUM_PARTS // self.num_devices
        return range(device * share, (device + 1) * share)

    def nodes(self, device: int) -> np.ndarray:
        """The nodes in a device's slots, N for an empty slot."""
        return self.slots.node[device * self.rows_per_device : (device + 1) * self.rows_per_device]

    def degree(self, device: int) -> np.ndarray:
        """The number of entries of each slot of a device."""
        return _at(np.diff(self.offsets), self.nodes(device))

    def fill(self, values: np.ndarray) -> np.ndarray:
        """Values padded with zeros to the capacity."""
        return np.concatenate([values, np.zeros(self.capacity - len(values), values.dtype)])

    def csr(self, device: int, columns: np.ndarray, values: np.ndarray) -> Csr:
        """A device's rows (NumPy), padded to the capacity, from its entries in slot order."""
        degree = self.degree(device)
        degree[-1] += self.capacity - len(columns)  # the empty last slot takes the padding
        return Csr(
            np.concatenate([[0], np.cumsum(degree)]).astype(np.int32),
            np.repeat(np.arange(len(degree), dtype=np.int32), degree),
            self.fill(columns.astype(np.int32)),
            self.fill(values.astype(np.float32)),
        )


def _at(values: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    return np.concatenate([values, np.zeros(1, values.dtype)])[nodes]


def make_side(slots: Slots, offsets: np.ndarray, num_devices: int) -> Side:
    """Cuts rows over devices. Raises UserError if the number of devices does not divide the parts."""
    if NUM_PARTS % num_devices:
        raise UserError(
            f"config.parallel='sharded' divides {NUM_PARTS} parts evenly among the devices, which is not possible for "
            f"{num_devices}: use 1, 2, 4, 8, 16, 32 or 64"
        )
    side = Side(slots, offsets, num_devices, 0)
    most = max(int(side.degree(d).sum()) for d in range(num_devices))
    if most >= 2**31 - 1:
        raise UserError(f"{most} edges on a device; int32 indices hold 2^31 - 2: use more devices")
    return dataclasses.replace(side, capacity=most + 1)


@dataclasses.dataclass(frozen=True)
class Partition:
    """A graph cut both ways: once by the users and once by the songs where edges end."""

    graph: EdgeParts
    users: Side
    items: Side

    def to_users(self, device: int) -> Ends:
        """Edges that end at a device's users."""
        return _joined(self.graph.to_users, self.users.parts(device))

    def to_items(self, device: int) -> Ends:
        """Edges that end at a device's songs."""
        return _joined(self.graph.to_items, self.items.parts(device))

    def user_rows(self, device: int) -> Csr:
        """W: rows are the device's users, columns are slots of songs."""
        ends = self.to_users(device)
        return self.users.csr(device, self.items.slots.of_node[ends.start], ends.weight)

    def item_rows(self, device: int) -> Csr:
        """W transposed: rows are the device's songs, columns are slots of users."""
        ends = self.to_items(device)
        return self.items.csr(device, self.users.slots.of_node[ends.start], ends.weight)


def _joined(read: Callable[[int], Ends], parts: range) -> Ends:
    return Ends(*(np.concatenate(columns) for columns in zip(*map(read, parts), strict=True)))


def partition(graph: EdgeParts, num_devices: int) -> Partition:
    """Cuts a graph for a number of devices, without reading any edge."""
    return Partition(
        graph,
        make_side(graph.users, graph.user_offsets, num_devices),
        make_side(graph.items, graph.item_offsets, num_devices),
    )
