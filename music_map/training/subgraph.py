"""Training on parts of the graph, for graphs whose propagation does not fit the device.

Each epoch assigns the users to P parts at random. A part has all edges of its users, so users receive exact sums. Songs
receive messages from the part's users only; these are multiplied by P, which keeps their expectation. The edges on the
device and the work of a step fall by the factor P. Embeddings and optimizer state stay whole.

References: Hamilton et al., "Inductive Representation Learning on Large Graphs", NeurIPS 2017 (sampled neighbourhoods);
Chiang et al., "Cluster-GCN", KDD 2019 (batches of partitions, random ones mixed).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from music_map.graph.bipartite import BipartiteGraph
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import Csr, Matrix, prepare
from music_map.rows import offsets_of
from music_map.training.sampling import Positives, SampleData

# Room for parts with more edges than the average: all parts are padded to one size, so that one program serves all.
_ROOM = 1.1


class Subgraphs:
    """The parts of a graph, one on the device at a time. Seed and step determine the part that a step uses.

    Args:
      graph: the whole graph, in host memory.
      inputs: of the whole graph, on the host, for degrees and features.
      data: of the whole graph; it must draw users uniformly.
      num_parts: P.
      steps_per_part: consecutive steps on one part.
      seed: of the assignment of users to parts.
      backend: of the sparse products.
    """

    def __init__(
        self,
        graph: BipartiteGraph,
        inputs: EncoderInputs,
        data: SampleData,
        *,
        num_parts: int,
        steps_per_part: int,
        seed: int,
        backend: str,
    ):
        # The whole graph may be in host memory. The arrays that all parts share go to the device, the edges do not.
        empty = inputs.adjacency._replace(users_from_items=None)
        self._graph, self._inputs = graph, jax.device_put(inputs._replace(adjacency=empty), jax.devices()[0])
        self._data = data
        self._steps_per_part, self._seed, self._backend = steps_per_part, seed, backend
        self._active = np.flatnonzero(np.diff(graph.user_offsets)).astype(np.int32)
        self.num_parts = min(num_parts, len(self._active))
        degree = np.diff(graph.user_offsets)
        self._room = int(_ROOM * len(graph.user) / self.num_parts) + int(degree.max())
        self._at: int | None = None
        self._made: tuple[EncoderInputs, SampleData] | None = None

    def users_of(self, number: int) -> np.ndarray:
        """The users of the number-th part of the run, ascending. Parts of an epoch share no user."""
        deal, part = divmod(number, self.num_parts)
        order = np.random.default_rng((self._seed, deal)).permutation(self._active)
        # All parts have equally many users; the few left over are not used in this epoch.
        size = len(order) // self.num_parts
        return np.sort(order[part * size : (part + 1) * size])

    def at(self, step: int) -> tuple[EncoderInputs, SampleData, int]:
        """The arrays that a step reads, and the number of steps, from this one on, that read them."""
        number = step // self._steps_per_part
        if number != self._at:
            self._made = None  # one part on the device at a time
            self._made, self._at = self._make(self.users_of(number)), number
        inputs, data = self._made
        return inputs, data, (number + 1) * self._steps_per_part - step

    def _make(self, users: np.ndarray) -> tuple[EncoderInputs, SampleData]:
        graph = self._graph
        num_users, num_items = len(graph.user_offsets) - 1, len(graph.item_offsets) - 1
        chosen = np.zeros(num_users, bool)
        chosen[users] = True
        kept = chosen[graph.user]
        by_item = graph.item_order[kept[graph.item_order]]
        count = int(kept.sum())
        while count > self._room:
            self._room = int(self._room * _ROOM) + 1

        def oriented(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, size: int, width: int) -> Csr:
            # Padding entries add to no sum: their row is out of range and their value 0.
            pad = self._room - count
            offsets = offsets_of(np.bincount(rows, minlength=size))
            return Csr(
                jnp.asarray(offsets, jnp.int32),
                jnp.asarray(np.pad(rows, (0, pad), constant_values=size), jnp.int32),
                jnp.asarray(np.pad(columns, (0, pad), constant_values=width - 1), jnp.int32),
                jnp.asarray(np.pad(values, (0, pad)), jnp.float32),
            )

        forward = oriented(graph.user[kept], graph.item[kept], graph.weight[kept], num_users, num_items)
        backward = oriented(graph.item[by_item], graph.user[by_item], graph.weight[by_item], num_items, num_users)
        adjacency = self._inputs.adjacency._replace(
            users_from_items=prepare(Matrix(forward, backward), self._backend), item_scale=jnp.float32(self.num_parts)
        )
        cumulative = self._data.positives.cumulative
        if cumulative is not None:
            cumulative = jnp.asarray(np.pad(np.asarray(cumulative)[kept], (0, self._room - count)))
        positives = Positives(jnp.asarray(users, jnp.int32), cumulative)
        return self._inputs._replace(adjacency=adjacency), self._data._replace(positives=positives)
