"""Music Map: song recommendations from listening logs with a graph neural network, in JAX.

    import music_map as mm

    logs = mm.read_logs("plays.csv", user="listener", item="track", time="played_at")
    run = mm.train(logs, workdir="checkpoints/own", epochs=5)
    print(mm.evaluate(run))
    print(mm.Recommender.load(run.workdir).recommend(songs=["Hello"], k=10))

The names below are public. Each is imported at its first use, so that `import music_map` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from music_map.errors import DamagedFileError as DamagedFileError
    from music_map.errors import UserError as UserError
    from music_map.retrieval.answers import Answer as Answer
    from music_map.retrieval.answers import Query as Query
    from music_map.retrieval.filters import Filters as Filters
    from music_map.retrieval.playlist_files import Track as Track
    from music_map.retrieval.playlist_files import read_playlist as read_playlist
    from music_map.retrieval.playlist_files import write_playlist as write_playlist
    from music_map.retrieval.plays import Play as Play
    from music_map.run.api import evaluate as evaluate
    from music_map.run.api import prepare as prepare
    from music_map.run.api import read_logs as read_logs
    from music_map.run.api import train as train
    from music_map.run.config import Config as Config
    from music_map.run.evaluate import Evaluation as Evaluation
    from music_map.run.logs import Logs as Logs
    from music_map.run.recommender import Recommender as Recommender
    from music_map.run.run import Run as Run
    from music_map.run.run import open_run as open_run
    from music_map.run.start import start as start

# The module of each public name.
_HOMES = {
    "Answer": "retrieval.answers",
    "Config": "run.config",
    "DamagedFileError": "errors",
    "Evaluation": "run.evaluate",
    "Filters": "retrieval.filters",
    "Logs": "run.logs",
    "Play": "retrieval.plays",
    "Query": "retrieval.answers",
    "Recommender": "run.recommender",
    "Run": "run.run",
    "Track": "retrieval.playlist_files",
    "UserError": "errors",
    "evaluate": "run.api",
    "open_run": "run.run",
    "prepare": "run.api",
    "read_logs": "run.api",
    "read_playlist": "retrieval.playlist_files",
    "start": "run.start",
    "train": "run.api",
    "write_playlist": "retrieval.playlist_files",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'music_map' has no attribute {name!r}")
    return getattr(importlib.import_module(f"music_map.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
