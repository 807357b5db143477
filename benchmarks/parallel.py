"""Memory of a device and bytes it receives in a step, from the compiled program, on 1, 2, 4 and 8 virtual CPU devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python benchmarks/parallel.py --mode=sharded
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python benchmarks/parallel.py --mode=sharded --steps=20
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python benchmarks/parallel.py --stages

The graph is random, 20,000 users, 30,000 songs, 1,000,000 edges, some songs far more popular than others; three layers
of 64 dimensions, batches of 4,096 with 1,024 shared negatives.
With --steps a smaller graph (1,999 users, 3,001 songs, 60,000 edges; batches of 509, which no number here divides)
is trained for that many steps instead, and compared with one device that knows of no other: the largest relative
difference of a step's loss, and the largest difference of an embedding's coordinate beside their root mean square.
With --stages the programs of the stages after training instead, with config.parallel "sharded": encoding, ranking
without and with recency, the features and the fit of the recency head, the fit of the playlist query.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable

import jax
import numpy as np
import options
from absl import flags

from music_map.evaluation import cut as songs_cut
from music_map.evaluation.cut import CutEmbeddingScores
from music_map.evaluation.playlist import Sessions
from music_map.evaluation.ranking import ScoreBlock, rank
from music_map.graph.bipartite import BipartiteGraph
from music_map.losses.settings import LossSettings
from music_map.mesh import make_mesh
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import adjacency
from music_map.model.settings import ModelSettings
from music_map.parallel.runners import make_runner
from music_map.playlist import fit as playlist_fit
from music_map.preprocess.dataset import LISTEN, Events, ItemFeatures
from music_map.recency import cut as recency_cut
from music_map.recency import fit as recency_fit
from music_map.recency.cut import CutScorer
from music_map.recency.history import Histories
from music_map.recency.moment import observe
from music_map.recency.scores import FEATURES, Embeddings
from music_map.training.optimizer import OptimizerSettings
from music_map.training.runner import Runner
from music_map.training.step import StepSettings

_MODE = flags.DEFINE_enum("mode", "sharded", ["pmap", "sharded"], "config.parallel.")
_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of devices.")
_STAGES = flags.DEFINE_bool("stages", False, "The stages after training.")
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
    for devices in map(int, _DEVICES.value):
        other, rows = trained(_MODE.value, graph, settings, devices)
        loss, row = np.max(np.abs(other / losses - 1)), np.max(np.abs(rows - embeddings))
        options.say(f"{devices:7d}  {loss:38.2e}  {row:34.2e}")


class _Measured(Exception):
    pass


def memory_of(module: object, name: str, work: Callable[[], object]) -> tuple[int, int]:
    """Bytes of the arguments and of the temporary memory, on a device, of a module's program as `work` calls it."""
    program, found = getattr(module, name), []

    def compiling(*arguments: object, **options: object) -> None:
        found.append(program.lower(*arguments, **options).compile().memory_analysis())
        raise _Measured

    setattr(module, name, compiling)
    try:
        with contextlib.suppress(_Measured):
            work()
    finally:
        setattr(module, name, program)
    return found[0].argument_size_in_bytes, found[0].temp_size_in_bytes


def stages_on(devices: int, graph: BipartiteGraph, settings: StepSettings) -> dict[str, tuple[int, int]]:
    """`memory_of` each stage's program on so many devices; every edge of the graph is a listen."""
    rng, mesh = np.random.default_rng(0), make_mesh(jax.devices()[:devices])
    users, items, now = graph.num_users, graph.num_items, 10_000_000
    time = np.sort(rng.integers(0, now, graph.num_edges).astype(np.uint32))
    byte = np.full(graph.num_edges, LISTEN, np.uint8)
    events = Events(graph.user, graph.item, time, byte, byte, np.full(graph.num_edges, 90, np.uint16))
    names = np.arange(items + 1), rng.integers(0, items // 3, items).astype(np.int32), np.arange(items // 3)
    audio = np.zeros((0, 128), np.float32), np.full(items, -1, np.int32)
    features = ItemFeatures(*audio, *names, *names, np.zeros(items, np.float32))
    moment = observe(events, features, now=now, num_users=users, num_items=items)
    runner = runner_on("sharded", graph, settings, devices)
    params, found = runner.params(runner.create_state(0).params), {}
    embeddings = [rng.normal(size=(n, settings.model.embedding_dim)).astype(np.float32) for n in (users, items)]
    found["encoding"] = memory_of(runner, "_encode", lambda: runner.encode(params))
    asked = np.arange(64, dtype=np.int32)

    def rank_all(scores: ScoreBlock) -> None:
        rank(scores, asked, num_items=items, k=100, candidates=np.ones(items, bool))

    alone = CutEmbeddingScores(*embeddings, mesh)
    found["ranking 64 users, encoder alone"] = memory_of(songs_cut, "rank_dots", lambda: rank_all(alone))
    histories, weights = Histories.of(events, num_users=users), dict.fromkeys(FEATURES, 0.1)
    scorer = CutScorer(Embeddings(*embeddings), weights, moment, histories, latest_length=100, mesh=mesh)
    found["ranking 64 users with recency"] = memory_of(recency_cut, "rank", lambda: rank_all(scorer))
    found["features of 32 users for the recency head"] = memory_of(
        recency_cut, "features", lambda: scorer.features(asked[:32])
    )
    shape = (1_000, 1_024)
    examples = recency_fit.Examples(
        rng.normal(size=(*shape, len(FEATURES))).astype(np.float32), np.zeros(shape, np.float32), np.zeros(shape, "f4")
    )
    examples.target[:, 0] = 1.0
    found["fit of the recency head, 1,000 users"] = memory_of(
        recency_fit, "_value_and_derivatives", lambda: recency_fit.fit_head(examples, strength=1.0, prior={}, mesh=mesh)
    )
    lists = rng.integers(0, items, (2_000, 12)).astype(np.int32)
    sessions = Sessions(np.arange(2_000), np.arange(2_001) * 12, lists.ravel())
    known = np.ones(items, bool)
    cut_sessions = playlist_fit.examples_of(sessions, embeddings[1], np.zeros(items), known, most=2_000, seed=0)
    found["fit of the playlist query, 2,000 sessions"] = memory_of(
        playlist_fit, "_value_and_grad", lambda: playlist_fit.fit_heads([cut_sessions], strengths=(), mesh=mesh)
    )
    return found


def say_stages(settings: StepSettings) -> None:
    graph = random_graph(20_000, 30_000, 1_000_000)
    counts = [int(count) for count in _DEVICES.value]
    found = {devices: stages_on(devices, graph, settings) for devices in counts}
    options.say(f"| MB a device, arguments + temporary | {' | '.join(map(str, counts))} |\n|---|{'---|' * len(counts)}")
    for name in found[counts[0]]:
        sizes = (found[devices][name] for devices in counts)
        options.say(f"| {name} | " + " | ".join(f"{a / 1e6:.1f} + {t / 1e6:.1f}" for a, t in sizes) + " |")


def main() -> int:
    model = ModelSettings(audio=False, metadata=False, id_dropout=0.0, backend="segment")
    loss = LossSettings(explicit_negative_weight=0.0)
    optimizer = OptimizerSettings(
        name="adam", learning_rate=1e-3, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=1.0,
        total_steps=100,
    )  # fmt: skip
    settings = StepSettings(model=model, loss=loss, optimizer=optimizer, batch_size=4096)
    if _STEPS.value or _STAGES.value:
        (compare if _STEPS.value else say_stages)(settings)
        return 0
    graph = random_graph(20_000, 30_000, 1_000_000)
    options.say(
        "devices  arguments MB  temporary MB  edges of the fullest / mean  bytes received by a device in a step"
    )
    for devices in map(int, _DEVICES.value):
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
