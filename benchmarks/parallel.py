"""Memory of a device and bytes it receives in a step, from the compiled program, on 1, 2, 4 and 8 virtual CPU devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python benchmarks/parallel.py --mode=sharded

The graph is random, 20,000 users, 30,000 songs, 1,000,000 edges, some songs far more popular than others; three layers
of 64 dimensions, batches of 4,096 with 1,024 shared negatives.
"""

import math
import re

import jax
import numpy as np
from absl import flags

from launch import app
from music_map.graph.bipartite import BipartiteGraph
from music_map.losses.settings import LossSettings
from music_map.model.lightgcn import Inputs, ModelSettings
from music_map.model.propagation import adjacency
from music_map.parallel.runners import make_runner
from music_map.training.optimizer import OptimizerSettings
from music_map.training.step import StepSettings

_MODE = flags.DEFINE_enum("mode", "sharded", ["pmap", "sharded"], "config.parallel.")

_COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_SHAPE = re.compile(r"(pred|[a-z]+\d+)\[([\d,]*)\]")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "f64": 8}


def random_graph(num_users: int, num_items: int, num_edges: int) -> BipartiteGraph:
    """Users alike, songs by 1 / (rank + 10)."""
    rng = np.random.default_rng(0)
    popularity = 1 / (np.arange(num_items) + 10.0)
    user = rng.integers(0, num_users, num_edges)
    item = rng.choice(num_items, num_edges, p=popularity / popularity.sum())
    key = np.unique(user * num_items + item)
    user, item = (key // num_items).astype(np.int32), (key % num_items).astype(np.int32)
    order = np.lexsort((user, item))
    none = np.zeros(0, np.int32)
    return BipartiteGraph(
        user_offsets=np.searchsorted(user, np.arange(num_users + 1)).astype(np.int64),
        user=user,
        item=item,
        weight=np.ones(len(user), np.float32),
        item_offsets=np.searchsorted(item[order], np.arange(num_items + 1)).astype(np.int64),
        item_order=order,
        negative_user=none,
        negative_item=none,
        negative_weight=none.astype(np.float32),
    )


def collective_bytes(program: str) -> dict[str, int]:
    """Bytes of the results of each kind of collective in a program's text."""
    sums: dict[str, int] = {}
    for shapes, kind in _COLLECTIVE.findall(program):
        size = sum(
            _BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n) for dtype, dims in _SHAPE.findall(shapes)
        )
        sums[kind] = sums.get(kind, 0) + size
    return sums


def main() -> int:
    graph = random_graph(20_000, 30_000, 1_000_000)
    model = ModelSettings(3, 64, 0.6, -0.1, 0.35, False, "weighted", "cosine", 0.1, False, False, 0.0, 0, "segment")
    loss = LossSettings("debiased_contrastive", 0.2, "uniform", 1024, False, 0.0, 0.01, 0.0, 0.0, 0.0)
    settings = StepSettings(model, loss, OptimizerSettings("adam", 1e-3, "constant", 0, 0.0, 1.0, 100), 4096)
    app.say("devices  arguments MB  temporary MB  edges of the fullest / mean  bytes received by a device in a step")
    for devices in (1, 2, 4, 8):
        runner = make_runner(
            _MODE.value,
            graph=graph,
            inputs=Inputs(adjacency(graph, degree="weighted"), None),
            users="uniform",
            items="uniform",
            settings=settings,
            devices=jax.devices()[:devices],
        )
        compiled = runner.step.lower(*runner.arguments(runner.create_state(0), 1)).compile()
        memory = compiled.memory_analysis()
        balance = 1.0
        if _MODE.value == "sharded":
            side = runner.partition.items
            counts = [int(side.degree(d).sum()) for d in range(devices)]
            balance = max(counts) / np.mean(counts)
        received = ", ".join(f"{kind} {size:,}" for kind, size in sorted(collective_bytes(compiled.as_text()).items()))
        app.say(
            f"{devices:7d}  {memory.argument_size_in_bytes / 1e6:12.1f}  {memory.temp_size_in_bytes / 1e6:12.1f}  "
            f"{balance:27.4f}  {received}"
        )
    if _MODE.value == "pmap":
        return 0
    layer = (runner.partition.users.slots.num_slots + runner.partition.items.slots.num_slots) * 64 * 4
    batch = 4 * 4096 * 64 * 4
    app.say(f"all-gathers by arithmetic, 2 x 3 layers x (U + I) d and 4 B d, of 4 bytes: {6 * layer + batch:,}")
    return 0


if __name__ == "__main__":
    app.run(main)
