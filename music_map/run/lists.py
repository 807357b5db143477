"""The lists of songs that a run's training has ranked for its table of results: what a stop should not lose.

WORKDIR/lists/NAME    the lists of one scorer: int32 [users, k], in the order of the task's users
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from music_map.errors import DamagedFileError
from music_map.runfiles import RunFiles
from music_map.storage import ArrayWriter, fingerprint

FOLDER = "lists"
# Raised when a scorer or a protocol changes its meaning: lists of an older version are then ranked anew.
FORMAT_VERSION = 1


class KeptLists:
    """Ranks what has not been ranked.

    Args:
      files: of the run.
      identity: JSON-able; what all of the lists depend on.
    """

    def __init__(self, files: RunFiles, identity: Any):
        self._files, self._identity = files, {"version": FORMAT_VERSION, "of": identity}

    def get(self, name: str, identity: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The lists of a scorer, int32 [U, k]: those that are kept, or else those that `make` gives.

        Args:
          name: of the scorer.
          identity: JSON-able; what its lists depend on besides.
          make: ranks.
        """
        folder, identity = f"{FOLDER}/{name}", fingerprint({**self._identity, "scorer": identity})
        with contextlib.suppress(DamagedFileError):  # ranked anew: it costs the time and nothing else
            if self._files.has(folder) and (store := self._files.arrays(folder)).fingerprint == identity:
                return store.load("songs")
        found = make()
        with self._files.new_folder(folder) as temporary:
            writer = ArrayWriter(temporary)
            writer.write("songs", found)
            writer.finish(fingerprint=identity, meta={})
        return found
