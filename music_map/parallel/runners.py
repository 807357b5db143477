"""Runners for many devices: "pmap" splits the batch, "sharded" splits the batch, the nodes and the edges."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from music_map import mesh as meshes
from music_map import processes
from music_map.axis import NAME, PARTITIONED, Axis, NodeLayout
from music_map.errors import UserError
from music_map.graph.bipartite import BipartiteGraph
from music_map.model import encoder
from music_map.model.encoder import EncoderInputs, Messages, Params
from music_map.model.fusion import Features
from music_map.model.propagation import Adjacency, Csr, Matrix, prepare
from music_map.parallel.partition import EdgeParts, GraphInMemory, Partition, make_side, partition, positions
from music_map.rows import offsets_of
from music_map.training.runner import ANY_NUMBER, OneDevice, Runner
from music_map.training.sampling import Dislikes, Positives, SampleData, sample_data, user_probability
from music_map.training.step import StepSettings, TrainState, create_state, empty_sums, run_steps

MODES = ("none", "pmap", "sharded")


def make_runner(
    mode: str,
    *,
    graph: BipartiteGraph,
    inputs: EncoderInputs,
    users: str,
    items: str,
    settings: StepSettings,
    parts: EdgeParts | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Runner:
    """The runner of a mode.

    Args:
      mode: "none", "pmap" or "sharded".
      graph: the bipartite graph, NumPy; if `parts` are given, "sharded" reads only its negative edges.
      inputs: of the whole graph, on one device or in the host's memory. "sharded" needs no edges in it.
      users, items: how pairs are drawn, see `music_map.training.sampling.sample_data`.
      settings: the static settings of a step.
      parts: the source of the edges for "sharded"; None: the graph.
      devices: for "pmap" and "sharded"; None: all devices of all processes.

    Raises:
      UserError: the mode cannot use these devices.
    """
    if mode == "none":
        if processes.count() > 1:
            raise UserError(f"config.parallel='none' is for one process, not {processes.count()}; use 'sharded'")
        return OneDevice(inputs, sample_data(graph, users=users, items=items), settings)
    if mode == "pmap":
        with meshes.host_memory():
            data = sample_data(graph, users=users, items=items)
        return Replicated(inputs, data, settings, devices=devices)
    dislikes = Dislikes(graph.negative_user, graph.negative_item, graph.negative_weight)
    return Sharded(
        GraphInMemory(graph) if parts is None else parts,
        inputs, dislikes, settings, users=users, items=items, devices=devices,
    )  # fmt: skip


def degrees(graph: EdgeParts, *, degree: str) -> Adjacency:
    """`music_map.model.propagation.adjacency` without edges, which is enough for the runner "sharded"."""
    if degree == "weighted":
        users, items = graph.user_total, graph.item_total
    else:
        users, items = np.diff(graph.user_offsets), np.diff(graph.item_offsets)
    return Adjacency(None, jnp.asarray(users, jnp.float32), jnp.asarray(items, jnp.float32))


class Replicated:
    """Data-parallel training: every device has the whole graph and 1/n of each batch.

    In one process the step is compiled with `jax.pmap`. With several processes it is compiled with `jit` of
    `shard_map`, on which `jax.pmap` is built: `jax.pmap` would return arrays of this process alone, and these cannot be
    saved as one checkpoint.
    """

    def __init__(
        self,
        inputs: EncoderInputs,
        data: SampleData,
        settings: StepSettings,
        *,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.mesh, self.settings = meshes.make_mesh(devices), settings
        self.num_edges = inputs.adjacency.users_from_items.forward.columns.shape[0]
        self._source = inputs
        inputs = prepare(inputs, settings.model.backend)._replace(layout=NodeLayout(Axis(self.mesh.size)))
        self._inputs, self._data = meshes.replicate(self.mesh, (inputs, data))
        # The copy on this process's first device.
        first = jax.tree.map(lambda x: x.addressable_data(0), self._inputs)
        self._one = OneDevice(first._replace(layout=NodeLayout()), None, settings)
        run = functools.partial(run_steps, settings=self.settings)
        self._count = functools.partial(meshes.put, meshes.replicated(self.mesh))
        # The step sums the gradients over the devices, so all end with the same state: one copy goes in and comes out.
        if processes.count() > 1:
            whole = jax.shard_map(run, mesh=self.mesh, in_specs=P(), out_specs=P(), check_vma=False)
            self.step = jax.jit(whole, donate_argnums=0)
        else:
            self._count = functools.partial(np.full, self.mesh.size)  # pmap needs one argument with a device axis
            self.step = jax.pmap(
                run,
                axis_name=NAME,
                in_axes=(None, None, None, 0),
                out_axes=None,
                devices=list(self.mesh.devices.flat),
                axis_size=self.mesh.size,
                donate_argnums=0,
            )

    def create_state(self, seed: int) -> TrainState:
        with meshes.host_memory():
            return meshes.replicate(self.mesh, create_state(self.settings, self._source, seed=seed))

    def arguments(self, state: TrainState, num_steps: int) -> tuple:
        """Arguments of `step`."""
        return state, self._inputs, self._data, self._count(np.asarray(num_steps, np.int32))

    def steps_left(self, step: int) -> int:
        del step
        return ANY_NUMBER

    def advance(self, state: TrainState, step: int, num_steps: int) -> tuple[TrainState, jax.Array]:
        del step
        return self.step(*self.arguments(state, num_steps))

    def empty_sums(self) -> dict[str, jax.Array]:
        return meshes.replicate(self.mesh, empty_sums())

    def params(self, params: Params) -> Params:
        return jax.tree.map(meshes.to_host, params)

    def encode(self, params: Params) -> tuple[jax.Array, jax.Array]:
        return self._one.encode(params)

    def messages(self, params: Params) -> Messages | None:
        return self._one.messages(params)


class Sharded:
    """Nodes, optimizer state, edges and batch partitioned over a mesh by `jax.shard_map`.

    A device has the slots of its parts, see `music_map.parallel.partition`, and the edges that end there. A layer
    gathers the embeddings of the other kind of node: (U + I) d floats forward, and as many backward.
    """

    def __init__(
        self,
        graph: EdgeParts,
        inputs: EncoderInputs,
        dislikes: Dislikes,
        settings: StepSettings,
        *,
        users: str,
        items: str,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.mesh, self.settings = meshes.make_mesh(devices), settings
        self.num_edges = graph.num_edges
        self.partition = partition(graph, self.mesh.size)
        # Edges, inputs and sampling tables exist only in parts: no device or host holds a whole copy.
        self._source = inputs._replace(adjacency=inputs.adjacency._replace(users_from_items=None))
        self._slots = {"user": graph.users, "item": graph.items}
        self._inputs = self._put_inputs(inputs)
        self._data = self._put_data(dislikes, users, items)
        self._rows, self._whole = meshes.by_rows(self.mesh), meshes.replicated(self.mesh)
        specs = self._specs(jax.eval_shape(lambda: create_state(self.settings, inputs, seed=0)))
        shard_map = functools.partial(jax.shard_map, mesh=self.mesh, check_vma=False)
        by_device = shard_map(
            functools.partial(prepare, backend=settings.model.backend), in_specs=P(NAME), out_specs=P(NAME)
        )
        self._inputs = EncoderInputs(*jax.jit(by_device)(self._inputs[:2]), self._inputs.layout)
        input_specs = EncoderInputs(
            *(jax.tree.map(lambda _: P(NAME), part) for part in self._inputs[:2]),
            jax.tree.map(lambda _: P(), self._inputs.layout),
        )
        data_specs = jax.tree.map(lambda _: P(), self._data)
        if self._data.positives.cumulative is not None:
            data_specs = data_specs._replace(positives=data_specs.positives._replace(cumulative=P(NAME)))
        self.step = jax.jit(
            shard_map(
                functools.partial(run_steps, settings=self.settings),
                in_specs=(specs, input_specs, data_specs, P()),
                out_specs=(specs, P()),
            ),
            donate_argnums=0,
        )

        def encode(params: Params, inputs: EncoderInputs) -> tuple[jax.Array, jax.Array]:
            return encoder.encode(params, inputs, self.settings.model)[:2]

        def messages(params: Params, inputs: EncoderInputs) -> Messages | None:
            return encoder.messages(params, inputs, self.settings.model)

        given = (specs.params, input_specs)
        self._encode = jax.jit(shard_map(encode, in_specs=given, out_specs=(P(NAME), P(NAME))))
        self._messages = jax.jit(shard_map(messages, in_specs=given, out_specs=Messages(P(NAME), P(), P())))

    def _put_inputs(self, inputs: EncoderInputs) -> EncoderInputs:
        cut: Partition = self.partition
        adjacent = inputs.adjacency
        user_degree, item_degree = np.asarray(adjacent.user_degree), np.asarray(adjacent.item_degree)

        def part(device: int) -> Adjacency:
            users, items = cut.users.nodes(device), cut.items.nodes(device)
            return Adjacency(
                Matrix(cut.user_rows(device), cut.item_rows(device)),
                _filled(user_degree, users),
                _filled(item_degree, items),
            )

        features = None
        if inputs.features is not None:
            features = _put_features(self.mesh, inputs.features, cut)
        counts = np.diff(cut.users.offsets)
        offsets = cut.users.offsets.astype(np.int32) if self.num_edges < 2**31 else None
        layout = NodeLayout(
            Axis(self.mesh.size, sharded=True),
            user_slot=self._slots["user"].of_node,
            item_slot=self._slots["item"].of_node,
            slot_item=self._slots["item"].node,
            user_edges=counts.astype(np.int32),
            user_offsets=offsets,
        )
        return EncoderInputs(meshes.put_parts(self.mesh, part), features, meshes.replicate(self.mesh, layout))

    def _put_data(self, dislikes: Dislikes, users: str, items: str) -> SampleData:
        """Like `sample_data`, from the edges of this process's devices."""
        cut, graph = self.partition, self.partition.graph
        if users == "degree" and self._inputs.layout.user_offsets is None:
            raise UserError(
                f"config.train.user_sampling='degree' draws from {self.num_edges} edges, more than int32 indices can "
                "count (2^31 - 1): use 'uniform'"
            )
        by_weight = items == "weight"
        degree = np.diff(graph.user_offsets)
        total = graph.user_total if by_weight else degree
        scale = np.divide(user_probability(degree, users), total, out=np.zeros(len(degree)), where=degree > 0)

        def cumulative(device: int) -> np.ndarray:
            weight, rows = cut.to_users(device).weight.astype(np.float64), cut.users.degree(device)
            running = np.cumsum(weight)
            before = np.repeat(np.concatenate([[0.0], running])[np.cumsum(rows) - rows], rows)
            whole = np.repeat(_filled(total, cut.users.nodes(device)), rows)
            return cut.users.fill(((running - before) / whole).astype(np.float32))

        def item_probability(device: int) -> np.ndarray:
            ends, rows = cut.to_items(device), cut.items.degree(device)
            of = np.repeat(np.arange(len(rows)), rows)
            weight = ends.weight.astype(np.float64) if by_weight else np.ones(len(of))
            return np.bincount(of, weight * scale[ends.start], len(rows)).astype(np.float32)

        by_slot = meshes.to_host(meshes.put_parts(self.mesh, item_probability))
        active = np.flatnonzero(degree).astype(np.int32) if users == "uniform" else None
        whole = SampleData(Positives(active, None), by_slot[graph.items.of_node], dislikes)
        whole = meshes.replicate(self.mesh, whole)
        if not by_weight:
            return whole
        return whole._replace(positives=whole.positives._replace(cumulative=meshes.put_parts(self.mesh, cumulative)))

    def _specs(self, tree):
        """P("devices") for arrays with a row for each node (embeddings and their moments), P() for the rest."""

        def spec(path: tuple, leaf: object) -> P:
            del leaf
            return P(NAME) if _node_kind(path) else P()

        return jax.tree_util.tree_map_with_path(spec, tree)

    def to_slots(self, tree):
        """Puts a state or parameters on the devices, reordered from nodes to slots."""

        def put(path: tuple, leaf: jax.Array) -> jax.Array:
            kind = _node_kind(path)
            if kind is None:
                return meshes.put(self._whole, np.asarray(leaf))
            return meshes.put(self._rows, self._slots[kind].to_slots(np.asarray(leaf)))

        return jax.tree_util.tree_map_with_path(put, tree)

    def create_state(self, seed: int) -> TrainState:
        with meshes.host_memory():
            state = create_state(self.settings, self._source, seed=seed)
        return self.to_slots(state)

    def arguments(self, state: TrainState, num_steps: int) -> tuple:
        """Arguments of `step`."""
        return state, self._inputs, self._data, meshes.put(self._whole, np.asarray(num_steps, np.int32))

    def steps_left(self, step: int) -> int:
        del step
        return ANY_NUMBER

    def advance(self, state: TrainState, step: int, num_steps: int) -> tuple[TrainState, jax.Array]:
        del step
        return self.step(*self.arguments(state, num_steps))

    def empty_sums(self) -> dict[str, jax.Array]:
        return meshes.replicate(self.mesh, empty_sums())

    def params(self, params: Params) -> Params:
        def by_node(path: tuple, leaf: jax.Array) -> np.ndarray:
            kind = _node_kind(path)
            return meshes.to_host(leaf) if kind is None else meshes.to_host(leaf)[self._slots[kind].of_node]

        return jax.tree_util.tree_map_with_path(by_node, params)

    def encode(self, params: Params) -> tuple[np.ndarray, np.ndarray]:
        users, items = self._encode(self.to_slots(params), self._inputs)
        # In the host's memory, as NumPy arrays: no device holds all of them.
        return meshes.to_host(users)[self._slots["user"].of_node], meshes.to_host(items)[self._slots["item"].of_node]

    def messages(self, params: Params) -> Messages | None:
        if not encoder.has_messages(self.settings.model):
            return None
        items, power, base = map(meshes.to_host, self._messages(self.to_slots(params), self._inputs))
        return Messages(jnp.asarray(items[self._slots["item"].of_node]), power, base)


def _node_kind(path: tuple) -> str | None:
    """ "user" or "item" if the leaf at this path of a state or parameters has a row for each such node, else None."""
    last = getattr(path[-1], "key", None) if path else None
    return last if last in PARTITIONED else None


def _filled(values: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """values[nodes], with 0 for the node one beyond the last."""
    extra = np.zeros((1, *values.shape[1:]), values.dtype)
    return np.concatenate([values, extra])[nodes]


def _put_features(mesh: jax.sharding.Mesh, features: Features, cut: Partition) -> Features:
    """Puts the songs' features on the devices, by the songs' slots."""
    items = cut.items

    def by_slot(values: jax.Array | None) -> jax.Array | None:
        if values is None:
            return None
        known = np.asarray(values)
        return meshes.put_parts(mesh, lambda d: _filled(known, items.nodes(d)))

    groups = [None if m is None else _put_groups(mesh, m, cut) for m in (features.artists, features.albums)]
    return Features(by_slot(features.audio), by_slot(features.has_audio), *groups, by_slot(features.track))


def _put_groups(mesh: jax.sharding.Mesh, matrix: Matrix, cut: Partition) -> Matrix:
    """Puts a matrix [I, groups] on the devices by the songs' slots, with the transpose of each device's rows."""
    offsets = np.asarray(matrix.forward.offsets).astype(np.int64)
    columns, values = np.asarray(matrix.forward.columns), np.asarray(matrix.forward.values)
    num_groups = matrix.backward.offsets.shape[0] - 1
    side = make_side(cut.items.slots, offsets, cut.items.num_devices)

    def part(device: int) -> Matrix:
        at = positions(offsets, side.nodes(device))
        rows = side.csr(device, columns[at], values[at])
        order = np.lexsort((rows.rows, rows.columns))
        starts = offsets_of(np.bincount(rows.columns, minlength=num_groups)).astype(np.int32)
        return Matrix(rows, Csr(starts, rows.columns[order], rows.rows[order], rows.values[order]))

    return meshes.put_parts(mesh, part)
