"""How events become edges, checked."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from music_map.settings import Settings, setting

EDGES = ("sum", "events")


@dataclasses.dataclass(frozen=True)
class GraphSettings(Settings):
    """Edge weights: the configuration's `graph`."""

    section = "config.graph"
    edges: str = setting(
        "sum", '"sum": one edge per (user, song); "events": one per positive event, parallel edges kept', choices=EDGES
    )
    half_life_days: float | None = setting(
        60.0, "age at which an event counts half; None or infinite: no decay", at_least=1e-3, finite=False
    )
    organic_factor: float = setting(
        0.5, "factor of events that the recommender played; organic events count 1", at_least=0, at_most=1_000_000
    )
    like_weight: float = setting(5.0, "what a standing like adds, in full listens", at_least=0, at_most=1_000_000)
    dislike_weight: float = setting(
        -3.0,
        "weight of a standing dislike; its size is what counts, the sign says that it is a negative",
        at_least=-1_000_000,
        at_most=1_000_000,
    )
    log1p: bool = setting(True, "edges weigh log(1 + weight)")

    def identity(self) -> dict[str, Any]:
        """The fields, JSON-able (no decay is None): what the graph's fingerprint is made from."""
        fields = dataclasses.asdict(self)
        return fields | {"half_life_days": None if self.half_life_days == math.inf else self.half_life_days}
