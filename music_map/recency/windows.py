"""Past windows of train for fitting the head: like the split that it is used on, but earlier."""

from __future__ import annotations

import dataclasses

import numpy as np

from music_map.preprocess.dataset import Events
from music_map.preprocess.splits import GAP, HELD_OUT


@dataclasses.dataclass(frozen=True)
class Window:
    """A range of time whose events are targets, seconds.

    Attributes:
      now: the last second before the window whose events are known.
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
    few_users: int = 250,
    most_windows: int = 20,
    most_share: float = 0.25,
    most_share_of_few: float = 0.75,
) -> list[Window]:
    """Successive windows at the end of train, the latest first.

    A window is as long as the held-out part of the split: for "global_temporal" a day after a gap of half an hour, for
    "temporal" the time span of the last `held_out_share` of train. Windows are added until they have `enough_users`; a
    user counts once in each window.

    Args:
      events: of train, not empty.
      split: "temporal" or "global_temporal".
      held_out_share: number of events that the split holds out, as a share of train's.
      enough_users: number of users with an event before and in a window, summed over the windows.
      few_users: number of users below which windows may cover `most_share_of_few`.
      most_windows: the most windows.
      most_share, most_share_of_few: the share of train's events that windows may cover; the first window is exempt.

    Returns:
      The windows, fewer if train is short. Empty if no event precedes the latest window.
    """
    times = np.sort(events.timestamp)
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
        known = int(np.searchsorted(times, times.dtype.type(max(start - gap, 0))))
        covered = most_share if seen >= few_users else most_share_of_few
        if known == 0 or (windows and known < (1 - covered) * len(times)):
            break
        window = Window(start - gap - 1, start, end)
        windows.append(window)
        earlier = np.unique(events.user[events.timestamp <= window.now])
        seen += int(np.isin(np.unique(window.targets(events).user), earlier).sum())
        end = start
    return windows
