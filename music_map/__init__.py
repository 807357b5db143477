"""Music Map: song recommendations from listening logs with a graph neural network, in JAX.

    import music_map as mm

    run = mm.train("data/own", workdir="checkpoints/own")
    print(mm.evaluate(run))
    mm.Recommender.load("checkpoints/own").recommend(songs=["Hello"], k=10)

The names below are public; they are imported when they are first used, so that `import music_map` is quick.
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
    from music_map.run.config import Config as Config
    from music_map.run.recommender import Recommender as Recommender
    from music_map.run.run import Run as Run
    from music_map.run.run import open_run as open_run

# Where each public name is.
_HOMES = {
    "Answer": "retrieval.answers",
    "Config": "run.config",
    "DamagedFileError": "errors",
    "Filters": "retrieval.filters",
    "Query": "retrieval.answers",
    "Recommender": "run.recommender",
    "Run": "run.run",
    "UserError": "errors",
    "open_run": "run.run",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'music_map' has no attribute {name!r}")
    return getattr(importlib.import_module(f"music_map.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
