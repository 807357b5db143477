"""The tastes of a playlist: groups of its songs that are as alike as the songs of a listening session, each a query.

    cohesion(S) = mean over the pairs i < j of S of z_i . z_j

A playlist whose cohesion reaches the bound (most sessions do, see `music_map.playlist.mixture`) is one taste. Another
is cut along its average-linkage tree: the least cohesive group is cut in two until all reach the bound, or there are
MOST_TASTES. Each taste ranks songs for itself; the lists become one by weighted reciprocal rank,

    f(j) = sum_h w_h / (KAPPA + rank_h(j)),    w_h the sum of the attention weights of the songs of taste h

with ranks from 1 up to DEPTH.

References: Pal et al., "PinnerSage", KDD 2020 (a user as clusters of items); Cen et al., "Controllable Multi-Interest
Framework for Recommendation", KDD 2020 (ComiRec); Cormack et al., "Reciprocal Rank Fusion", SIGIR 2009.
"""

from __future__ import annotations

import numpy as np

MOST_TASTES = 8
KAPPA, DEPTH = 2.0, 100


def cohesion(songs: np.ndarray) -> float:
    """The mean cosine of pairs of songs, unit rows float32 [n, d]; 1 for a single song.

    (|sum_i z_i|^2 - n) / (n (n - 1)), as the squares of the lengths are 1.
    """
    n = len(songs)
    if n < 2:
        return 1.0
    total = songs.sum(axis=0, dtype=np.float64)
    return float((total @ total - n) / (n * (n - 1)))


def tastes_of(songs: np.ndarray, least: float) -> np.ndarray:
    """The taste of each song, int64 [n] from 0, numbered by their first songs.

    Args:
      songs: unit rows float32 [n, d].
      least: the cohesion that is enough.
    """
    n, whole = len(songs), cohesion(songs)
    if whole >= least:
        return np.zeros(n, np.int64)
    from scipy.cluster.hierarchy import linkage  # takes a tenth of a second

    # Songs without an embedding are 0, to which scipy knows no cosine: distances come from the products.
    products = songs.astype(np.float64) @ songs.T.astype(np.float64)
    tree = linkage(1.0 - products[np.triu_indices(n, 1)], "average")[:, :2].astype(np.int64)
    members = [[song] for song in range(n)]
    for one, other in tree:
        members.append(members[one] + members[other])
    groups = {len(members) - 1: whole}
    while len(groups) < MOST_TASTES and groups[node := min(groups, key=groups.__getitem__)] < least:
        del groups[node]
        groups |= {half: cohesion(songs[members[half]]) for half in tree[node - n].tolist()}
    tastes = np.zeros(n, np.int64)
    for number, node in enumerate(sorted(groups, key=lambda node: min(members[node]))):
        tastes[members[node]] = number
    return tastes


def places_of(tastes: np.ndarray, count: int) -> np.ndarray:
    """The place of each entry in the list of its own taste, int [N], of `count` lists one after the other."""
    return np.arange(len(tastes)) - np.searchsorted(tastes, np.arange(count))[tastes]


def fuse(
    songs: np.ndarray, scores: np.ndarray, tastes: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One list from the lists of several tastes.

    Args:
      songs, scores: int32 [N] and float32 [N], the list of taste 0, best first, then that of taste 1, and so on.
      tastes: int [N], of each entry.
      weights: w, float [H].

    Returns:
      songs int32 [m], of all lists, and scores float32 [m], descending. The order is that of f, beyond DEPTH that of
      the best score. Scores keep the scale of a single taste's: the place r has the r-th largest of the songs' best
      scores.
    """
    place = places_of(tastes, len(weights))
    songs, at = np.unique(songs, return_inverse=True)
    best = np.full(len(songs), -np.inf, np.float32)
    np.maximum.at(best, at, scores)
    gain = np.bincount(at, np.where(place < DEPTH, weights[tastes] / (KAPPA + 1 + place), 0.0), len(songs))
    return songs[np.lexsort((songs, -best, -gain))], -np.sort(-best)
