"""Where time is cut: boundaries between train, validation and test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from music_map.errors import UserError
from music_map.preprocess.settings import PreprocessSettings
from music_map.raw.schema import SIZES

DAY = 86_400
GAP = 1_800
# The end of Yambda's 26,000,000 seconds; its last events lie a few seconds before.
YAMBDA_END = 26_000_000


class Boundaries(NamedTuple):
    """Half-open intervals of time, seconds: train is [0, train_stop), and so on; between two lies a gap, or nothing.

    Attributes:
      train_stop: first timestamp that is not train's.
      val_start, val_stop, test_start: likewise.
      moved: how many rows the boundaries lie from the exact fractions, because equal timestamps stay together.
    """

    train_stop: int
    val_start: int
    val_stop: int
    test_start: int
    moved: tuple[int, int]

    def split_of(self, timestamp: np.ndarray) -> np.ndarray:
        """0 train, 1 val, 2 test, 3 in a gap. uint8, shape of `timestamp`."""
        split = np.full(timestamp.shape, 3, np.uint8)
        split[timestamp < self.train_stop] = 0
        split[(timestamp >= self.val_start) & (timestamp < self.val_stop)] = 1
        split[timestamp >= self.test_start] = 2
        return split


def _cut(times: np.ndarray, before: np.ndarray, counts: np.ndarray, rows: int) -> tuple[int, int]:
    """The time nearest to a cut after `rows` rows of the sorted stream, and by how many rows it misses."""
    at = min(int(np.searchsorted(before + counts, rows, side="right")), len(times) - 1)
    early, late = rows - int(before[at]), int(before[at] + counts[at]) - rows
    # The tied rows go to the side that leaves the sizes nearest to the fractions.
    return (int(times[at]), early) if early <= late else (int(times[at]) + 1, late)


def boundaries(times: np.ndarray, counts: np.ndarray, settings: PreprocessSettings) -> Boundaries:
    """Cuts time.

    "temporal": after train_fraction of the rows, and after val_fraction more; equal timestamps never straddle a cut.
    "global_temporal", with T the end of the data: test from T - 1 day, val the day before less a gap of 30 minutes at
    each side; for Yambda train < 25,823,600, val [25,825,400, 25,911,800), test >= 25,913,600 (arXiv 2505.22238).

    Args:
      times: int64 [n], distinct timestamps of the kept rows, ascending.
      counts: int64 [n], rows of each.
      settings: which split, and the fractions.
    """
    if settings.split == "temporal":
        before = np.cumsum(counts) - counts
        total = int(counts.sum())
        # 1e-9: 0.8 of a multiple of ten must not fall to the integer below.
        train = int(total * settings.train_fraction + 1e-9)
        val = int(total * settings.val_fraction + 1e-9)
        first, moved1 = _cut(times, before, counts, train)
        second, moved2 = _cut(times, before, counts, train + val)
        cut = Boundaries(first, first, second, second, (moved1, moved2))
    else:
        last = int(times[-1])
        published = settings.size in SIZES and YAMBDA_END - DAY < last <= YAMBDA_END
        end = YAMBDA_END if published else -(-last // 5) * 5
        test = end - DAY
        val = test - GAP - DAY
        cut = Boundaries(val - GAP, val, test - GAP, test, (0, 0))
    return cut._replace(train_stop=cut.val_stop, val_start=cut.val_stop) if settings.train_on_val else cut


def check_sizes(sizes: dict[str, int], settings: PreprocessSettings) -> None:
    """Raises UserError where a split is empty (val may be, with train_on_val)."""
    for name, size in sizes.items():
        if size == 0 and not (name == "val" and settings.train_on_val):
            listed = ", ".join(f"{n} {s}" for n, s in sizes.items())
            raise UserError(
                f"the {name} split would be empty (rows: {listed}); change config.data.split, "
                "config.data.train_fraction or config.data.val_fraction, or bring logs of more time"
            )
