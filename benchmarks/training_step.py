"""Seconds of an epoch of LightGCN++ with BPR, beside a torch implementation of the paper.

    python benchmarks/training_step.py --data=DIR --output=step.json
    python benchmarks/training_step.py --edges=500000 --output=step.json
    python benchmarks/training_step.py --users=9984 --items=253939 --edges=33900000 --backends=pallas,segment
    python benchmarks/training_step.py --users=9984 --items=253939 --edges=33900000 --recipe=yambda
    python benchmarks/training_step.py --users=9984 --items=253939 --edges=5100000 --recipe=yambda --profile --kernels=9

Identical batch (2,048 pairs), layers (2), dimensions (64), loss, optimizer and graph; DIR holds the train.txt of a
LightGCN split, otherwise a graph is generated. The peer is written from the paper in torch's fastest form: CSR matrices
of both orientations, the gradient of a product written as the transposed product, sampling vectorized over the epoch,
on a GPU too. Both take --steps steps in turns; an epoch is as many steps as |train| / batch, and the ratio is that of
medians. Without torch only ours is measured. The last command takes the steps of configs/yambda.py instead (three
layers, audio and metadata fused, debiased contrastive and explicit negative losses), on songs with random features,
and users' dislikes, a hundredth of the edges; it has no peer.

--profile takes the pieces of a step apart, each a program of its own (a step's fusions across pieces are lost: the sum
is more than the step); medians of --rounds turns of --steps runs in a row. --kernels=N adds the N kernels that took
longest in a trace of the steps themselves, summed by name.
"""

import dataclasses
import functools
import gzip
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import options
from absl import flags
from generated import from_text, make_graph

from music_map.graph.bipartite import BipartiteGraph
from music_map.losses.settings import LossSettings
from music_map.model import encoder, fusion
from music_map.model.encoder import Embeddings, EncoderInputs
from music_map.model.propagation import adjacency, choose_backend, prepare
from music_map.model.settings import ModelSettings
from music_map.preprocess.dataset import ItemFeatures
from music_map.run.config import Config
from music_map.run.run import step_settings
from music_map.storage import write_json
from music_map.training.loop import steps_per_epoch
from music_map.training.optimizer import OptimizerSettings, make_optimizer
from music_map.training.sampling import SampleData, draw, sample_data
from music_map.training.step import StepSettings, batch_loss, create_state, encode_batch, objective, train_steps

_DATA = flags.DEFINE_string("data", None, "Folder with train.txt; otherwise a graph is generated.")
_EDGES = flags.DEFINE_integer("edges", 500_000, "Generated: edges, each stored once.", 1)
_USERS = flags.DEFINE_integer("users", 8_000, "Generated: users.", 1)
_ITEMS = flags.DEFINE_integer("items", 40_000, "Generated: songs.", 1)
_RECIPE = flags.DEFINE_enum("recipe", "lightgcnpp", ["lightgcnpp", "yambda"], "What a step is.")
_BACKENDS = flags.DEFINE_list("backends", ["auto"], "Of ours (config.model.backend), the first of them compared.")
_STEPS = flags.DEFINE_integer("steps", 32, "Of one turn.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns.", 1)
_PROFILE = flags.DEFINE_bool("profile", False, "Time the pieces of a step instead, of the first backend.")
_KERNELS = flags.DEFINE_integer("kernels", 0, "With --profile: kernels to list.", 0)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")

BATCH, DIMS, LAYERS, ALPHA, BETA, GAMMA, L2, RATE = 2048, 64, 2, 0.6, -0.1, 0.2, 1e-4, 1e-3


class Ours(NamedTuple):
    """What a step is compiled for, and what it reads."""

    settings: StepSettings
    inputs: EncoderInputs
    data: SampleData


def runner(ours: Ours, steps: int) -> Callable[[], float]:
    """Takes the steps in one dispatch; gives the mean loss."""
    settings, inputs, data = ours
    state = [create_state(settings, inputs, seed=0)]

    def run() -> float:
        before = float(state[0].metric_sums["loss"])
        state[0], _ = train_steps(state[0], inputs, data, jnp.int32(steps), settings=settings)
        jax.block_until_ready(state[0])
        return (float(state[0].metric_sums["loss"]) - before) / steps

    return run


def pieces(ours: Ours) -> dict[str, Callable[[], object]]:
    """The pieces of a step by name, each one program."""
    settings, inputs, data = ours
    model, num_items = settings.model, data.item_probability.shape[0]
    state = create_state(settings, inputs, seed=0)
    params, keys = state.params, jax.random.split(jax.random.key(1), 4)
    program = functools.partial(jax.jit, donate_argnums=())

    def weighed(tree: object) -> jax.Array:  # a scalar whose gradient is dense and not constant
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating))

    drawing = program(lambda inputs, data: draw(keys[:3], inputs, data, settings.loss, settings.batch_size))
    batch = drawing(inputs, data)

    def base(params, inputs):
        return encoder.base_embeddings(params, inputs, model, encoder.known_songs(inputs, model, keys[3]))

    def layer(sent, inputs):
        return encoder.receive(inputs, model, sent)

    def encoded(params, inputs, data, batch):
        return encode_batch(params, inputs, data, batch, keys[3], settings)

    sent = program(base)(params, inputs)
    rows = program(encoded)(params, inputs, data, batch)
    at = Embeddings(batch.users, jnp.concatenate([batch.items, batch.negatives]))

    def last_layer(sent, inputs, at):
        return encoder.receive(inputs, model, sent, at)

    def loss(rows, inputs, batch):
        return objective(rows, batch, inputs, num_items, settings)[0]

    def update(grads, opt_state, params):
        updates, opt_state = make_optimizer(settings.optimizer).update(grads, opt_state, params)
        norms = [optax.tree.norm(x) for x in (grads, updates, params)]
        return optax.apply_updates(params, updates), opt_state, norms

    def backward(f):
        return program(jax.grad(lambda x, *rest: weighed(f(x, *rest))))

    both = program(jax.grad(lambda p, *rest: batch_loss(p, *rest, settings)[0]))
    key = jax.random.key(2)
    grads = both(params, inputs, data, key)
    timed = {
        "draw a batch": (drawing, inputs, data),
        "e^(0): ids and features": (program(base), params, inputs),
        "e^(0), with gradient": (backward(base), params, inputs),
        "one layer of all nodes": (program(layer), sent, inputs),
        "one layer, with gradient": (backward(layer), sent, inputs),
        "last layer of the batch": (program(last_layer), sent, inputs, at),
        "last layer, with gradient": (backward(last_layer), sent, inputs, at),
        "encode the batch": (program(encoded), params, inputs, data, batch),
        "encode, with gradient": (backward(encoded), params, inputs, data, batch),
        "loss of the rows, with gradient": (program(jax.grad(loss, allow_int=True)), rows, inputs, batch),
        "loss and gradient, drawing included": (both, params, inputs, data, key),
        "optimizer and norms": (program(update), grads, state.opt_state, params),
    }
    return {name: functools.partial(f, *arguments) for name, (f, *arguments) in timed.items()}


def profile(ours: Ours, steps: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of each piece, and of a step."""
    found: dict[str, float] = {}
    for name, run in pieces(ours).items():
        seconds = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            for _ in range(steps):
                out = run()
            jax.block_until_ready(out)
            seconds.append(time.perf_counter() - start)
        found[name] = 1e3 * statistics.median(seconds[1:]) / steps
    step, seconds = runner(ours, steps), []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return found | {"a step": 1e3 * statistics.median(seconds[1:]) / steps}


def kernels(ours: Ours, steps: int, most: int) -> list[tuple[str, float, float]]:
    """The kernels that take longest in a step: name, milliseconds a step, runs a step. On a CPU, its operations."""
    step = runner(ours, steps)
    step()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            step()
        (file,) = Path(folder).glob("plugins/profile/*/*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    device = any("/device:" in name for name in processes.values())
    total, runs = Counter(), Counter()
    for e in events:
        if e.get("ph") != "X":
            continue
        where, thread = processes.get(e["pid"], ""), threads.get((e["pid"], e.get("tid")), "")
        if ("/device:" in where and "Stream" in thread) if device else "hlo_op" in e.get("args", {}):
            total[e["name"]] += e["dur"] / 1e3 / steps
            runs[e["name"]] += 1
    shown = [(name, value, runs[name] / steps) for name, value in total.most_common(most)]
    return [*shown, ("all", sum(total.values()), sum(runs.values()) / steps)]


def lightgcnpp(graph: BipartiteGraph, backend: str) -> Ours:
    """What the peer does."""
    model = ModelSettings(
        num_layers=LAYERS, embedding_dim=DIMS, alpha=ALPHA, beta=BETA, gamma=GAMMA, degree="count", score="dot",
        audio=False, metadata=False, id_dropout=0.0, backend=backend,
    )  # fmt: skip
    loss = LossSettings(name="bpr", explicit_negative_weight=0.0, l2=L2)
    optimizer = OptimizerSettings(
        name="adam", learning_rate=RATE, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=0.0,
        total_steps=10**6,
    )  # fmt: skip
    inputs = prepare(EncoderInputs(adjacency(graph, degree="count"), None), backend)
    data = sample_data(graph, users="uniform", items="uniform")
    return Ours(StepSettings(model=model, loss=loss, optimizer=optimizer, batch_size=BATCH), inputs, data)


def whole_model(graph: BipartiteGraph, backend: str) -> Ours:
    """A step of configs/yambda.py."""
    config, rng = Config(), np.random.default_rng(0)
    num_users, num_items = len(graph.user_offsets) - 1, len(graph.item_offsets) - 1
    dislikes = len(graph.user) // 100
    graph = graph._replace(
        negative_user=np.sort(rng.integers(0, num_users, dislikes)).astype(np.int32),
        negative_item=rng.integers(0, num_items, dislikes).astype(np.int32),
        negative_weight=np.full(dislikes, 3.0, np.float32),
    )
    # One artist and one album a song, of an eighth and a quarter as many as there are songs.
    audio, each = rng.normal(size=(num_items, 128)).astype(np.float32), np.arange(num_items + 1)
    raw = ItemFeatures(
        audio / np.linalg.norm(audio, axis=1, keepdims=True), each[:-1].astype(np.int32),
        each, rng.integers(0, num_items // 8, num_items).astype(np.int32), np.arange(num_items // 8),
        each, rng.integers(0, num_items // 4, num_items).astype(np.int32), np.arange(num_items // 4),
        rng.uniform(60, 400, num_items).astype(np.float32),
    )  # fmt: skip
    adjacent = adjacency(graph, degree=config.model.degree)
    inputs = EncoderInputs(adjacent, fusion.features(raw, np.asarray(adjacent.item_degree), audio=True, metadata=True))
    model = dataclasses.replace(config.model, backend=backend)
    settings = step_settings(config, model, num_edges=len(graph.user))
    data = sample_data(graph, users=config.train.user_sampling, items=config.train.item_sampling)
    return Ours(settings, prepare(inputs, backend), data)


def peer(graph: BipartiteGraph, steps: int) -> Callable[[], float]:
    """The same in torch."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu")
    num_users, num_items = len(graph.user_offsets) - 1, len(graph.item_offsets) - 1
    user_degree, item_degree = np.diff(graph.user_offsets), np.diff(graph.item_offsets)

    def scaled(offsets, columns, receiver, neighbour, shape, powers=(ALPHA, BETA)):
        rows = np.repeat(np.arange(shape[0]), np.diff(offsets))
        values = receiver[rows].astype(np.float64) ** -powers[0] * neighbour[columns].astype(np.float64) ** -powers[1]
        parts = (offsets.astype(np.int32), columns.astype(np.int32), values.astype(np.float32))
        parts = (torch.from_numpy(np.ascontiguousarray(p)) for p in parts)
        return torch.sparse_csr_tensor(*parts, size=shape).to(device)

    by_item = graph.user[graph.item_order]
    users = (graph.user_offsets, graph.item, user_degree, item_degree, (num_users, num_items))
    items = (graph.item_offsets, by_item, item_degree, user_degree, (num_items, num_users))
    to_users, to_items = scaled(*users), scaled(*items)
    # The weights d_receiver^-a d_neighbour^-b are not symmetric: the transposes are matrices of their own.
    to_users_t, to_items_t = scaled(*items, powers=(BETA, ALPHA)), scaled(*users, powers=(BETA, ALPHA))

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, matrix, transpose, x):
            ctx.transpose = transpose
            return matrix @ x

        @staticmethod
        def backward(ctx, g):
            return None, None, ctx.transpose @ g

    user = torch.nn.Parameter(0.1 * torch.randn(num_users, DIMS, device=device))
    item = torch.nn.Parameter(0.1 * torch.randn(num_items, DIMS, device=device))
    optimizer = torch.optim.Adam([user, item], lr=RATE)
    heard = np.sort(graph.user.astype(np.int64) * num_items + graph.item)
    active, offsets, columns, heard = (
        torch.from_numpy(np.asarray(a, np.int64)).to(device)
        for a in (np.flatnonzero(user_degree), graph.user_offsets, graph.item, heard)
    )

    def sample(count: int):
        users = active[torch.randint(len(active), (count,), device=device)]
        low, high = offsets[users], offsets[users + 1]
        positive = columns[low + (torch.rand(count, device=device) * (high - low)).long()]
        negative = torch.randint(num_items, (count,), device=device)
        while True:
            key = users * num_items + negative
            at = torch.searchsorted(heard, key).clamp(max=len(heard) - 1)
            bad = heard[at] == key
            if not bad.any():
                return users, positive, negative
            negative[bad] = torch.randint(num_items, (int(bad.sum()),), device=device)

    normalize = torch.nn.functional.normalize

    def run() -> float:
        users, positives, negatives = (x.split(BATCH) for x in sample(steps * BATCH))
        total = torch.zeros((), device=device)
        for u, p, n in zip(users, positives, negatives, strict=True):
            x, y, sum_x, sum_y = user, item, 0.0, 0.0
            for _ in range(LAYERS):
                unit_x, unit_y = normalize(x), normalize(y)
                x = Product.apply(to_users, to_users_t, unit_y)
                y = Product.apply(to_items, to_items_t, unit_x)
                sum_x, sum_y = sum_x + x / LAYERS, sum_y + y / LAYERS
            all_users, all_items = GAMMA * user + (1 - GAMMA) * sum_x, GAMMA * item + (1 - GAMMA) * sum_y
            eu = all_users[u]
            ranking = torch.nn.functional.softplus((eu * (all_items[n] - all_items[p])).sum(1)).mean()
            squares = user[u].square().sum() + item[p].square().sum() + item[n].square().sum()
            loss = ranking + L2 * 0.5 * squares / BATCH
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return float(total) / steps

    return run


def main() -> int:
    graph = from_text(Path(_DATA.value) / "train.txt") if _DATA.value else make_graph(
        _USERS.value, _ITEMS.value, _EDGES.value
    )  # fmt: skip
    chosen = [choose_backend(name) for name in _BACKENDS.value]
    if _RECIPE.value == "yambda":
        make, batch = whole_model, Config().train.batch_size
    else:
        make, batch = lightgcnpp, BATCH
        graph = graph._replace(weight=np.ones_like(graph.weight))  # the recipe knows no weights
    device = f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}"
    if _PROFILE.value:
        ours = make(graph, chosen[0])
        times = profile(ours, _STEPS.value, _ROUNDS.value)
        options.say(f"{_RECIPE.value}, {chosen[0]}: {len(graph.user)} edges, batch {batch}; {device}")
        options.say("| piece | ms |\n|---|---|")
        for name, value in times.items():
            options.say(f"| {name} | {value:.3f} |")
        listed = kernels(ours, _STEPS.value, _KERNELS.value) if _KERNELS.value else []
        if listed:
            options.say("| kernel | ms a step | runs a step |\n|---|---|---|")
        for name, value, count in listed:
            options.say(f"| {name[:100]} | {value:.3f} | {count:.1f} |")
        if _OUTPUT.value:
            write_json(Path(_OUTPUT.value), {"pieces": times, "kernels": listed})
        return 0
    runs = {f"ours ({name})": runner(make(graph, name), _STEPS.value) for name in chosen}
    if _RECIPE.value == "lightgcnpp":
        if importlib.util.find_spec("torch"):
            runs["torch"] = peer(graph, _STEPS.value)
        else:
            options.warn("torch is not installed: pip install torch")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    losses: dict[str, float] = {}
    for turn in range(_ROUNDS.value + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            losses[name] = run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    epoch = steps_per_epoch(len(graph.user), batch) / _STEPS.value
    per_epoch = {name: statistics.median(values) * epoch for name, values in seconds.items()}
    options.say(f"{_RECIPE.value}: {len(graph.user)} edges, batch {batch}, {DIMS} dimensions; {device}")
    options.say("| | s per epoch | ms per step | steps per second | last mean loss |\n|---|---|---|---|---|")
    for name, value in per_epoch.items():
        step = statistics.median(seconds[name]) / _STEPS.value
        options.say(f"| {name} | {value:.2f} | {1e3 * step:.1f} | {1 / step:.1f} | {losses[name]:.4f} |")
    if "torch" in per_epoch:
        options.say(f"torch over ours: {per_epoch['torch'] / per_epoch[f'ours ({chosen[0]})']:.2f}")
    if _OUTPUT.value:
        write_json(Path(_OUTPUT.value), {"seconds": seconds, "seconds_per_epoch": per_epoch, "losses": losses})
    return 0


if __name__ == "__main__":
    options.run(main)
