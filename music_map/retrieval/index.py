"""Maximum inner product search over song embeddings: exact everywhere, ScaNN where it has a wheel."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from music_map.axis import NAME
from music_map.errors import DamagedFileError, UserError
from music_map.mesh import by_rows, make_mesh
from music_map.retrieval import scann_files
from music_map.retrieval.settings import BACKENDS
from music_map.storage import MANIFEST, ArrayFolder, ArrayWriter, check_form, file_sha256, new_folder, read_bytes
from music_map.topk import top_k

FOLDER = "index"
FORMAT_VERSION = 1

# Below this many songs one matrix-vector product takes less time than walking a tree.
SCANN_FROM = 20_000
_WHEELS = "its wheels are for Linux and Python up to 3.13"
# Songs scored at once by exact search: 16,384 x 64 floats are 4 MiB, which a core's cache holds.
_BLOCK = 16_384
# Queries of a batch are filled up to one of these numbers, or to a power of two.
_ROWS = (1, 8, 64, 512)
# The recall target is for the first 100.
_RECALL_AT = 100
# The measured recall must exceed the target by this many standard errors. The cheapest parameters that reach the target
# on a sample miss it on other queries half of the time; with two standard errors, one time in forty.
_MARGIN = 2.0
# Numbers of songs that ScaNN re-scores: those tried, from the cheapest.
_REORDER = (150, 200, 300, 500, 1_000)
_MOST_REORDER = 4_000
_FACTS = {"num_leaves": int, "leaves_to_search": int, "reorder": int}


class Index(Protocol):
    """Finds the songs of highest dot product.

    Attributes:
      backend: of BACKENDS.
      num_items: I.
      facts: how it was built and what was measured, JSON-able.
    """

    backend: str
    num_items: int
    facts: dict[str, Any]

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Songs int32 [B, k] and scores float32 [B, k], best first; -1 and -inf where there are fewer than k.

        Args:
          queries: float32 [B, d].
          k: at least 1.
        """
        ...


@functools.partial(jax.jit, static_argnames="k")
def _top_k(
    blocks: jax.Array, queries: jax.Array, allowed: jax.Array | None, num_items: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
    """The k best of all blocks, one block after the other: memory holds [B, k + block] scores, never [B, I]."""
    block = blocks.shape[1]

    def step(best: tuple[jax.Array, jax.Array], at: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        songs = at * block + jnp.arange(block, dtype=jnp.int32)
        scores = jnp.matmul(queries, blocks[at].T, precision=jax.lax.Precision.HIGHEST)
        valid = songs < num_items
        if allowed is not None:
            valid &= allowed[at]
        found, place = top_k(jnp.where(valid[None, :], scores, -jnp.inf), min(k, block))
        # Best so far first: of equal scores the earlier song stays ahead.
        joined = jnp.concatenate([best[0], found], axis=1), jnp.concatenate([best[1], songs[place]], axis=1)
        score, place = jax.lax.top_k(joined[0], k)
        return (score, jnp.take_along_axis(joined[1], place, axis=1)), None

    start = (jnp.full((queries.shape[0], k), -jnp.inf), jnp.full((queries.shape[0], k), -1, jnp.int32))
    (scores, songs), _ = jax.lax.scan(step, start, jnp.arange(blocks.shape[0], dtype=jnp.int32))
    return jnp.where(jnp.isfinite(scores), songs, -1), scores


def _pad(items: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    missing = k - items.shape[1]
    if missing <= 0:
        return items, scores
    return (
        np.pad(items, ((0, 0), (0, missing)), constant_values=-1),
        np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf),
    )


@functools.cache
def _sharded_top_k(mesh: Mesh) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """`_top_k` with the blocks distributed over devices: the k best of each device's k best."""

    def on_one_device(
        blocks: jax.Array, queries: jax.Array, allowed: jax.Array | None, num_items: jax.Array, k: int
    ) -> tuple[jax.Array, jax.Array]:
        first = jax.lax.axis_index(NAME) * (blocks.shape[0] * blocks.shape[1])
        songs, scores = _top_k(blocks, queries, allowed, num_items - first, k)
        songs = jnp.where(songs < 0, -1, songs + first)
        # Devices are in the order of their songs: of equal scores the earlier song stays ahead.
        songs = jax.lax.all_gather(songs, NAME, axis=1, tiled=True)
        scores = jax.lax.all_gather(scores, NAME, axis=1, tiled=True)
        scores, place = jax.lax.top_k(scores, k)
        return jnp.take_along_axis(songs, place, axis=1), scores

    @functools.partial(jax.jit, static_argnames="k")
    def found(blocks: jax.Array, queries: jax.Array, allowed: jax.Array | None, num_items: jax.Array, k: int):
        specs = (P(NAME), P(), None if allowed is None else P(NAME), P())
        mapped = functools.partial(on_one_device, k=k)
        return jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)(
            blocks, queries, allowed, num_items
        )

    return found


class ExactIndex:
    """All dot products, block by block, then top-k, in JAX.

    Args:
      embeddings: float32 [I, d].
      devices: devices of this process that share the songs; None: one.
    """

    backend = "exact"

    def __init__(self, embeddings: np.ndarray, *, devices: Sequence[jax.Device] | None = None):
        self.num_items = len(embeddings)
        self.facts: dict[str, Any] = {"backend": "exact", "recall@100": 1.0}
        num_devices = 1 if devices is None else len(devices)
        share = -(-self.num_items // num_devices)
        self._block = min(_BLOCK, 1 << max(share - 1, 1).bit_length())
        num_blocks = num_devices * max(1, -(-share // self._block))
        padded = np.zeros((num_blocks * self._block, embeddings.shape[1]), np.float32)
        padded[: self.num_items] = embeddings
        blocks = padded.reshape(num_blocks, self._block, -1)
        self._search, self._place = _top_k, jnp.asarray
        if num_devices > 1:
            mesh = make_mesh(devices)
            self._search = _sharded_top_k(mesh)
            self._place = functools.partial(jax.device_put, device=by_rows(mesh))
        self._blocks = self._place(blocks)

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See Index.search; with `allowed`, bool [I], only among these songs."""
        # Shapes are rounded up, so that few programs are compiled.
        width = min(1 << (k - 1).bit_length(), self.num_items)
        rows = next((size for size in _ROWS if size >= len(queries)), 1 << (len(queries) - 1).bit_length())
        padded = np.zeros((rows, queries.shape[1]), np.float32)
        padded[: len(queries)] = queries
        mask = None
        if allowed is not None:
            mask = np.zeros(self._blocks.shape[0] * self._block, bool)
            mask[: self.num_items] = allowed
            mask = self._place(mask.reshape(-1, self._block))
        items, scores = self._search(self._blocks, padded, mask, np.int32(self.num_items), width)
        return _pad(np.asarray(items)[: len(queries), :k], np.asarray(scores)[: len(queries), :k], k)


class ScannIndex:
    """ScaNN: a tree of partitions, anisotropic hashing, exact re-scoring.

    Args:
      searcher: ScaNN's.
      num_items: songs in it.
      facts: num_leaves, leaves_to_search, reorder (at k = 100) and what was measured.

    Reference: Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020.
    """

    backend = "scann"

    def __init__(self, searcher: Any, num_items: int, facts: dict[str, Any]):
        self._searcher = searcher
        self.num_items = num_items
        self.facts = facts

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = min(k, self.num_items)
        # The parameters were measured at k = 100; longer lists need more, shorter ones the same.
        more = max(1.0, found / _RECALL_AT)
        options = {
            "final_num_neighbors": found,
            "pre_reorder_num_neighbors": min(self.num_items, max(found, math.ceil(self.facts["reorder"] * more))),
            "leaves_to_search": min(self.facts["num_leaves"], math.ceil(self.facts["leaves_to_search"] * more**0.5)),
        }
        queries = np.ascontiguousarray(queries, np.float32)
        if len(queries) == 1:
            one, score = self._searcher.search(queries[0], **options)
            items, scores = one[None, :], score[None, :]
        elif len(queries) >= 64:
            items, scores = self._searcher.search_batched_parallel(queries, **options)
        else:
            items, scores = self._searcher.search_batched(queries, **options)
        # ScaNN fills short answers with NaN scores.
        missing = ~np.isfinite(scores)
        # ScaNN's indices are unsigned and must be signed to hold -1.
        return _pad(np.where(missing, -1, items.astype(np.int32)), np.where(missing, -np.inf, scores), k)


def installed() -> bool:
    """Whether ScaNN is installed; it has wheels for Linux and CPython up to 3.13 only."""
    return importlib.util.find_spec("scann") is not None


def missing(backend: str, num_items: int) -> str | None:
    """One line that says that exact search stands in for ScaNN, where `backend` "auto" would have chosen it."""
    if backend != "auto" or num_items < SCANN_FROM or installed():
        return None
    return (
        f"ScaNN is not installed ({_WHEELS}): exact search instead, 6 ms a query at 254,000 songs and 13 ms at a "
        "million on two cores"
    )


def choose_backend(backend: str, num_items: int) -> str:
    """ "scann" or "exact" for one of BACKENDS. Raises UserError."""
    if backend not in BACKENDS:
        raise UserError(f"config.retrieval.index={backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    if backend == "scann" and not installed():
        raise UserError(f"config.retrieval.index='scann': ScaNN is not installed ({_WHEELS}); choose 'exact'")
    if backend == "auto":
        return "scann" if installed() and num_items >= SCANN_FROM else "exact"
    return backend


def build_index(
    vectors: np.ndarray,
    *,
    backend: str,
    recall_target: float = 0.99,
    queries: np.ndarray | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Index:
    """Builds an index. ScaNN's parameters are chosen by the catalogue's size and the measured recall.

    The tree has about sqrt(I) leaves. Of the numbers of leaves to search and of songs to re-score, the cheapest are
    chosen whose recall on the sample queries is at least two standard errors above the target.

    Args:
      vectors: float32 [I, d].
      backend: "exact", "scann", or "auto": ScaNN for large catalogues where it is installed.
      recall_target: of the 100 nearest, against exact search; 0 to 1.
      queries: float32 [Q, d], sample queries to measure on; None: 1,000 of the songs.
      devices: devices of this process that share the songs of exact search, which also measures the recall; None: one.
        ScaNN itself runs on the host's cores.

    Raises:
      UserError: unknown backend, ScaNN wanted but not installed, or vectors that are not finite.
    """
    if not 0.0 < recall_target <= 1.0:
        raise UserError(f"config.retrieval.recall_target={recall_target}: must be above 0 and at most 1")
    if not np.isfinite(vectors).all():
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise UserError(f"the embedding of song index {bad} is not finite; train again with a lower learning rate")
    if choose_backend(backend, len(vectors)) == "exact":
        return ExactIndex(vectors, devices=devices)
    vectors = np.ascontiguousarray(vectors, np.float32)
    if queries is None:
        queries = vectors[np.random.default_rng(0).permutation(len(vectors))[:1_000]]
    start = time.perf_counter()
    index = ScannIndex(*_build_scann(vectors))
    index.facts["build_seconds"] = time.perf_counter() - start
    _tune(index, ExactIndex(vectors, devices=devices), vectors, queries, recall_target)
    return index


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Hides what ScaNN's native code writes to stderr; it has no log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _build_scann(vectors: np.ndarray) -> tuple[Any, int, dict[str, Any]]:
    leaves = max(1, min(round(math.sqrt(len(vectors))), len(vectors) // 2))
    builder = scann_files.builder(vectors, leaves=leaves, k=_RECALL_AT, threads=os.cpu_count() or 1)
    with _silenced():
        searcher = builder.build()
    return searcher, len(vectors), {"backend": "scann", "num_leaves": leaves}


def recalls_of(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Share of the wanted songs that were found by each query, float [Q]; both int [Q, k], padded with -1."""
    shares = [
        len(np.intersect1d(f[f >= 0], w[w >= 0])) / max(1, (w >= 0).sum()) for f, w in zip(found, wanted, strict=True)
    ]
    return np.array(shares)


def recall_of(found: np.ndarray, wanted: np.ndarray) -> float:
    """The mean of `recalls_of`."""
    return float(recalls_of(found, wanted).mean())


def sample_queries(users: np.ndarray, songs: np.ndarray, *, count: int = 1_000, seed: int = 0) -> np.ndarray:
    """Queries to measure recall on: half of them songs, half users, float32 [count, d]."""
    rng = np.random.default_rng(seed)
    rows = [x[rng.permutation(len(x))[: -(-count // 2)]] for x in (songs, users)]
    return np.concatenate(rows)


def _tune(index: ScannIndex, exact: ExactIndex, vectors: np.ndarray, queries: np.ndarray, target: float) -> None:
    """Sets the cheapest leaves_to_search and reorder that reach the target and its margin; stores their recall."""
    k = min(_RECALL_AT, len(vectors))
    wanted, _ = exact.search(queries, k)
    leaves = index.facts["num_leaves"]

    def recall(search: int, reorder: int) -> tuple[float, float]:
        index.facts |= {"leaves_to_search": search, "reorder": reorder}
        shares = recalls_of(index.search(queries, k)[0], wanted)
        return float(shares.mean()), float(shares.mean() - _MARGIN * shares.std() / math.sqrt(len(shares)))

    best = None
    # Cost: re-scoring 100 songs takes about as long as searching a leaf of 1,000.
    for reorder in _REORDER:
        low, high = 1, leaves
        if recall(high, reorder)[1] < target:
            continue
        while low < high:  # recall grows with the leaves
            middle = (low + high) // 2
            low, high = (low, middle) if recall(middle, reorder)[1] >= target else (middle + 1, high)
        cost = low * len(vectors) / leaves + 10 * reorder
        if best is None or cost < best[0]:
            best = (cost, low, reorder)
    reached, least = recall(*(best[1:] if best else (leaves, min(len(vectors), _MOST_REORDER))))
    index.facts |= {
        "recall_target": target,
        "recall@100": reached,
        "recall@100_at_least": least,
        "recall_queries": len(queries),
    }


def save_index(index: Index, vectors: np.ndarray, item_ids: np.ndarray, folder: Path, *, fingerprint: str) -> None:
    """`write_index` into a folder that appears whole or not at all."""
    with new_folder(folder) as temporary:
        write_index(index, vectors, item_ids, temporary, fingerprint=fingerprint)


def write_index(index: Index, vectors: np.ndarray, item_ids: np.ndarray, folder: Path, *, fingerprint: str) -> None:
    """Writes an index: vectors, ids, checksums, and what ScaNN saves.

    Args:
      index: over `vectors`.
      vectors: float32 [I, d].
      item_ids: uint32 [I].
      folder: of the index; it exists.
      fingerprint: of the embeddings it was built from.
    """
    writer = ArrayWriter(folder)
    writer.write("item_ids", item_ids)
    files = {}
    if isinstance(index, ScannIndex):
        (folder / "scann").mkdir()
        index._searcher.serialize(str(folder / "scann"), relative_path=True)
        files = {p.name: file_sha256(p) for p in sorted((folder / "scann").iterdir())}
    else:
        writer.write("vectors", np.asarray(vectors, np.float32))
    writer.finish(fingerprint=fingerprint, meta={"version": FORMAT_VERSION, "facts": index.facts, "scann": files})


def load_index(folder: Path, *, fingerprint: str) -> tuple[Index, np.ndarray, np.ndarray]:
    """Loads what `save_index` wrote: the index, its vectors and ids.

    Args:
      folder: of the index.
      fingerprint: of the embeddings that it must have been built from.

    Raises:
      DamagedFileError: a file is missing or damaged.
      UserError: the index was built from other embeddings, by another version, or with ScaNN where there is none.
    """
    store = ArrayFolder.open(folder)
    remedy = "build it again with launch/build_index.py"
    if store.fingerprint != fingerprint:
        raise UserError(f"{folder}: was built from another checkpoint's embeddings; {remedy}")
    if store.meta.get("version") != FORMAT_VERSION:
        raise UserError(f"{folder}: another version of this project wrote it; {remedy}")
    manifest = folder / MANIFEST
    check_form(store.meta, {"facts": {"backend": str}, "scann": {str: str}}, manifest, remedy=remedy)
    ids, facts = store.load("item_ids"), store.meta["facts"]
    if ids.ndim != 1 or ids.dtype != np.uint32 or len(ids) == 0:
        raise DamagedFileError(f"{folder}/item_ids.npy: is no list of song ids; {remedy}")
    if facts["backend"] == "exact":
        vectors = store.load("vectors")
        if vectors.ndim != 2 or len(vectors) != len(ids) or vectors.dtype != np.float32 or not _all_finite(vectors):
            raise DamagedFileError(
                f"{folder}/vectors.npy: are not finite float32 vectors of {len(ids)} songs; {remedy}"
            )
        return ExactIndex(vectors), vectors, ids
    choose_backend("scann", len(ids))
    check_form(facts, _FACTS, manifest, at="meta.facts", remedy=remedy)
    within = {"num_leaves": len(ids), "leaves_to_search": facts["num_leaves"], "reorder": _MOST_REORDER}
    for name, most in within.items():
        if not 1 <= facts[name] <= most:
            raise DamagedFileError(f"{manifest}: meta.facts.{name} is {facts[name]}, not 1 to {most}; {remedy}")
    data = {name: _listed(folder / "scann" / name, store.meta["scann"].get(name), remedy) for name in scann_files.FILES}
    try:
        with _silenced():
            searcher, vectors = scann_files.load(data, num_items=len(ids), leaves=facts["num_leaves"], k=_RECALL_AT)
    except ValueError as e:
        raise DamagedFileError(f"{folder}/scann: {e}; {remedy}") from e
    return ScannIndex(searcher, len(ids), facts), vectors, ids


def _all_finite(vectors: np.ndarray) -> bool:
    return bool(np.isfinite(vectors).all())


def _listed(path: Path, wanted: str | None, remedy: str) -> bytes:
    """The bytes of a file whose checksum is known."""
    if wanted is None or not path.is_file():
        raise DamagedFileError(f"{path}: missing or damaged; {remedy}")
    data = read_bytes(path)
    if hashlib.sha256(data).hexdigest() != wanted:
        raise DamagedFileError(f"{path}: missing or damaged; {remedy}")
    return data
