"""Memory of a device and bytes it receives in a step, from the compiled program, on 1, 2, 4 and 8 virtual CPU devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python benchmarks/parallel.py --mode=sharded
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python benchmarks/parallel.py --mode=sharded --steps=20

The graph is random, 20,000 users, 30,000 songs, 1,000,000 edges, some songs far more popular than others; three layers
of 64 dimensions, batches of 4,096 with 1,024 shared negatives.
With --steps a smaller graph (1,999 users, 3,001 songs, 60,000 edges; batches of 509, which no number here divides)
is trained for that many steps instead, and compared with one device that knows of no other: the largest relative
difference of a step's loss, and the largest difference of an embedding's coordinate beside their root mean square.
"""

import dataclasses
import math
import re

import jax
import numpy as np
import options
from absl import flags

from music_map.graph.bipartite import BipartiteGraph
from music_map.losses.settings import LossSettings
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import adjacency
from music_map.model.settings import ModelSettings
from music_map.parallel.runners import make_runner
from music_map.training.optimizer import OptimizerSettings
from music_map.training.runner import Runner
from music_map.training.step import StepSettings

_MODE = flags.DEFINE_enum("mode", "sharded", ["pmap", "sharded"], "config.parallel.")
_STEPS = flags.DEFINE_integer("steps", 0, "Compare this many steps with those of one device; 0: memory and bytes.", 0)

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


def runner_on(mode: str, graph: BipartiteGraph, settings: StepSettings, devices: int) -> Runner:
    return make_runner(
        mode,
        graph=graph,
        inputs=EncoderInputs(adjacency(graph, degree="weighted"), None),
        users="uniform",
        items="uniform",
        settings=settings,
        devices=jax.devices()[:devices],
    )


def trained(mode: str, graph: BipartiteGraph, settings: StepSettings, devices: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses of the steps, float64 [steps], and embeddings of users and songs after them, float32 [N, d]."""
    runner = runner_on(mode, graph, settings, devices)
    state, losses = runner.create_state(0), []
    for step in range(_STEPS.value):
        state, _ = runner.advance(state, step, 1)
        losses.append(float(state.metric_sums["loss"]))
        state = state.logged(runner.empty_sums())
    users, items = runner.encode(runner.params(state.params))
    return np.array(losses), np.concatenate([np.asarray(users), np.asarray(items)])


def compare(settings: StepSettings) -> None:
    graph = random_graph(1_999, 3_001, 60_000)
    settings = dataclasses.replace(settings, batch_size=509)
    losses, embeddings = trained("none", graph, settings, 1)
    scale = np.sqrt(np.mean(embeddings**2))
    options.say(
        f"{len(losses)} steps; loss {losses[0]:.4f} to {losses[-1]:.4f}; root mean square of embeddings {scale:.4f}"
    )
    options.say("devices  largest relative difference of a loss  largest difference of an embedding")
    for devices in (1, 2, 4, 8):
        other, rows = trained(_MODE.value, graph, settings, devices)
        loss, row = np.max(np.abs(other / losses - 1)), np.max(np.abs(rows - embeddings))
        options.say(f"{devices:7d}  {loss:38.2e}  {row:34.2e}")


def main() -> int:
    model = ModelSettings(audio=False, metadata=False, id_dropout=0.0, backend="segment")
    loss = LossSettings(explicit_negative_weight=0.0)
    optimizer = OptimizerSettings(
        name="adam", learning_rate=1e-3, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=1.0,
        total_steps=100,
    )  # fmt: skip
    settings = StepSettings(model=model, loss=loss, optimizer=optimizer, batch_size=4096)
    if _STEPS.value:
        compare(settings)
        return 0
    graph = random_graph(20_000, 30_000, 1_000_000)
    options.say(
        "devices  arguments MB  temporary MB  edges of the fullest / mean  bytes received by a device in a step"
    )
    for devices in (1, 2, 4, 8):
        runner = runner_on(_MODE.value, graph, settings, devices)
        compiled = runner.step.lower(*runner.arguments(runner.create_state(0), 1)).compile()
        memory = compiled.memory_analysis()
        balance = 1.0
        if _MODE.value == "sharded":
            side = runner.partition.items
            counts = [int(side.degree(d).sum()) for d in range(devices)]
            balance = max(counts) / np.mean(counts)
        received = ", ".join(f"{kind} {size:,}" for kind, size in sorted(collective_bytes(compiled.as_text()).items()))
        options.say(
            f"{devices:7d}  {memory.argument_size_in_bytes / 1e6:12.1f}  {memory.temp_size_in_bytes / 1e6:12.1f}  "
            f"{balance:27.4f}  {received}"
        )
    if _MODE.value == "pmap":
        return 0
    layer = (runner.partition.users.slots.num_slots + runner.partition.items.slots.num_slots) * 64 * 4
    batch = 4 * 4096 * 64 * 4
    options.say(f"all-gathers by arithmetic, 2 x 3 layers x (U + I) d and 4 B d, of 4 bytes: {6 * layer + batch:,}")
    return 0


if __name__ == "__main__":
    options.run(main)
