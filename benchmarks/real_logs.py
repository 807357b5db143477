"""Real logs as arguments of `music_map.read_logs`: 30Music's windows, and Last.fm-1K's counts as events."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from music_map.preprocess.splits import END_GRID, GAP, HELD_OUT

# Days of the three windows of Last.fm-1K, in proportion to the plays of train and validation (8.7 and 1.0 million).
DAYS = (8, 1, 1)
# The plays of train are spread evenly, so only the validation day is a past window that tells what is played next.
ONE_WINDOW = {"recency.num_users": 600}


class Log(NamedTuple):
    """One log of a group.

    Attributes:
      name: of its folder.
      arguments: of `read_logs`.
      settings: of the configuration, where they differ.
    """

    name: str
    arguments: Callable[[], Mapping[str, Any]]
    settings: Mapping[str, Any] = {}


def logs_of(data: Path) -> dict[str, list[Log]]:
    """The logs of each group."""
    columns = {"user": "UserId", "time": "Time"}
    songs, artists = {"item": "ItemId", "artist": "ArtistId"}, {"item": "ArtistId"}

    def window(number: int, item: Mapping[str, str]) -> Callable[[], Mapping[str, Any]]:
        return lambda: {"logs": data / f"30music/window{number}.tsv", **columns, **item}

    def counts() -> Mapping[str, Any]:
        names = ("train", "validation", "test")
        windows = [np.loadtxt(data / f"lastfm1k-counts/{n}.csv", np.int64, delimiter=",").T for n in names]
        return {"logs": events_of_counts(windows, DAYS)}

    return {
        "30music": [Log(f"30music-{n}", window(n, songs)) for n in range(3)],
        "30music-artists": [Log(f"30music-artists-{n}", window(n, artists)) for n in range(3)],
        "lastfm1k": [Log("lastfm1k", counts, ONE_WINDOW)],
    }


def events_of_counts(
    windows: list[tuple[np.ndarray, np.ndarray, np.ndarray]], days: tuple[int, ...], *, seed: int = 0
) -> dict[str, np.ndarray]:
    """An event for each play of counts by window, at made-up times that the split `global_temporal` cuts as given.

    The windows follow each other with the split's gaps between; the last two take a day each. The plays of a pair lie
    at equal distances in its window, the first at random.

    Args:
      windows: users, items and plays of each window, integers [N]; three windows at least.
      days: length of each window.
      seed: of the random first plays.

    Returns:
      {"user", "item", "time"}: integers [plays], time in seconds.
    """
    rng, start, columns = np.random.default_rng(seed), 0, []
    for (users, items, plays), length in zip(windows, days, strict=True):
        pair = np.repeat(np.arange(len(plays)), plays)
        number = np.arange(len(pair)) - np.repeat(np.cumsum(plays) - plays, plays)
        place = (number + rng.random(len(plays))[pair]) / plays[pair]
        # The last play lies at the end of the window: the split counts its days back from it.
        seconds = np.floor(place / place.max() * (length * HELD_OUT - 1)).astype(np.int64)
        columns.append((users[pair], items[pair], start + seconds))
        start += length * HELD_OUT + GAP + 1
    user, item, time = map(np.concatenate, zip(*columns, strict=True))
    return {"user": user, "item": item, "time": time + (-time.max() % END_GRID)}
