"""Vectors shaped like trained song embeddings, for benchmarks of retrieval."""

import numpy as np


def make_vectors(num_songs: int, dims: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Songs float32 [I, d] and 1,500 queries float32, unit rows."""
    rng = np.random.default_rng(seed)

    def unit(x: np.ndarray) -> np.ndarray:
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    scale = np.exp(-np.arange(dims) / dims * 2.0)  # some directions carry more than others
    top = rng.normal(size=(40, dims))
    sub = top[rng.integers(0, 40, 2_000)] + 0.8 * rng.normal(size=(2_000, dims))
    cluster = rng.integers(0, 2_000, num_songs)
    songs = unit((sub[cluster] + 0.9 * rng.normal(size=(num_songs, dims))) * scale)
    picked = rng.integers(0, num_songs, 1_500)
    near = songs[picked] + 0.6 * unit(rng.normal(size=(1_500, dims)) * scale)
    return songs, unit(near)
