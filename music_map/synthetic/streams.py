"""Independent random streams: what one draws does not depend on how many numbers another has used."""

from __future__ import annotations

import enum

import numpy as np


class Stream(enum.IntEnum):
    CATALOGUE = 0
    USERS = 1
    EVENTS = 2
    AUDIO = 3
    MAPPINGS = 4
    NAMES = 5


def generator(seed: int, stream: Stream, block: int = 0) -> np.random.Generator:
    """The generator of one block of one stream; the same arguments give the same numbers in any order of calls."""
    return np.random.default_rng([seed, int(stream), block])


def sparse_ids(rng: np.random.Generator, count: int, mean_gap: int) -> np.ndarray:
    """Ascending distinct ids with random gaps of 1 to 2 * mean_gap - 1, as uint32 [count]."""
    return np.cumsum(rng.integers(1, 2 * mean_gap, count), dtype=np.int64).astype(np.uint32)
