"""Past windows of train to fit the head on: like the split that it will be used on, only earlier."""

from __future__ import annotations

import dataclasses

import numpy as np

from music_map.preprocess.dataset import Events
from music_map.preprocess.splits import GAP, HELD_OUT


@dataclasses.dataclass(frozen=True)
class Window:
    """A range of time whose events are targets, seconds.

    Attributes:
      now: the last second that is known.
      start, end: targets have start <= timestamp < end.
    """

    now: int
    start: int
    end: int

    def targets(self, events: Events) -> Events:
        """The events of the window."""
        inside = (events.timestamp >= self.start) & (events.timestamp < self.end)
        return Events(*(column[inside] for column in events))


def choose_windows(
    events: Events,
    *,
    split: str,
    held_out_share: float,
    enough_users: int = 1_000,
    most_windows: int = 20,
    most_share: float = 0.25,
) -> list[Window]:
    """Windows at the end of train, one before the other, the latest first.

    A window is as long as what the split holds out: a day after a gap of half an hour for "global_temporal", and for
    "temporal" the time in which the last `held_out_share` of train happened. There are as many as it takes to see
    `enough_users` (a user counts in each window again).

    Args:
      events: of train, not empty.
      split: "temporal" or "global_temporal".
      held_out_share: events that the split holds out, as a share of train's.
      enough_users: users with an event before and in a window, over all windows.
      most_windows: no more than these.
      most_share: share of train's events that windows may cover; the first one is exempt.

    Returns:
      At least one window; fewer than wanted where train is short, none where no event lies before one.
    """
    times = np.sort(events.timestamp.astype(np.int64))
    end = int(times[-1]) + 1
    if split == "global_temporal":
        length, gap = HELD_OUT, GAP
    else:
        first = times[min(int(len(times) * (1 - held_out_share)), len(times) - 1)]
        length, gap = end - int(first), 0
    windows: list[Window] = []
    seen = 0
    while len(windows) < most_windows and seen < enough_users:
        start = end - length
        known = int(np.searchsorted(times, start - gap))
        if known == 0 or (windows and known < (1 - most_share) * len(times)):
            break
        window = Window(start - gap - 1, start, end)
        windows.append(window)
        earlier = np.unique(events.user[events.timestamp <= window.now])
        seen += int(np.isin(np.unique(window.targets(events).user), earlier).sum())
        end = start
    return windows
