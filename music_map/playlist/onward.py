"""Where sessions go on from a playlist: linear maps of its centre, fitted by least squares to what came next.

    m = unit(sum_i z_i),    W = argmin sum_(m, t) ||m W - z_t||^2 + RIDGE l ||W||^2
    q' = unit(q + strength unit(m W))

over the pairs of a session's first songs, with centre m, and each later song t; l is the mean eigenvalue of sum m^T m.
One W is of single songs, another of more: a centre of several tells more of what follows. m is where songs like the
playlist's are, m W where the songs are that were played after such ones. W has a closed form, and q' is in the space of
songs, so an index finds its nearest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from music_map.errors import DamagedFileError
from music_map.ridge import solve_ridge
from music_map.rows import row_of_each
from music_map.storage import ArrayFolder, ArrayWriter
from music_map.unit import unit_rows

if TYPE_CHECKING:
    from music_map.evaluation.playlist import Sessions

# Chosen on the validation splits of generated logs and MovieLens, see docs/lab-notes.md.
RIDGE = 0.1
# Plays of the sessions that are fitted on, drawn where there are more: the maps have 2 d^2 numbers.
MOST_PLAYS = 200_000
# Raise it when the maps change: exports, and the strengths, are then made again.
FORMAT_VERSION = 1


class Onward(NamedTuple):
    """The maps W, float32 [d, d]: of a single song, and of several."""

    one: np.ndarray
    several: np.ndarray

    def save(self, writer: ArrayWriter) -> None:
        """Writes the arrays as onward/NAME."""
        for name, array in self._asdict().items():
            writer.write(f"onward/{name}", array)

    @classmethod
    def load(cls, store: ArrayFolder, *, dim: int) -> Onward | None:
        """Reads what `save` wrote, of songs float32 [I, dim]; None where there is nothing. Raises DamagedFileError."""
        if "onward/one" not in store.arrays:
            return None
        found = cls(*(store.load(f"onward/{name}") for name in cls._fields))
        for name, array in found._asdict().items():
            if array.shape != (dim, dim) or not np.isfinite(array).all():
                raise DamagedFileError(
                    f"{store.folder / 'onward' / name}.npy: needs {dim} x {dim} finite numbers; delete {store.folder} "
                    "and run the command again to rebuild it"
                )
        return found


def onward_of(sessions: Sessions, vectors: np.ndarray, *, seed: int = 0) -> Onward:
    """Fits the maps.

    Args:
      sessions: of the logs.
      vectors: z, unit rows float32 [I, d].
      seed: of the draw of sessions where they have more than MOST_PLAYS plays.
    """
    order = np.random.default_rng(seed).permutation(len(sessions.users))
    chosen = sessions.select(np.sort(order[np.cumsum(sessions.sizes[order]) <= MOST_PLAYS]))
    session, start = row_of_each(chosen.offsets), chosen.offsets[:-1]
    place = np.arange(len(chosen.items)) - start[session] + 1
    left = chosen.sizes[session] - place
    total = np.zeros((len(place) + 1, vectors.shape[1]))
    np.cumsum(vectors[chosen.items], axis=0, dtype=np.float64, out=total[1:])
    first = unit_rows(total[1:] - total[start][session])
    rest = total[chosen.offsets[1:]][session] - total[1:]

    def solved(rows: np.ndarray) -> np.ndarray:
        m, pairs = first[rows], left[rows]
        return solve_ridge((m * pairs[:, None]).T @ m, m.T @ rest[rows], RIDGE).astype(np.float32)

    return Onward(solved((left > 0) & (place == 1)), solved((left > 0) & (place > 1)))


def go_on(
    queries: np.ndarray, totals: np.ndarray, counts: np.ndarray, onward: Onward, strengths: tuple[float, float]
) -> np.ndarray:
    """q', see the module. Plain NumPy: no program for each number of queries.

    Args:
      queries: q, float32 [N, d].
      totals: the sum of the songs of each, float32 [N, d].
      counts: of these songs, int [N].
      onward: the maps.
      strengths: with the map of one song, and of several.

    Returns:
      float32 [N, d], unit rows.
    """
    centre, single = unit_rows(totals), (counts == 1)[:, None]
    to = np.where(single, centre @ onward.one, centre @ onward.several)
    return unit_rows(queries + np.where(single, *strengths) * unit_rows(to)).astype(np.float32)
