"""Clusters of the map: the islands that songs form on the plane, at two sizes, and a colour for each.

Reference: Campello, Moulavi and Sander, "Density-Based Clustering Based on Hierarchical Density Estimates", PAKDD 2013
(HDBSCAN).
"""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
from scipy.cluster import vq
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from music_map.map.colours import distances, palette

_FEWEST, _MOST = 6, 24
# Smaller groups for one who looks closer: at most so many for each cluster.
_FINER, _MOST_FINE = 5, 90
# HDBSCAN's minimum spanning tree takes time with the square of the songs; a sample this large has the same islands.
_SAMPLE = 8_000
# Least share of the songs in an island, from large to small: the sizes that are tried.
_SHARES = tuple(1 / n for n in (10, 14, 20, 28, 40, 57, 80, 113, 160, 226, 320))
# Songs that make a place dense, itself included; least songs of an island.
_NEAR, _LEAST = 10, 6
# Steps of k-means.
_STEPS = 40


def num_clusters_for(num_songs: int) -> int:
    """The most clusters of a map: about a quarter of the square root of the number of songs, between 6 and 24."""
    return min(max(_FEWEST, min(_MOST, round(num_songs**0.5 / 4))), max(1, num_songs))


def islands(position: np.ndarray, num_clusters: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clusters by the density of the plane, and smaller ones for one who looks closer; the same for the same arguments.

    The leaves of HDBSCAN's tree, for that least size of a cluster which gives most clusters, but not more than asked
    for. Songs between the islands belong to the nearest one. Without scikit-learn, or where there are no two islands,
    k-means of the positions.

    Args:
      position: float32 [I, 2].
      num_clusters: at most so many clusters, at least 1.
      seed: of the sample, and of k-means.

    Returns:
      (clusters int32 [I], smaller ones int32 [I]): 0, 1, ..., the largest first.
    """
    rng = np.random.default_rng(seed)
    sample = position[np.sort(rng.permutation(len(position))[:_SAMPLE])].astype(np.float64)
    tried = [_leaves(sample, share) for share in _SHARES] if _can_find_islands(sample) else []
    coarse, fine = (_most_of(tried, most) for most in (num_clusters, min(_FINER * num_clusters, _MOST_FINE)))
    if coarse is None or fine is None:
        return cluster(position, num_clusters, seed=seed), cluster(position, _FINER * num_clusters, seed=seed)
    at = _nearest(sample, fine, position)
    # A small island belongs to one cluster as a whole: to that of most of its songs, else to the nearest.
    votes = np.zeros((fine.max() + 1, coarse.max() + 1))
    both = (fine >= 0) & (coarse >= 0)
    np.add.at(votes, (fine[both], coarse[both]), 1.0)
    middles = np.stack([np.median(sample[fine == number], axis=0) for number in range(len(votes))])
    whole = np.where(votes.any(axis=1), votes.argmax(axis=1), _nearest(sample, coarse, middles))
    return _largest_first(whole[at]), _largest_first(at)


def _most_of(tried: list[np.ndarray], most: int) -> np.ndarray | None:
    """The labels with most clusters, but not more than `most`: of equal ones those of the larger least size."""
    fitting = [labels for labels in tried if 2 <= labels.max() + 1 <= most]
    return max(fitting, key=lambda labels: labels.max()) if fitting else None


def _nearest(sample: np.ndarray, labels: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The label of the nearest song of the sample that has one, for each position."""
    inside = labels >= 0
    return labels[inside][cKDTree(sample[inside]).query(position)[1]]


def _can_find_islands(sample: np.ndarray) -> bool:
    return len(sample) >= 5 * _NEAR and importlib.util.find_spec("sklearn") is not None


def _leaves(sample: np.ndarray, share: float) -> np.ndarray:
    """HDBSCAN's label of each position, -1 between the islands."""
    from sklearn.cluster import HDBSCAN

    least = max(_LEAST, round(share * len(sample)))
    return HDBSCAN(
        min_cluster_size=least, min_samples=_NEAR, cluster_selection_method="leaf", algorithm="kd_tree", copy=True
    ).fit_predict(sample)


def _largest_first(labels: np.ndarray) -> np.ndarray:
    sizes = np.bincount(labels)
    rank = np.empty(len(sizes), np.int32)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[labels]


def cluster(vectors: np.ndarray, num_clusters: int, *, seed: int = 0) -> np.ndarray:
    """k-means; the same for the same arguments.

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
        most = min(num_clusters, len(np.unique(sample, axis=0)))
        centres, _ = vq.kmeans2(sample, most, iter=_STEPS, minit="++", rng=rng)
    found = np.empty(len(vectors), np.int64)
    half = np.square(centres).sum(axis=1) / 2
    for start in range(0, len(vectors), 65_536):
        rows = slice(start, start + 65_536)
        found[rows] = np.argmax(vectors[rows] @ centres.T - half, axis=1)
    return _largest_first(found)


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
    """A colour of the palette for each cluster, no two alike, and most unlike where clusters touch on the map.

    Greedy: the cluster with most coloured neighbours is next; of the colours that are left it gets the one with which

        sum over coloured clusters c of border(c) / distance(colour, colour of c)^2

    is least.

    Args:
      position: float32 [I, 2].
      clusters: int32 [I].
      previous: colours to keep, by cluster; where two clusters had the same, the first of them keeps it.

    Returns:
      Positions in `music_map.map.colours.palette`, by cluster.
    """
    numbers, at = np.unique(clusters, return_inverse=True)
    border = np.full((len(numbers), len(numbers)), 1e-3)  # clusters that do not touch are to differ as well
    if len(position) > 8:
        sample = np.random.default_rng(0).permutation(len(position))[:20_000]
        _, near = cKDTree(position).query(position[sample], k=9)
        np.add.at(border, (np.repeat(at[sample], 9), at[near.ravel()]), 1.0)
    border = border + border.T
    np.fill_diagonal(border, 0.0)
    colour = np.full(len(numbers), -1)
    for row, number in enumerate(numbers):
        kept = (previous or {}).get(int(number), -1)
        colour[row] = -1 if kept in colour else kept
    count = max(len(numbers), int(colour.max(initial=-1)) + 1)
    clash = 1.0 / np.maximum(np.square(distances(palette(count))), 1e-6)
    while (colour < 0).any():
        left, done = np.flatnonzero(colour < 0), np.flatnonzero(colour >= 0)
        row = left[np.argmax(border[left][:, done].sum(axis=1) + 1e-6 * border[left].sum(axis=1))]
        cost = clash[:, colour[done]] @ border[row, done]
        cost[colour[done]] = np.inf
        colour[row] = int(np.argmin(cost))
    return {int(number): int(c) for number, c in zip(numbers, colour, strict=True)}
