"""Clusters of similar songs, and colours that distinguish clusters next to each other on the map."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.cluster import vq
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

# Okabe and Ito's palette has seven colours besides black.
NUM_COLOURS = 7
_FEWEST, _MOST = 6, 40
# Steps of k-means, and songs that its centres are fitted on; more of either change the centres little.
_STEPS, _SAMPLE = 40, 50_000


def num_clusters_for(num_songs: int) -> int:
    """About a quarter of the square root of the number of songs, between 6 and 40."""
    return min(max(_FEWEST, min(_MOST, round(num_songs**0.5 / 4))), max(1, num_songs))


def cluster(vectors: np.ndarray, num_clusters: int, *, seed: int = 0) -> np.ndarray:
    """k-means of unit vectors; the same for the same arguments.

    Args:
      vectors: float32 [I, d].
      num_clusters: at least 1; the result has fewer if songs are few or alike.
      seed: of the first centres.

    Returns:
      int32 [I]: clusters 0, 1, ..., the largest first.
    """
    rng = np.random.default_rng(seed)
    sample = vectors[np.sort(rng.permutation(len(vectors))[:_SAMPLE])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about empty clusters, which are left out below
        centres, _ = vq.kmeans2(sample, min(num_clusters, len(sample)), iter=_STEPS, minit="++", rng=rng)
    found = np.empty(len(vectors), np.int64)
    half = np.square(centres).sum(axis=1) / 2
    for start in range(0, len(vectors), 65_536):
        rows = slice(start, start + 65_536)
        found[rows] = np.argmax(vectors[rows] @ centres.T - half, axis=1)
    sizes = np.bincount(found, minlength=len(centres))
    rank = np.empty(len(centres), np.int32)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(centres))
    return rank[found]


def renumber_like(clusters: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Renumbers clusters: each takes the number of the older map's cluster with which it shares most songs.

    Args:
      clusters: int32 [I].
      previous: int32 [I], the older map's, -1 for songs that it did not have.

    Returns:
      int32 [I]; clusters without a counterpart get the numbers after the older map's last.
    """
    shared = previous >= 0
    count, before = int(clusters.max(initial=-1)) + 1, int(previous.max(initial=-1)) + 1
    overlap = np.zeros((count, before))
    np.add.at(overlap, (clusters[shared], previous[shared]), 1.0)
    number = np.full(count, -1, np.int64)
    ours, theirs = linear_sum_assignment(-overlap)
    matched = overlap[ours, theirs] > 0
    number[ours[matched]] = theirs[matched]
    number[number < 0] = before + np.arange(int((number < 0).sum()))
    return number[clusters].astype(np.int32)


def centres_of(position: np.ndarray, clusters: np.ndarray) -> dict[int, int]:
    """For each cluster the song where its name is written: the one nearest to the median position."""
    found = {}
    for number in np.unique(clusters):
        rows = np.flatnonzero(clusters == number)
        distance = np.square(position[rows] - np.median(position[rows], axis=0)).sum(axis=1)
        found[int(number)] = int(rows[np.argmin(distance)])
    return found


def colours_of(position: np.ndarray, clusters: np.ndarray, *, previous: dict[int, int] | None = None) -> dict[int, int]:
    """A colour for each cluster, 0 to 6; clusters that touch on the map differ where seven colours allow it.

    Greedy: the cluster with most coloured neighbours is next; it gets the colour with which it shares least border.

    Args:
      position: float32 [I, 2].
      clusters: int32 [I].
      previous: colours to keep, by cluster.
    """
    numbers, at = np.unique(clusters, return_inverse=True)
    border = np.zeros((len(numbers), len(numbers)))
    if len(position) > 8:
        sample = np.random.default_rng(0).permutation(len(position))[:20_000]
        _, near = cKDTree(position).query(position[sample], k=9)
        np.add.at(border, (np.repeat(at[sample], 9), at[near.ravel()]), 1.0)
    border = border + border.T
    np.fill_diagonal(border, 0.0)
    colour = np.full(len(numbers), -1)
    for row, number in enumerate(numbers):
        colour[row] = (previous or {}).get(int(number), -1)
    while (colour < 0).any():
        left = np.flatnonzero(colour < 0)
        row = left[np.argmax(border[left][:, colour >= 0].sum(axis=1) + 1e-6 * border[left].sum(axis=1))]
        cost = np.array([border[row, colour == c].sum() for c in range(NUM_COLOURS)])
        used = np.array([(colour == c).sum() for c in range(NUM_COLOURS)])
        colour[row] = np.lexsort((used, cost))[0]
    return {int(number): int(c) for number, c in zip(numbers, colour, strict=True)}
