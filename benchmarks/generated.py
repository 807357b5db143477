"""Data for benchmarks: vectors shaped like trained song embeddings, and bipartite graphs, generated or read."""

from pathlib import Path

import numpy as np

from music_map.graph.bipartite import BipartiteGraph, from_edges


def make_vectors(
    num_songs: int, dims: int, *, num_queries: int = 1_500, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Songs float32 [I, d] and queries float32 [num_queries, d], unit rows."""
    rng = np.random.default_rng(seed)

    def unit(x: np.ndarray) -> np.ndarray:
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    scale = np.exp(-np.arange(dims) / dims * 2.0)  # some directions carry more than others
    top = rng.normal(size=(40, dims))
    sub = top[rng.integers(0, 40, 2_000)] + 0.8 * rng.normal(size=(2_000, dims))
    cluster = rng.integers(0, 2_000, num_songs)
    songs = unit((sub[cluster] + 0.9 * rng.normal(size=(num_songs, dims))) * scale)
    picked = rng.integers(0, num_songs, num_queries)
    near = songs[picked] + 0.6 * unit(rng.normal(size=(num_queries, dims)) * scale)
    return songs, unit(near)


def make_graph(num_users: int, num_items: int, num_edges: int, *, seed: int = 0) -> BipartiteGraph:
    """A bipartite graph of distinct edges: users lognormal, songs by a power law, as listening logs have them."""
    rng = np.random.default_rng(seed)
    user_share = rng.lognormal(0.0, 1.2, num_users)
    item_cdf = np.cumsum((1.0 + np.arange(num_items)) ** -0.8)
    shuffled = rng.permutation(num_items)  # popularity says nothing of a song's index
    keys = np.zeros(0, np.int64)
    while len(keys) < num_edges:
        count = int(1.5 * (num_edges - len(keys))) + 1_000
        user = np.repeat(np.arange(num_users), rng.multinomial(count, user_share / user_share.sum()))
        item = shuffled[np.searchsorted(item_cdf, item_cdf[-1] * rng.random(count)).clip(0, num_items - 1)]
        # numpy.unique takes many times as long as a sort.
        keys = np.sort(np.concatenate([keys, user * np.int64(num_items) + item]))
        keys = keys[np.diff(keys, prepend=-1) > 0]
    keep = np.ones(len(keys), bool)
    keep[rng.choice(len(keys), len(keys) - num_edges, replace=False)] = False
    user, item = np.divmod(keys[keep], num_items)
    weight = rng.random(num_edges).astype(np.float32)
    return from_edges(user.astype(np.int32), item.astype(np.int32), weight, num_users=num_users, num_items=num_items)


def from_text(path: Path) -> BipartiteGraph:
    """The train.txt of a LightGCN split."""
    lines = [np.array(line.split(), np.int64) for line in path.read_text().splitlines()]
    user = np.concatenate([np.full(len(line) - 1, line[0]) for line in lines])
    item = np.concatenate([line[1:] for line in lines])
    size = {"num_users": int(user.max()) + 1, "num_items": int(item.max()) + 1}
    keys = np.unique(user * size["num_items"] + item)
    user, item = (keys // size["num_items"]).astype(np.int32), (keys % size["num_items"]).astype(np.int32)
    return from_edges(user, item, np.ones(len(keys), np.float32), **size)
