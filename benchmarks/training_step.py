"""Seconds of an epoch of LightGCN++ with BPR, beside a torch implementation of the paper.

    python benchmarks/training_step.py --data=DIR --output=step.json
    python benchmarks/training_step.py --edges=500000 --output=step.json
    python benchmarks/training_step.py --users=9984 --items=253939 --edges=33900000 --backends=pallas,segment
    python benchmarks/training_step.py --users=9984 --items=253939 --edges=33900000 --recipe=yambda

Identical batch (2,048 pairs), layers (2), dimensions (64), loss, optimizer and graph; DIR holds the train.txt of a
LightGCN split, otherwise a graph is generated. The peer is written from the paper in torch's fastest form: CSR matrices
of both orientations, the gradient of a product written as the transposed product, sampling vectorized over the epoch,
on a GPU too. Both take --steps steps in turns; an epoch is as many steps as |train| / batch, and the ratio is that of
medians. Without torch only ours is measured. The last command takes the steps of configs/yambda.py instead (three
layers, audio and metadata fused, debiased contrastive and explicit negative losses), on songs with random features,
and users' dislikes, a hundredth of the edges; it has no peer.
"""

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from generated import from_text, make_graph

from configs import yambda
from launch import app, experiment
from music_map.graph.bipartite import BipartiteGraph
from music_map.losses.settings import LossSettings
from music_map.model import fusion
from music_map.model.lightgcn import Inputs, ModelSettings
from music_map.model.propagation import adjacency, choose_backend
from music_map.preprocess.dataset import ItemFeatures
from music_map.storage import write_json
from music_map.training.loop import steps_per_epoch
from music_map.training.optimizer import OptimizerSettings
from music_map.training.sampling import SampleData, sample_data
from music_map.training.step import StepSettings, create_state, train_steps

_DATA = flags.DEFINE_string("data", None, "Folder with train.txt; otherwise a graph is generated.")
_EDGES = flags.DEFINE_integer("edges", 500_000, "Generated: edges, each stored once.", 1)
_USERS = flags.DEFINE_integer("users", 8_000, "Generated: users.", 1)
_ITEMS = flags.DEFINE_integer("items", 40_000, "Generated: songs.", 1)
_RECIPE = flags.DEFINE_enum("recipe", "lightgcnpp", ["lightgcnpp", "yambda"], "What a step is.")
_BACKENDS = flags.DEFINE_list("backends", ["auto"], "Of ours (config.model.backend), the first of them compared.")
_STEPS = flags.DEFINE_integer("steps", 32, "Of one turn.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns.", 1)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")

BATCH, DIMS, LAYERS, ALPHA, BETA, GAMMA, L2, RATE = 2048, 64, 2, 0.6, -0.1, 0.2, 1e-4, 1e-3


def runner(settings: StepSettings, inputs: Inputs, data: SampleData, steps: int) -> Callable[[], float]:
    """Takes the steps in one dispatch; gives the mean loss."""
    state = [create_state(settings, inputs, seed=0)]

    def run() -> float:
        before = float(state[0].window["loss"])
        state[0], _ = train_steps(state[0], inputs, data, jnp.int32(steps), settings=settings)
        jax.block_until_ready(state[0])
        return (float(state[0].window["loss"]) - before) / steps

    return run


def lightgcnpp(graph: BipartiteGraph, steps: int, backend: str) -> Callable[[], float]:
    """What the peer does."""
    model = ModelSettings(
        num_layers=LAYERS, embedding_dim=DIMS, alpha=ALPHA, beta=BETA, gamma=GAMMA, adaptive=False, degree="count",
        score="dot", init_std=0.1, audio=False, metadata=False, id_dropout=0.0, cold_neighbours=0,
        backend=backend,
    )  # fmt: skip
    loss = LossSettings(
        name="bpr", temperature=1.0, negatives="uniform", num_negatives=1, mask_observed=False,
        popularity_smoothing=0.0, positive_prior=0.0, explicit_negative_weight=0.0, explicit_negative_margin=0.0, l2=L2,
    )  # fmt: skip
    optimizer = OptimizerSettings(
        name="adam", learning_rate=RATE, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=0.0,
        total_steps=10**6,
    )  # fmt: skip
    inputs = Inputs(adjacency(graph, degree="count"), None)
    data = sample_data(graph, users="uniform", items="uniform")
    return runner(StepSettings(model, loss, optimizer, BATCH), inputs, data, steps)


def whole_model(graph: BipartiteGraph, steps: int, backend: str) -> Callable[[], float]:
    """A step of configs/yambda.py."""
    config, rng = yambda.get_config(), np.random.default_rng(0)
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
    inputs = Inputs(adjacent, fusion.features(raw, np.asarray(adjacent.item_degree), audio=True, metadata=True))
    settings = StepSettings(
        ModelSettings(**{**config.model, "backend": backend}), LossSettings(**config.loss),
        experiment.optimizer_settings(config, num_edges=len(graph.user)), config.train.batch_size,
    )  # fmt: skip
    data = sample_data(graph, users=config.train.user_sampling, items=config.train.item_sampling)
    return runner(settings, inputs, data, steps)


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
        make, batch = whole_model, yambda.get_config().train.batch_size
    else:
        make, batch = lightgcnpp, BATCH
        graph = graph._replace(weight=np.ones_like(graph.weight))  # the recipe knows no weights
    runs = {f"ours ({name})": make(graph, _STEPS.value, name) for name in chosen}
    if _RECIPE.value == "lightgcnpp":
        if importlib.util.find_spec("torch"):
            runs["torch"] = peer(graph, _STEPS.value)
        else:
            app.warn("torch is not installed: pip install torch")
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
    app.say(f"{_RECIPE.value}: {len(graph.user)} edges, batch {batch}, {DIMS} dimensions; {os.cpu_count()} cores, "
            f"{jax.devices()[0].device_kind}")  # fmt: skip
    app.say("| | s per epoch | ms per step | steps per second | last mean loss |\n|---|---|---|---|---|")
    for name, value in per_epoch.items():
        step = statistics.median(seconds[name]) / _STEPS.value
        app.say(f"| {name} | {value:.2f} | {1e3 * step:.1f} | {1 / step:.1f} | {losses[name]:.4f} |")
    if "torch" in per_epoch:
        app.say(f"torch over ours: {per_epoch['torch'] / per_epoch[f'ours ({chosen[0]})']:.2f}")
    if _OUTPUT.value:
        write_json(Path(_OUTPUT.value), {"seconds": seconds, "seconds_per_epoch": per_epoch, "losses": losses})
    return 0


if __name__ == "__main__":
    app.run(main)
