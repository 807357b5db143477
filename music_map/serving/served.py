"""The recommender that is served, and the taking in of a newly trained one."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from music_map.errors import UserError
from music_map.retrieval.recommender import Recommender


def _now() -> float:
    """Seconds since 1970. With a fraction: two reloads within a second are told apart."""
    return round(time.time(), 3)


class Busy(Exception):
    """A reload is under way already."""


class Served:
    """Holds the recommender that answers. A new one is loaded beside it, and takes its place at once.

    One thread reloads and adds songs.

    Args:
      recommender: the first.
      load: makes the next, from the newest that the run's folder has; None: there is none.
    """

    def __init__(self, recommender: Recommender, load: Callable[[], Recommender] | None = None):
        self.current, self._load, self.since = recommender, load, _now()
        self._one = threading.Lock()
        self._added: dict[Any, dict[str, Any]] = {}

    @property
    def can_reload(self) -> bool:
        return self._load is not None

    def reload(self) -> dict[str, Any]:
        """Loads the newest run and lets it answer from here on. Where that fails, the old one goes on.

        Returns:
          What is served now: see `facts`.

        Raises:
          UserError: the run cannot be loaded; says why.
          Busy: another thread is at it.
        """
        if not self._one.acquire(blocking=False):
            raise Busy("a reload is under way; ask /health for what is served")
        try:
            # What was frozen at the start would never be freed.
            gc.unfreeze()
            try:
                found = self._load()
                # Songs that the new model knows by now are its own.
                if new := [song for key, song in self._added.items() if found.ids.songs.index_of(key) < 0]:
                    found.add_songs(new)
                found.warm()
            except (UserError, OSError) as e:
                raise UserError(f"not reloaded, what was served before still answers: {e}") from e
            self.current, self.since = found, _now()
            del found
            gc.collect()
        finally:
            gc.freeze()
            self._one.release()
        return self.facts()

    def add_songs(self, songs: Sequence[dict[str, Any]]) -> list[str]:
        """Adds songs for the life of this process, also to models that are loaded later; the same again is no error.

        Returns:
          warnings, such as unknown artists.

        Raises:
          UserError: see `Recommender.add_songs`; then none is added.
        """
        new = [song for song in songs if self._added.get(song["id"]) != song]
        warnings = self.current.add_songs(new) if new else []
        self._added |= {song["id"]: song for song in new}
        return warnings

    def facts(self) -> dict[str, Any]:
        """The number of songs, the index, the step of the checkpoint, and since when it answers."""
        found = self.current
        return {
            "songs": len(found.ids.songs),
            "index": found.index.facts,
            "step": found.step,
            "since": self.since,
        }
