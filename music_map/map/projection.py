"""Two dimensions of many: UMAP over the nearest songs, or the two principal components.

Reference: McInnes, Healy and Melville, "UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction",
arXiv 1802.03426.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable

import numpy as np
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree

from music_map.errors import UserError, require_packages
from music_map.reporter import Progress, silent
from music_map.retrieval.index import build_index

METHODS = ("umap", "pca")
# Nearest songs that attract a song, including itself: UMAP's default.
NUM_NEIGHBOURS = 15
# UMAP's least distance between songs, 0 to 1; its default of 0.1 packs them too densely for a pointer.
_MIN_DIST = 0.5
# Passes over the edges. From an older map fewer and smaller steps suffice.
_EPOCHS, _EPOCHS_SMALL, _SMALL = 200, 300, 10_000
_WARM_EPOCHS, _WARM_RATE = 100, 0.05
_BATCH = 8_192
# Fewer songs than this have no useful neighbourhoods.
_FEWEST = 32


def installed() -> bool:
    """Whether UMAP, which comes with the extra "map", is installed."""
    return importlib.util.find_spec("umap") is not None


def nearest_songs(vectors: np.ndarray, k: int, *, progress: Progress = silent) -> tuple[np.ndarray, np.ndarray]:
    """Every song's k nearest by cosine, itself first.

    Args:
      vectors: float32 [I, d], unit rows.
      k: at most I.
      progress: reports songs.

    Returns:
      (songs int32 [I, k], cosine distances float32 [I, k], ascending and 0 for the song itself).
    """
    index = build_index(vectors, backend="auto", recall_target=0.95)
    songs = np.empty((len(vectors), k), np.int32)
    distances = np.zeros((len(vectors), k), np.float32)
    with progress("nearest songs", len(vectors), "song") as advance:
        for start in range(0, len(vectors), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(vectors)), dtype=np.int32)
            found, scores = index.search(vectors[rows], k)
            # The song itself goes first. Where equal songs left it out, it replaces the last of them.
            own = found == rows[:, None]
            own[~own.any(axis=1), -1] = True
            others = ~own
            songs[rows, 0] = rows
            songs[rows, 1:] = found[others].reshape(len(rows), k - 1)
            distances[rows, 1:] = np.maximum(1.0 - scores[others].reshape(len(rows), k - 1), 0.0)
            advance(len(rows))
    # An approximate search may find fewer: the song itself, at distance 1, adds no edge.
    missing = songs < 0
    songs[missing], distances[missing] = np.nonzero(missing)[0], 1.0
    return songs, distances


def principal_plane(vectors: np.ndarray) -> np.ndarray:
    """The first two principal components, float32 [I, 2]; each direction's largest loading is positive."""
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.astype(np.float64).T @ centred)
    plane = directions[:, ::-1][:, :2]
    plane = plane * np.sign(plane[np.abs(plane).argmax(axis=0), np.arange(plane.shape[1])])
    found = (centred @ plane).astype(np.float32)
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def project(
    vectors: np.ndarray,
    *,
    method: str = "umap",
    previous: np.ndarray | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> np.ndarray:
    """Positions of songs on a plane, the same for the same arguments.

    Without `previous` the map is centred and its farthest coordinate is 1. With it, songs start at their old positions
    and new songs at the mean of their nearest ones; then the whole map is rotated, mirrored, scaled and shifted to fit
    the old one best. Remaining movement is due to the model.

    Args:
      vectors: float32 [I, d], unit rows; rows of 0 (songs without any information) go to a disc below the map.
      method: of METHODS.
      previous: float32 [I, 2], NaN for songs that the old map did not have; None: there is none.
      seed: of UMAP's draws.
      progress: reports songs and epochs.

    Returns:
      float32 [I, 2].

    Raises:
      UserError: UMAP is asked for and not installed.
    """
    if method not in METHODS:
        raise UserError(f"--method={method} is unknown; choose one of {', '.join(METHODS)}")
    if method == "umap":
        require_packages("--method=umap", "map", "umap")
    known = np.flatnonzero(np.abs(vectors).max(axis=1, initial=0.0) > 0)
    position = np.zeros((len(vectors), 2), np.float32)
    old = None if previous is None else previous[known]
    shared = np.zeros(len(known), bool) if old is None else np.isfinite(old).all(axis=1)
    if shared.sum() < 3:  # too few to determine a rotation
        old = None
    rows = np.ascontiguousarray(vectors[known])
    if method == "pca" or len(known) < _FEWEST:
        found = principal_plane(rows) if len(known) else np.zeros((0, 2), np.float32)
    else:
        found = _umap(rows, old, seed, progress)
    position[known] = _framed(found) if old is None else _fitted(found, old, shared)
    unknown = np.flatnonzero(np.abs(vectors).max(axis=1, initial=0.0) == 0)
    position[unknown] = _disc(len(unknown), position[known])
    return position


def _umap(vectors: np.ndarray, old: np.ndarray | None, seed: int, progress: Progress) -> np.ndarray:
    songs, distances = nearest_songs(vectors, min(NUM_NEIGHBOURS, len(vectors)), progress=progress)
    epochs = _EPOCHS_SMALL if len(vectors) <= _SMALL else _EPOCHS
    start, rate = principal_plane(vectors), 1.0
    if old is not None:
        start, epochs, rate = _among_neighbours(old, songs, start), _WARM_EPOCHS, _WARM_RATE
    with warnings.catch_warnings():
        # It offers to transform songs to come, which needs an index of its own; and on import it looks for TensorFlow.
        warnings.simplefilter("ignore")
        import umap
    with progress("map", epochs, "epoch") as advance, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reducer = umap.UMAP(
            n_neighbors=songs.shape[1],
            min_dist=_MIN_DIST,
            metric="cosine",
            init=start,
            n_epochs=epochs,
            learning_rate=rate,
            precomputed_knn=(songs, distances),
            random_state=seed,
            n_jobs=1,  # more are not reproducible
            tqdm_kwds={"disable": False, "file": _Epochs(advance), "bar_format": "{n}", "mininterval": 0.5},
        )
        found = np.asarray(reducer.fit_transform(vectors), np.float32)
    # UMAP stretches the start to a square; this restores the old map's sides.
    return found if old is None else found * np.ptp(start, axis=0)


class _Epochs(io.StringIO):
    """A file for UMAP's progress bar, which writes the number of the epoch."""

    def __init__(self, advance: Callable[[int], object]):
        super().__init__()
        self._advance, self._done = advance, 0

    def write(self, text: str) -> int:
        if (number := text.strip()).isdigit():
            self._advance(int(number) - self._done)
            self._done = int(number)
        return len(text)


def _among_neighbours(old: np.ndarray, songs: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """The start of each song: its old position, or for a new song the mean of its old neighbours' (or of all)."""
    start = old.copy()
    for row in np.flatnonzero(~np.isfinite(old).all(axis=1)):
        near = old[songs[row]]
        near = near[np.isfinite(near).all(axis=1)]
        start[row] = near.mean(axis=0) if len(near) else np.nanmean(old, axis=0)
    # Songs that start at the same point would stay together, so each is moved by a thousandth of the map's spread.
    return (start + 1e-3 * np.nanstd(old) * fallback / max(float(np.abs(fallback).max()), 1e-9)).astype(np.float32)


def _framed(position: np.ndarray) -> np.ndarray:
    """Rotated so that it is widest from left to right, centred, and scaled to a farthest coordinate of 1."""
    if not len(position):
        return position
    position = principal_plane(position)
    position = position - (position.max(axis=0) + position.min(axis=0)) / 2
    return (position / max(float(np.abs(position).max()), 1e-9)).astype(np.float32)


def _fitted(position: np.ndarray, old: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """`position` after the similarity transform that brings the shared songs nearest to their old positions."""
    ours, theirs = position[shared].astype(np.float64), old[shared].astype(np.float64)
    middle, target = ours.mean(axis=0), theirs.mean(axis=0)
    turn, scale = orthogonal_procrustes(ours - middle, theirs - target)
    spread = float(np.square(ours - middle).sum())
    return ((position - middle) @ turn * (scale / max(spread, 1e-12)) + target).astype(np.float32)


def _disc(count: int, others: np.ndarray) -> np.ndarray:
    """`count` points in a small disc (a sunflower pattern) below the others."""
    order = np.arange(count)
    radius, angle = 0.15 * np.sqrt((order + 0.5) / max(count, 1)), order * np.pi * (3 - np.sqrt(5))
    low = float(others[:, 1].min()) if len(others) else 0.2
    middle = float(others[:, 0].mean()) if len(others) else 0.0
    return np.stack([middle + radius * np.cos(angle), low - 0.2 + radius * np.sin(angle)], axis=1).astype(np.float32)


def kept_neighbours(position: np.ndarray, vectors: np.ndarray, *, near: int = 10, within: int = 50) -> float:
    """Share of songs' `near` nearest songs that are among the `within` nearest on the map, for a sample of 2,000 songs.

    Args:
      position: float32 [I, 2].
      vectors: float32 [I, d], unit rows.
      near, within: numbers of songs.
    """
    near, within = min(near, len(vectors) - 1), min(within, len(vectors) - 1)
    if near < 1:
        return 1.0
    sample = np.random.default_rng(0).permutation(len(vectors))[:2_000]
    _, drawn = cKDTree(position).query(position[sample], k=within + 1)
    kept = 0
    for start in range(0, len(sample), 128):
        rows = sample[start : start + 128]
        scores = vectors[rows] @ vectors.T
        scores[np.arange(len(rows)), rows] = -np.inf
        wanted = np.argpartition(-scores, near - 1, axis=1)[:, :near]
        kept += sum(len(np.intersect1d(w, d)) for w, d in zip(wanted, drawn[start : start + 128], strict=True))
    return kept / (near * len(sample))
