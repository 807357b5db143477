"""The times where train ends and val and test begin, the same for every user."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from music_map.errors import UserError
from music_map.preprocess.dataset import SPLITS

DAY = 86_400
# Constants of the Yambda benchmark (arXiv 2505.22238): one day of test, 30 minutes unused before it.
HELD_OUT = DAY
GAP = 1_800
# The end of the log is its last timestamp rounded up to a multiple of this: 26,000,000 s for Yambda, whose last events
# fall in the last minutes before.
END_GRID = 1_000


class Cutoffs(NamedTuple):
    """Half-open ranges of time, seconds: train [0, train_before), val [val_from, val_before), test [test_from, ...).

    Attributes:
      moved: events by which train, and train + val, differ from the requested share, as equal timestamps stay together.
    """

    train_before: int
    val_from: int
    val_before: int
    test_from: int
    moved: tuple[int, int] = (0, 0)

    def assign(self, timestamp: np.ndarray) -> np.ndarray:
        """The position in SPLITS of each timestamp's split, int8 [n]; -1 in a gap between two splits."""
        split = np.full(timestamp.shape, -1, np.int8)
        split[timestamp < self.train_before] = 0
        split[(timestamp >= self.val_from) & (timestamp < self.val_before)] = 1
        split[timestamp >= self.test_from] = 2
        return split


def temporal_cutoffs(
    times: np.ndarray, counts: np.ndarray, *, train_fraction: float, val_fraction: float, train_on_val: bool
) -> Cutoffs:
    """Splits events by shares of their number, in order of time; equal timestamps are never separated.

    A boundary lies where the number of events before it is nearest to the requested share. Of two equally near places
    the earlier is taken.

    Args:
      times: int64 [T], distinct timestamps, ascending.
      counts: int64 [T], events at each.
      train_fraction, val_fraction: shares of the events.
      train_on_val: val joins train.
    """
    before = np.cumsum(counts)
    total = int(before[-1])

    def boundary(fraction: float) -> tuple[int, int]:
        wanted = round(fraction * total)
        # The nearer of the places (time, events before it) on both sides; the first and the last place are possible.
        at = int(np.searchsorted(before, wanted))
        places = [(int(times[n]), int(before[n - 1]) if n else 0) for n in (at, at + 1) if n < len(times)]
        places.append((int(times[-1]) + 1, total))
        start, events = min(places, key=lambda place: abs(place[1] - wanted))
        return start, events - wanted

    train_before, train_moved = boundary(train_fraction)
    test_from, val_moved = boundary(train_fraction + val_fraction)
    if train_on_val:
        return Cutoffs(test_from, test_from, test_from, test_from, (val_moved, val_moved))
    return Cutoffs(train_before, train_before, test_from, test_from, (train_moved, val_moved))


def global_temporal_cutoffs(last_timestamp: int, *, train_on_val: bool) -> Cutoffs:
    """The Yambda paper's split: test is the last day, val the day before, each after an unused gap of 30 minutes.

    With end = the last timestamp rounded up to a multiple of 1,000 s:

        test = [end - 1 day, end],  val = the day that ends 30 minutes before test,  train ends 30 minutes before val

    With `train_on_val` (the paper's final run) train goes on to 30 minutes before test. For Yambda, end = 26,000,000.
    """
    end = -(-last_timestamp // END_GRID) * END_GRID
    test_from = end - HELD_OUT
    val_before = test_from - GAP
    val_from = val_before - HELD_OUT
    if train_on_val:
        return Cutoffs(val_before, val_before, val_before, test_from)
    return Cutoffs(val_from - GAP, val_from, val_before, test_from)


def split_sizes(cutoffs: Cutoffs, times: np.ndarray, counts: np.ndarray, *, train_on_val: bool) -> dict[str, int]:
    """Number of events per split; "gap" counts events outside all splits.

    Raises:
      UserError: a split would be empty (val may be empty if it joined train).
    """
    split = cutoffs.assign(times)
    sizes = {name: int(counts[split == at].sum()) for at, name in enumerate(SPLITS)}
    for name, size in sizes.items():
        if size == 0 and not (name == "val" and train_on_val):
            raise UserError(
                f"the {name} split would be empty: the filtered interactions are from {times[0]} s to "
                f"{times[-1]} s, train would end before {cutoffs.train_before} s and test begin at {cutoffs.test_from} "
                "s; choose another --config.data.split or other fractions, or give a longer log"
            )
    return sizes | {"gap": int(counts[split < 0].sum())}
