"""What ScaNN saves, read without trusting it.

ScaNN's own loader unpickles a file of ids where there is one, follows the paths of a list of files, and its native code
takes lengths and indices as they come: a folder from somebody else could run code or end the process. Here the bytes of
six files are parsed and checked, the three protocol buffers are written anew from the numbers in them, and ScaNN loads
a private folder that holds these and nothing else.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from music_map.storage import npy_array

CONFIG, PARTITIONER, CODEBOOK = "scann_config.pb", "serialized_partitioner.pb", "ah_codebook.pb"
TOKENS, CODES, VECTORS = "datapoint_to_token.npy", "hashed_dataset.npy", "dataset.npy"
FILES = (CONFIG, PARTITIONER, CODEBOOK, TOKENS, CODES, VECTORS)

# Dimensions that a code stands for, and the values of a code.
_BLOCK, _CODES = 2, 16
_ASSETS = {
    "AH_CENTERS": CODEBOOK,
    "PARTITIONER": PARTITIONER,
    "TOKENIZATION_NPY": TOKENS,
    "AH_DATASET_NPY": CODES,
    "DATASET_NPY": VECTORS,
}


def builder(vectors: np.ndarray, *, leaves: int, k: int, threads: int = 0) -> Any:
    """ScaNN's builder of an index over float32 [I, d]; see `music_map.retrieval.index.build_index`."""
    from scann.scann_ops.py import scann_ops_pybind

    return (
        scann_ops_pybind.builder(vectors, k, "dot_product")
        .set_n_training_threads(threads)
        .tree(
            num_leaves=leaves,
            num_leaves_to_search=max(1, leaves // 10),
            training_sample_size=min(len(vectors), 250_000),
        )
        .score_ah(_BLOCK, anisotropic_quantization_threshold=0.2)
        .reorder(4 * k)
    )


def load(data: Mapping[str, bytes], *, num_items: int, leaves: int, k: int) -> tuple[Any, np.ndarray]:
    """ScaNN's searcher and its vectors, float32 [I, d], from the bytes of FILES.

    Args:
      data: by file name.
      num_items: I.
      leaves: of the tree.
      k: that `builder` was given.

    Raises:
      ValueError: a file is not what `builder` makes ScaNN save; says which and why.
    """
    from scann.scann_ops.py import scann_ops_pybind

    vectors = _array(data, VECTORS, "<f4", (num_items, None))
    dim = vectors.shape[1]
    if dim < 1 or not np.isfinite(vectors).all():
        raise ValueError(f"{VECTORS}: has values that are not finite, or none")
    blocks = -(-dim // _BLOCK)
    tokens, codes = _array(data, TOKENS, "<i4", (num_items,)), _array(data, CODES, "|u1", (num_items, blocks))
    if tokens.min() < 0 or tokens.max() >= leaves:
        raise ValueError(f"{TOKENS}: has leaves outside 0..{leaves - 1}")
    if codes.max() >= _CODES:
        raise ValueError(f"{CODES}: has codes of {_CODES} or more")
    files = {
        CONFIG: _config(vectors, leaves, k),
        PARTITIONER: _partitioner(data[PARTITIONER], leaves, dim),
        CODEBOOK: _codebook(data[CODEBOOK], dim),
    }
    for name, made in files.items():
        if made != data[name]:
            raise ValueError(f"{name}: is not what this version of ScaNN saves for this index")
    with tempfile.TemporaryDirectory(prefix="music-map-scann-") as folder:
        for name in FILES:
            Path(folder, name).write_bytes(data[name])
        assets = "".join(f'assets {{ asset_type: {kind} asset_path: "{name}" }}\n' for kind, name in _ASSETS.items())
        try:
            native = scann_ops_pybind.scann_pybind.ScannNumpy(folder, assets)
        except (RuntimeError, ValueError, TypeError) as e:
            raise ValueError(f"ScaNN cannot load it ({' '.join(str(e).split())[:200]})") from e
    return scann_ops_pybind.ScannSearcher(native), vectors


def _array(data: Mapping[str, bytes], name: str, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    try:
        array = npy_array(np.frombuffer(data[name], np.uint8))
    except ValueError as e:
        raise ValueError(f"{name}: {e}") from e
    same = len(array.shape) == len(shape) and all(want in (None, n) for n, want in zip(array.shape, shape, strict=True))
    if array.dtype.str != dtype or not same:
        raise ValueError(f"{name}: is {array.dtype.str} {list(array.shape)}, not {dtype} {list(shape)}")
    return array


def _parsed(message: Any, data: bytes, name: str) -> Any:
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(data)
    except DecodeError as e:
        raise ValueError(f"{name}: {e}") from e
    return message


def _config(vectors: np.ndarray, leaves: int, k: int) -> bytes:
    from google.protobuf import text_format
    from scann.proto import scann_pb2

    text = builder(vectors, leaves=leaves, k=k).create_config()
    return text_format.Parse(text, scann_pb2.ScannConfig()).SerializeToString(deterministic=True)


def _partitioner(data: bytes, leaves: int, dim: int) -> bytes:
    """The tree of `leaves` centers of `dim` dimensions, and nothing else of what the bytes hold."""
    from scann.partitioning.partitioner_pb2 import SerializedPartitioner

    stored = _parsed(SerializedPartitioner(), data, PARTITIONER).kmeans.kmeans_tree.root.centers
    if len(stored) != leaves or any(len(c.dimension) != dim for c in stored):
        raise ValueError(f"{PARTITIONER}: has not {leaves} centers of {dim} dimensions")
    made = SerializedPartitioner(n_tokens=leaves)
    tree = made.kmeans.kmeans_tree
    tree.learned_spilling_type = 0
    tree.root.learned_spilling_threshold, tree.root.leaf_id = math.nan, -1
    for leaf, center in enumerate(stored):
        if not np.isfinite(center.dimension).all():
            raise ValueError(f"{PARTITIONER}: has a center that is not finite")
        tree.root.centers.add().dimension.extend(center.dimension)
        tree.root.children.add(learned_spilling_threshold=math.nan, leaf_id=leaf)
    return made.SerializeToString(deterministic=True)


def _codebook(data: bytes, dim: int) -> bytes:
    """The 16 centers of each pair of dimensions, and nothing else of what the bytes hold."""
    from scann.data_format.features_pb2 import GenericFeatureVector
    from scann.proto.centers_pb2 import CentersForAllSubspaces

    stored = _parsed(CentersForAllSubspaces(), data, CODEBOOK).subspace_centers
    made = CentersForAllSubspaces(quantization_scheme=0)
    widths = [min(_BLOCK, dim - at) for at in range(0, dim, _BLOCK)]
    if [len(block.center) for block in stored] != [_CODES] * len(widths):
        raise ValueError(f"{CODEBOOK}: has not {_CODES} centers for each of {len(widths)} blocks")
    for block, width in zip(stored, widths, strict=True):
        copy = made.subspace_centers.add()
        for center in block.center:
            values = center.feature_value_float
            if len(values) != width or not np.isfinite(values).all():
                raise ValueError(f"{CODEBOOK}: has a center that is not {width} finite numbers")
            copy.center.add(feature_type=GenericFeatureVector.FLOAT).feature_value_float.extend(values)
    return made.SerializeToString(deterministic=True)
