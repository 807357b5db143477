"""The present of a log: its latest time, unless a few times lie far from all others (a clock set to the year 2100)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DAY = 86_400
# The constants of `far_times`.
_TAIL = 0.01
_SHARE_OF_SPAN = 0.05
_BULK_GAPS = 3
_FEW, _TINY = 1_000, 5


class FarTimes(NamedTuple):
    """The times of a log, with the number of those that lie far from all others.

    Attributes:
      first, last: the earliest and the latest time of the others.
      num_early, num_late: events before `first` and after `last`.
    """

    first: int
    last: int
    num_early: int
    num_late: int

    def warnings(self) -> list[str]:
        """A line for each side that has far times."""
        sides = ((self.num_early, "before", self.first), (self.num_late, "after", self.last))
        return [
            f"{count:,} events lie far {side} all others (second {edge:,}); are their times right? The present is the "
            "last of the others; the split counts all events"
            for count, side, edge in sides
            if count
        ]


def far_times(timestamps: np.ndarray, counts: np.ndarray | None = None) -> FarTimes:
    """Finds the few times that a gap separates from all others.

    The bulk of n events are those without the earliest and the latest max(1, n / 100). Outwards from the bulk, times
    beyond the first gap that is longer than

        max(30 days, 5 % of the bulk's span, 3 times the longest gap inside the bulk)

    are far. So a holiday is not such a gap if the log has others like it. With fewer than 1,000 events, a year replaces
    the 30 days; with fewer than 5 events, no time is far.

    Args:
      timestamps: integers [n], seconds, in any order.
      counts: integers [n], number of events at each timestamp; None: one each.

    Raises:
      ValueError: there is no event.
    """
    times = np.asarray(timestamps).astype(np.int64)
    if len(times) == 0:
        raise ValueError("there are no events, so there is no time")
    if counts is not None and (np.diff(times) > 0).all():
        events = np.asarray(counts).astype(np.int64)
    else:
        times, places = np.unique(times, return_inverse=True)
        events = np.bincount(places.ravel(), weights=counts).astype(np.int64)
    total = int(events.sum())
    if total < _TINY:
        return FarTimes(int(times[0]), int(times[-1]), 0, 0)
    up_to = np.cumsum(events)
    tail = max(1, int(total * _TAIL))
    low, high = (int(np.searchsorted(up_to, rank, side="right")) for rank in (tail, total - 1 - tail))
    low = min(low, high)
    bulk_gap = int(np.diff(times[low : high + 1]).max(initial=0))
    least = (30 if total >= _FEW else 365) * DAY
    far = max(least, _SHARE_OF_SPAN * (times[high] - times[low]), _BULK_GAPS * bulk_gap)
    wide = np.diff(times) > far
    late = high + int(np.argmax(np.append(wide[high:], True)))
    early = low - int(np.argmax(np.append(wide[:low][::-1], True)))
    return FarTimes(int(times[early]), int(times[late]), int(events[:early].sum()), int(events[late + 1 :].sum()))


def present_of(timestamps: np.ndarray, counts: np.ndarray | None = None) -> int:
    """The present of a log: the latest of its times that is not far from all others, see `far_times`.

    Args:
      timestamps: integers [n], seconds, in any order.
      counts: integers [n], number of events at each timestamp; None: one each.

    Raises:
      ValueError: there is no event.
    """
    return far_times(timestamps, counts).last
