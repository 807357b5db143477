"""Songs that are listened to together: a sparse matrix of songs, counted in the sessions of the logs.

    n_ij = sum over sessions with i and j of 0.9^(|place of i - place of j| - 1), where they are at most 20 places apart
    C_ij = n_ij / ((n_i n_j)^0.4 + 10),    n_i the sessions with song i

Of each row the largest 50 are kept. A playlist whose songs i have the weights a_i comes with song j to the degree
sum_i a_i C_ij, which knows of pairs what a product of embeddings smooths away, and is a sum over songs: it needs no
single point between them.

Reference: Ludewig et al., "Empirical analysis of session-based recommendation algorithms", UMUAI 2021.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from music_map.reporter import Progress, silent
from music_map.rows import offsets_of, row_of_each, select
from music_map.sparse_rows import largest
from music_map.storage import ArrayFolder, ArrayWriter, check_rows

if TYPE_CHECKING:
    from music_map.evaluation.playlist import Sessions

# Chosen on the validation splits of generated logs and of 30Music, see docs/lab-notes.md.
DECAY, REACH = 0.9, 20
POWER, SHRINKAGE = 0.4, 10.0
MOST_COMPANIONS = 50
# Plays of a song that are counted: a song of more has enough of them. It bounds the work.
MOST_PLAYS = 500
# Pairs that are counted at once: 16 bytes each, and as many again while they are sorted.
_BLOCK_PAIRS = 1 << 23
# Raise it when the counts change: exports are then written again.
FORMAT_VERSION = 1
_NAMES = ("offsets", "songs", "closeness")


class Companions(NamedTuple):
    """The matrix C; song i is listened to together with songs[offsets[i]:offsets[i + 1]].

    Attributes:
      offsets: int64 [I + 1].
      songs: int32 [N], distinct in a row.
      closeness: float32 [N], above 0.
    """

    offsets: np.ndarray
    songs: np.ndarray
    closeness: np.ndarray

    @property
    def matrix(self) -> sparse.csr_array:
        """float32 [I, I]."""
        size = len(self.offsets) - 1
        return sparse.csr_array((self.closeness, self.songs, self.offsets), (size, size))

    def among(
        self, songs: np.ndarray, weights: np.ndarray, groups: np.ndarray | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """sum_i weights_i C_ij over the songs i of each group.

        Args:
          songs: int [n].
          weights: float32 [n].
          groups: int [n], from 0; None: all are one.

        Returns:
          for each group the songs j where the sum is not 0, int32 [m], ascending, and the sums float32 [m].
        """
        size = len(self.offsets) - 1
        groups = np.zeros(len(songs), np.int64) if groups is None else groups
        offsets, at = select(self.offsets, songs)
        row = row_of_each(offsets)
        keys, values = groups[row] * size + self.songs[at], self.closeness[at] * weights[row]
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        found, sums = keys[first], np.add.reduceat(values, first) if len(first) else values
        ends = np.searchsorted(found, np.arange(int(groups.max(initial=0)) + 2) * size)
        found = (found % size).astype(np.int32)
        return [(found[a:b], sums[a:b]) for a, b in itertools.pairwise(ends.tolist())]

    def between(self, songs: np.ndarray, others: np.ndarray) -> np.ndarray:
        """C_ij of songs i, int [n], and distinct others j, int [m]: float32 [n, m]."""
        offsets, at = select(self.offsets, songs)
        order = np.argsort(others, kind="stable")
        place = np.minimum(np.searchsorted(others[order], self.songs[at]), len(others) - 1)
        there = others[order][place] == self.songs[at]
        found = np.zeros((len(songs), len(others)), np.float32)
        found[row_of_each(offsets)[there], order[place[there]]] = self.closeness[at][there]
        return found

    def grown(self, num_items: int) -> Companions:
        """With more songs, which come with none."""
        more = np.full(num_items + 1 - len(self.offsets), len(self.songs), self.offsets.dtype)
        return self._replace(offsets=np.append(self.offsets, more))

    def save(self, writer: ArrayWriter) -> None:
        """Writes the arrays as companions/NAME."""
        for name, array in zip(_NAMES, self, strict=True):
            writer.write(f"companions/{name}", array)

    @classmethod
    def load(cls, store: ArrayFolder, *, num_items: int) -> Companions | None:
        """Reads what `save` wrote; None where there is nothing. Raises DamagedFileError."""
        if "companions/songs" not in store.arrays:
            return None
        found = cls(*(store.load(f"companions/{name}") for name in _NAMES))
        check_rows(store, "companions/songs", found.offsets, found.songs, rows=num_items, limit=num_items)
        return found


def companions_of(sessions: Sessions, num_items: int, *, progress: Progress = silent) -> Companions:
    """Counts who comes with whom.

    The work is plays x 2 REACH, by blocks of songs, so that memory stays bounded. Of a song with more than MOST_PLAYS
    plays so many are counted, spread evenly over the users, and stand for all of them.

    Args:
      sessions: of the logs, see `music_map.evaluation.playlist.sessions_of`.
      num_items: number of songs.
      progress: reports songs.
    """
    items = sessions.items
    session = np.repeat(np.arange(len(sessions.users), dtype=np.int32), sessions.sizes)
    count = np.bincount(items, minlength=num_items).astype(np.int64)
    plays, offsets = np.argsort(items, kind="stable"), offsets_of(count)
    counted = np.minimum(count, MOST_PLAYS)
    share = (count / np.maximum(counted, 1)).astype(np.float32)
    norm = (np.maximum(count, 1) ** POWER).astype(np.float32)
    steps = np.concatenate([np.arange(-REACH, 0), np.arange(1, REACH + 1)])
    decay = (DECAY ** (np.abs(steps) - 1)).astype(np.float32)

    def rows(songs: np.ndarray) -> sparse.csr_array:
        row = np.repeat(np.arange(len(songs)), counted[songs])
        nth = np.arange(len(row)) - np.repeat(offsets_of(counted[songs])[:-1], counted[songs])
        # One play out of each stretch of `share` plays: at even steps the counts could follow a pattern of the logs.
        drawn = np.random.default_rng(songs[0]).random(len(row))
        at = plays[offsets[songs][row] + ((nth + drawn) * share[songs][row]).astype(np.int64)]
        near = at[:, None] + steps[None, :]
        there = np.clip(near, 0, len(items) - 1)
        inside = (near == there) & (session[there] == session[at][:, None])
        row, step = np.broadcast_to(row[:, None], near.shape)[inside], np.nonzero(inside)[1]
        counts = sparse.coo_array((decay[step], (row, items[there[inside]])), (len(songs), num_items))
        found = sparse.csr_array(counts)  # adds up the entries of a pair
        own = songs[np.repeat(np.arange(len(songs)), np.diff(found.indptr))]
        found.data = found.data * share[own] / (norm[own] * norm[found.indices] + np.float32(SHRINKAGE))
        return largest(found, MOST_COMPANIONS)

    parts = []
    # Sorting and gathering release the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress("companions", num_items, "song") as advance:
        for part in pool.map(rows, _blocks(counted * len(steps))):
            parts.append(part)
            advance(part.shape[0])
    joined = sparse.csr_array(sparse.vstack(parts, format="csr"))
    return Companions(joined.indptr.astype(np.int64), joined.indices.astype(np.int32), joined.data.astype(np.float32))


def _blocks(pairs: np.ndarray) -> list[np.ndarray]:
    """Successive songs with about _BLOCK_PAIRS pairs each, from the pairs of each song, int [I]."""
    number = (np.cumsum(pairs) - 1) // _BLOCK_PAIRS
    return np.split(np.arange(len(pairs)), np.flatnonzero(np.diff(number)) + 1)
