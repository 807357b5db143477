"""Maximum inner product search over song embeddings: exact everywhere, ScaNN where it has a wheel."""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from music_map.errors import UserError

BACKENDS = ("auto", "scann", "exact")

# Below this many songs one matrix-vector product takes less time than walking a tree.
_SCANN_FROM = 20_000


class Index(Protocol):
    """Finds the songs of highest dot product."""

    num_items: int

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Songs int32 [B, k] and scores float32 [B, k], best first; -1 and -inf where there are fewer than k.

        Args:
          queries: float32 [B, d].
          k: at least 1.
        """
        ...


@functools.partial(jax.jit, static_argnames="k")
def _top_k(embeddings: jax.Array, queries: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    return jax.lax.top_k(queries @ embeddings.T, k)


def _pad(items: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    missing = k - items.shape[1]
    if missing <= 0:
        return items, scores
    return (
        np.pad(items, ((0, 0), (0, missing)), constant_values=-1),
        np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf),
    )


class ExactIndex:
    """All dot products, then top-k, in JAX."""

    def __init__(self, embeddings: np.ndarray):
        self.num_items = len(embeddings)
        self._embeddings = jnp.asarray(embeddings, jnp.float32)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        # k is a shape: rounded up to a power of two, a growing k compiles a handful of programs.
        width = min(1 << (k - 1).bit_length(), self.num_items)
        scores, items = _top_k(self._embeddings, jnp.asarray(queries, jnp.float32), width)
        return _pad(np.asarray(items, np.int32)[:, :k], np.asarray(scores)[:, :k], k)


class ScannIndex:
    """ScaNN: a tree of partitions, anisotropic hashing, exact re-scoring.

    Reference: Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020.
    """

    def __init__(self, embeddings: np.ndarray):
        from scann.scann_ops.py import scann_ops_pybind

        self.num_items = len(embeddings)
        leaves = max(1, round(math.sqrt(self.num_items)))
        self._searcher = (
            scann_ops_pybind.builder(np.ascontiguousarray(embeddings, np.float32), 100, "dot_product")
            .tree(num_leaves=leaves, num_leaves_to_search=max(1, leaves // 5), training_sample_size=self.num_items)
            .score_ah(2, anisotropic_quantization_threshold=0.2)
            .reorder(400)
            .build()
        )

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = min(k, self.num_items)
        items, scores = self._searcher.search_batched(
            np.ascontiguousarray(queries, np.float32), final_num_neighbors=found, pre_reorder_num_neighbors=4 * found
        )
        # ScaNN fills short answers with NaN scores.
        missing = ~np.isfinite(scores)
        # Signed before -1 goes in: ScaNN's indices are unsigned.
        return _pad(np.where(missing, -1, items.astype(np.int32)), np.where(missing, -np.inf, scores), k)


def build_index(embeddings: np.ndarray, *, backend: str) -> Index:
    """Builds an index.

    Args:
      embeddings: float32 [I, d].
      backend: "exact", "scann", or "auto": ScaNN for large catalogues where it is installed.

    Raises:
      UserError: unknown backend, ScaNN wanted but not installed, or embeddings that are not finite.
    """
    if backend not in BACKENDS:
        raise UserError(f"config.retrieval.index={backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    if not np.isfinite(embeddings).all():
        bad = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
        raise UserError(f"the embedding of song index {bad} is not finite; train again with a lower learning rate")
    installed = importlib.util.find_spec("scann") is not None
    if backend == "scann" and not installed:
        raise UserError("config.retrieval.index='scann': ScaNN has no wheel for this platform; choose 'exact'")
    if backend == "scann" or (backend == "auto" and installed and len(embeddings) >= _SCANN_FROM):
        return ScannIndex(embeddings)
    return ExactIndex(embeddings)


def search_allowed(
    index: Index, embeddings: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The k best songs among the allowed ones: over-fetches from the index until k survive.

    Args:
      index: over `embeddings`.
      embeddings: float32 [I, d].
      query: float32 [d].
      k: songs wanted.
      allowed: bool [I].

    Returns:
      songs int32 [n] and scores float32 [n], best first, n = min(k, number of allowed songs).
    """
    wanted = min(k, int(allowed.sum()))
    if wanted == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.float32)
    fetch = min(index.num_items, 2 * k + 32)
    while fetch * 4 <= index.num_items or isinstance(index, ExactIndex):
        items, scores = index.search(query[None, :], fetch)
        keep = (items[0] >= 0) & allowed[items[0]]
        if keep.sum() >= wanted:
            return items[0][keep][:wanted], scores[0][keep][:wanted]
        fetch = min(4 * fetch, index.num_items)
    # A selective filter: scoring what it lets through is cheaper than walking most of the index.
    songs = np.flatnonzero(allowed).astype(np.int32)
    scores = embeddings[songs] @ query
    order = np.argsort(-scores, kind="stable")[:wanted]
    return songs[order], scores[order].astype(np.float32)
