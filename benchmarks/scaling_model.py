"""A model of "sharded" training: memory and bytes received of a device, and the least time of a step, by arithmetic.

    python benchmarks/scaling_model.py
    python benchmarks/scaling_model.py --memory_gb_per_s=3350 --link_gb_per_s=450

Numbers of the larger sizes are docs/scaling.md's estimates. Also counted, on the random graph of
benchmarks/parallel.py: the share of the other side's rows that a device's edges name, which is what a halo exchange
would send in place of all.
"""

import numpy as np
import options
from absl import flags
from parallel import random_graph

from music_map.parallel.partition import GraphInMemory, partition

_MEMORY = flags.DEFINE_float("memory_gb_per_s", 1000.0, "Memory bandwidth of a device, GB/s.", 0.001)
_LINK = flags.DEFINE_float("link_gb_per_s", 50.0, "What a device receives over its links, GB/s.", 0.001)

DIM, LAYERS = 64, 3
DEVICES = (1, 2, 4, 8, 16, 32, 64)
# users, songs, edges (one a pair), batch
SIZES = {
    "50m": (9_984, 253_939, 5_100_000, 8_192),
    "500m": (100_000, 1_100_000, 345_000_000, 65_536),
    "5b": (1_000_000, 3_800_000, 3_400_000_000, 262_144),
}


def arguments_bytes(nodes: int, edges: int, devices: int) -> float:
    """Edges both ways, offsets and degrees; embeddings and Adam's two moments: float32 or int32, cut over devices.

    Each edge has a row, a column and a value in each orientation; a node an offset and a degree.
    """
    return (24 * edges + 8 * nodes + 3 * 4 * DIM * nodes) / devices


def received_bytes(nodes: int, batch: int) -> int:
    """All-gathers of a step: a layer gathers both sides forward and backward, and the batch's gradients come home."""
    return 2 * LAYERS * nodes * DIM * 4 + 4 * batch * DIM * 4


def traffic_bytes(edges: int, devices: int) -> float:
    """Rows gathered of memory: two products a layer, forward and backward, d floats an edge each."""
    return 2 * 2 * LAYERS * edges * DIM * 4 / devices


def halo() -> None:
    graph = random_graph(20_000, 30_000, 1_000_000)
    options.say(f"random graph, {graph.num_edges} edges: share of the songs (users) that a device's users (songs) name")
    for devices in DEVICES[1:]:
        cut = partition(GraphInMemory(graph), devices)
        songs = np.mean([len(np.unique(cut.to_users(d).start)) / graph.num_items for d in range(devices)])
        users = np.mean([len(np.unique(cut.to_items(d).start)) / graph.num_users for d in range(devices)])
        options.say(f"{devices:7d}  {songs:6.3f}  {users:6.3f}")


def main() -> int:
    halo()
    options.say("\nsize   devices  arguments GB  gathered rows GB  received MB a step  least ms: memory + links")
    for size, (users, songs, edges, batch) in SIZES.items():
        nodes = users + songs
        for devices in DEVICES:
            received = received_bytes(nodes, batch) * (devices - 1) / devices
            memory = traffic_bytes(edges, devices) / _MEMORY.value / 1e6
            links = received / _LINK.value / 1e6
            options.say(
                f"{size:5}  {devices:7d}  {arguments_bytes(nodes, edges, devices) / 1e9:12.2f}  "
                f"{max(users, songs) * DIM * 4 / 1e9:16.2f}  {received / 1e6:18.1f}  {memory:9.1f} + {links:.1f}"
            )
    return 0


if __name__ == "__main__":
    options.run(main)
