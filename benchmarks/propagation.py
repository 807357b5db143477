"""Propagation x -> W x, W^T x, forward and backward, beside jraph, torch, PyG and scipy.

    python benchmarks/propagation.py --data=DIR --output=propagation.json
    python benchmarks/propagation.py --edges=33900000 --rounds=3 --chunk=1000000 --output=propagation.json
    JAX_BCOO_CUSPARSE_LOWERING=1 python benchmarks/propagation.py --edges=33900000 --storage=float32,bfloat16

One step is what a layer does: users gather from songs and songs from users, and the gradient of both. DIR holds a
train.txt of the LightGCN splits; otherwise a bipartite graph is generated whose degrees fall off as those of Yambda.
All are measured in turns in one process; figures are medians, and ratios those of medians. "GB/s of gathers" counts
each edge's row of the dense matrix, its column and its value, and the rows written; the copy is of 256 MiB, on as many
threads as there are cores, or of 1 GiB on the GPU. "Floor" counts every byte of the matrices once: what a step takes
at the copy's speed if no row of the dense matrices is read twice. "Error" is ||y - y64|| / ||y64|| of the four
products against scipy's in float64, in four of the dimensions. On a GPU (the third command; PyG by `pip install
torch_geometric`) all backends of ours run, and torch's on the same device; XLA_PYTHON_CLIENT_PREALLOCATE=false leaves
room for both.
"""

import concurrent.futures
import functools
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import options
import scipy.sparse
import scipy.sparse.csgraph
from absl import flags
from generated import from_text, make_graph

from music_map.errors import UserError
from music_map.graph.bipartite import BipartiteGraph, from_edges
from music_map.model.propagation import BACKENDS, adjacency, choose_backend, prepare, spmm
from music_map.storage import write_json

_DATA = flags.DEFINE_string("data", None, "Folder with train.txt; otherwise a graph is generated.")
_EDGES = flags.DEFINE_integer("edges", 2_000_000, "Generated: edges, each stored once.", 1)
_USERS = flags.DEFINE_integer("users", 9_984, "Generated: users.", 1)
_ITEMS = flags.DEFINE_integer("items", 253_939, "Generated: songs.", 1)
_DIMS = flags.DEFINE_integer("dims", 64, "Of an embedding.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns.", 1)
_NAMES = flags.DEFINE_list("only", [], "Backends to measure; none: all that are installed.")
_CHUNK = flags.DEFINE_integer("chunk", 0, "Edges at a time of the automatic gradient; 0: all.", 0)
_STORAGE = flags.DEFINE_list("storage", ["float32"], "Of the dense matrices, for ours.")
_ORDER = flags.DEFINE_enum("order", "given", ["given", "random", "degree", "rcm"], "Numbering of users and songs.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")


def renumbered(graph: BipartiteGraph, order: str) -> BipartiteGraph:
    """The same graph with users and songs numbered at random, by falling degree, or by reverse Cuthill-McKee."""
    num_users, num_items = len(graph.user_offsets) - 1, len(graph.item_offsets) - 1
    if order == "random":
        rng = np.random.default_rng(1)
        user_rank, item_rank = rng.permutation(num_users), rng.permutation(num_items)
    elif order == "degree":
        user_rank, item_rank = (
            np.argsort(np.argsort(-np.diff(offsets), kind="stable"))
            for offsets in (graph.user_offsets, graph.item_offsets)
        )
    else:
        ones = np.ones(len(graph.user), np.float32)
        half = scipy.sparse.csr_array((ones, graph.item, graph.user_offsets), (num_users, num_items))
        both = scipy.sparse.csr_array(scipy.sparse.block_array([[None, half], [half.T, None]]))
        place = np.argsort(scipy.sparse.csgraph.reverse_cuthill_mckee(both, symmetric_mode=True))
        user_rank, item_rank = np.argsort(np.argsort(place[:num_users])), np.argsort(np.argsort(place[num_users:]))
    user, item = user_rank[graph.user].astype(np.int32), item_rank[graph.item].astype(np.int32)
    at = np.lexsort((item, user))
    return from_edges(user[at], item[at], graph.weight[at], num_users=num_users, num_items=num_items)


def copy_gb_per_second(megabytes: int = 256) -> float:
    """Bytes read and written a second by a copy, GB/s."""
    seconds = []
    if jax.default_backend() != "cpu":
        device = jax.random.normal(jax.random.key(0), (megabytes * 2**20,))  # four times that: beyond its caches
        copied = jax.jit(lambda x: -x)  # a plain copy would be left out
        for _ in range(8):
            start = time.perf_counter()
            jax.block_until_ready([copied(device) for _ in range(4)])  # starting one takes a tenth of its time
            seconds.append((time.perf_counter() - start) / 4)
        return 2 * device.nbytes / statistics.median(seconds[1:]) / 1e9
    threads = os.cpu_count() or 1
    source = np.ones(megabytes * 2**18, np.float32)
    target = np.empty_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in range(7):
            start = time.perf_counter()
            list(pool.map(lambda p: np.copyto(p[1], p[0]), parts))
            seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / statistics.median(seconds) / 1e9


Steps = dict[str, Callable[[], object]]


def ours(graph: BipartiteGraph, dense: list[np.ndarray]) -> Steps:
    """One step of each backend that this platform has, the one chosen by "auto" first."""
    adjacent = adjacency(graph, degree="count")
    found: Steps = {}

    def step(matrix, x, y, gx, gy, backend):
        out, back = jax.vjp(lambda x, y: (spmm(matrix, y, backend), spmm(matrix.T, x, backend)), x, y)
        return out, back((gx, gy))

    compiled = jax.jit(step, static_argnames="backend")
    chosen = choose_backend("auto")
    for storage in _STORAGE.value:
        x, y = (jnp.asarray(a, storage) for a in dense[:2])
        gx, gy = (jnp.asarray(a) for a in dense[2:])
        for backend in (chosen, *(b for b in BACKENDS if b != chosen)):
            try:
                choose_backend(backend)
            except UserError as e:
                options.warn(str(e))
                continue
            found[f"ours ({backend}, {storage})"] = functools.partial(
                lambda *a: jax.block_until_ready(compiled(*a[:-1], backend=a[-1])),
                prepare(adjacent.users_from_items, backend), x, y, gx, gy, backend,
            )  # fmt: skip
    return found


def autodiff(graph: BipartiteGraph, dense: list[np.ndarray]) -> Steps:
    """jraph's segment sums with the automatic gradient, in chunks of edges where all at once do not fit."""
    num_users, num_items, edges = len(graph.user_offsets) - 1, len(graph.item_offsets) - 1, len(graph.user)
    chunk = _CHUNK.value or edges
    fill = -edges % chunk

    def chunked(values, fill_with):
        return jnp.asarray(np.pad(values, (0, fill), constant_values=fill_with).reshape(-1, chunk))

    # Edges that only fill up weigh 0.
    parts = chunked(graph.user, num_users - 1), chunked(graph.item, num_items - 1), chunked(graph.weight, 0)

    def step(x, y, gx, gy, parts):
        def forward(x, y):
            def add(sums, part):
                user, item, weight = part
                to_users = jraph.segment_sum(y[item] * weight[:, None], user, num_segments=num_users)
                to_items = jraph.segment_sum(x[user] * weight[:, None], item, num_segments=num_items)
                return (sums[0] + to_users, sums[1] + to_items), None

            if len(parts[0]) == 1:
                return add((0.0, 0.0), [p[0] for p in parts])[0]
            return jax.lax.scan(add, (jnp.zeros_like(x), jnp.zeros_like(y)), parts)[0]

        out, back = jax.vjp(forward, x, y)
        return out, back((gx, gy))

    compiled, device = jax.jit(step), [jnp.asarray(a) for a in dense]
    name = "jraph segment_sum, autodiff" + (f", {chunk} edges at a time" if chunk < edges else "")
    return {name: lambda: jax.block_until_ready(compiled(*device, parts))}


def products(graph: BipartiteGraph, dense: list[np.ndarray]) -> list[np.ndarray]:
    """W y, W^T x and their gradients by scipy, in the precision of the dense matrices."""
    num_users, num_items, order = len(graph.user_offsets) - 1, len(graph.item_offsets) - 1, graph.item_order
    weight = graph.weight.astype(dense[0].dtype)
    w = scipy.sparse.csr_array((weight, graph.item, graph.user_offsets), (num_users, num_items))
    wt = scipy.sparse.csr_array((weight[order], graph.user[order], graph.item_offsets), (num_items, num_users))
    x, y, gx, gy = dense
    # The gradient of W y in y is W^T times that of the product, and the other way round.
    return [w @ y, wt @ x, w @ gy, wt @ gx]


def with_scipy(graph: BipartiteGraph, dense: list[np.ndarray]) -> Steps:
    return {"scipy CSR (one thread)": lambda: products(graph, dense)}


def relative_error(result: object, exact: list[np.ndarray], lanes: np.ndarray) -> float:
    """The largest ||y - y64|| / ||y64|| of the products that a step gives, in some of the dimensions."""
    found = [np.asarray(a.cpu() if hasattr(a, "cpu") else a, np.float32)[:, lanes] for a in jax.tree.leaves(result)]
    return max(float(np.linalg.norm(y - e) / np.linalg.norm(e)) for y, e in zip(found, exact, strict=True))


def with_torch(graph: BipartiteGraph, dense: list[np.ndarray]) -> Steps:
    """torch's CSR in its fastest form, both orientations kept and the gradient written as the product that it is, and
    PyG's LGConv on one graph of all nodes, given as a list of edges and as a CSR matrix, forward and backward."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    num_users, num_items, order = len(graph.user_offsets) - 1, len(graph.item_offsets) - 1, graph.item_order

    def csr(offsets, columns, values, shape):
        parts = (torch.from_numpy(np.ascontiguousarray(a)) for a in (offsets, columns, values))
        return torch.sparse_csr_tensor(*parts, size=shape).to(device)

    def waited(result):
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    tw = csr(graph.user_offsets.astype(np.int32), graph.item, graph.weight, (num_users, num_items))
    tt = csr(graph.item_offsets.astype(np.int32), graph.user[order], graph.weight[order], (num_items, num_users))
    x, y, gx, gy = (torch.from_numpy(a).to(device) for a in dense)
    found: Steps = {f"torch CSR, both orientations ({device})": lambda: waited((tw @ y, tt @ x, tw @ gy, tt @ gx))}
    try:
        from torch_geometric.nn import LGConv
    except ImportError:
        options.warn("PyG is not installed: pip install torch_geometric")
        return found
    user, item = (torch.from_numpy(a).long().to(device) for a in (graph.user, graph.item + np.int32(num_users)))
    edges = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
    weight = torch.from_numpy(graph.weight).to(device).repeat(2)
    nodes, gradient, layer = torch.cat([x, y]), torch.cat([gx, gy]), LGConv(normalize=False)
    by_item = graph.user[order], graph.weight[order]
    whole = csr(
        np.concatenate([graph.user_offsets, len(user) + graph.item_offsets[1:]]).astype(np.int32),
        np.concatenate([graph.item + np.int32(num_users), by_item[0]]),
        np.concatenate([graph.weight, by_item[1]]),
        (len(nodes), len(nodes)),
    )

    def propagated(*graph):
        leaf = nodes.clone().requires_grad_()
        out = layer(leaf, *graph)
        out.backward(gradient)
        return waited((*out.detach().split([num_users, num_items]), *leaf.grad.split([num_users, num_items])))

    return found | {
        f"PyG LGConv, edges, autograd ({device})": lambda: propagated(edges, weight),
        f"PyG LGConv, CSR, autograd ({device})": lambda: propagated(whole),
    }


def backends(graph: BipartiteGraph, dense: list[np.ndarray]) -> Steps:
    """One step of each: both products and the gradients of both, from the same dense matrices."""
    found = ours(graph, dense) | autodiff(graph, dense)
    if jax.default_backend() == "cpu":
        found |= with_scipy(graph, dense)
    try:
        found |= with_torch(graph, dense)
    except ImportError:
        options.warn("torch is not installed: pip install torch")
    return found


def main() -> int:
    graph = from_text(Path(_DATA.value) / "train.txt") if _DATA.value else make_graph(
        _USERS.value, _ITEMS.value, _EDGES.value
    )  # fmt: skip
    if _ORDER.value != "given":
        graph = renumbered(graph, _ORDER.value)
    num_users, num_items, edges = len(graph.user_offsets) - 1, len(graph.item_offsets) - 1, len(graph.user)
    rng = np.random.default_rng(0)
    dense = [rng.normal(size=(n, _DIMS.value)).astype(np.float32) for n in (num_users, num_items) * 2]
    lanes = rng.choice(_DIMS.value, min(4, _DIMS.value), replace=False)
    exact = products(graph, [a[:, lanes].astype(np.float64) for a in dense])
    steps = backends(graph, dense)
    if _NAMES.value:
        steps = {name: step for name, step in steps.items() if any(n in name for n in _NAMES.value)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    errors: dict[str, float] = {}
    for name, step in list(steps.items()):
        try:
            errors[name] = relative_error(step(), exact, lanes)  # compiles
        except RuntimeError as e:  # JAX's and torch's
            if not re.search("RESOURCE_EXHAUSTED|out of memory", str(e)):
                raise
            options.warn(f"{name}: left out, it does not fit: {str(e).splitlines()[0]}")
            del steps[name], seconds[name]
    for turn in range(_ROUNDS.value + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    # Four products: two of each orientation.
    row = 4 * _DIMS.value
    gathers = {  # of bfloat16 half the bytes are read; sums are written in float32
        name: 2 * (2 * edges * (8 + row // (2 if "bfloat16" in name else 1)) + (num_users + num_items) * row)
        for name in seconds
    }
    floor = 2 * (2 * edges * 8 + 2 * (num_users + num_items) * row)
    copy = copy_gb_per_second()
    first = next(iter(steps))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    options.say(
        f"{num_users} users, {num_items} songs, {edges} edges, {_DIMS.value} dimensions; {os.cpu_count()} cores, "
        f"{jax.devices()[0].device_kind}; a copy moves {copy:.1f} GB/s, floor {1e3 * floor / copy / 1e9:.2f} ms"
    )
    options.say("| | ms | times ours | GB/s of gathers | share of the copy | error |\n|---|---|---|---|---|---|")
    for name, value in median.items():
        rate = gathers[name] / value / 1e9
        options.say(
            f"| {name} | {1e3 * value:.2f} | {value / median[first]:.2f} | {rate:.1f} | {rate / copy:.2f} | "
            f"{errors[name]:.1e} |"
        )
    if _OUTPUT.value:
        result = {"seconds": seconds, "gather_bytes": gathers, "errors": errors, "copy_gb_per_second": copy}
        write_json(Path(_OUTPUT.value), result)
    return 0


if __name__ == "__main__":
    options.run(main)
