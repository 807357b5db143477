"""How events become edges, checked."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from music_map.errors import UserError

EDGES = ("sum", "events")


@dataclasses.dataclass(frozen=True)
class GraphSettings:
    """Edge weights; the names are those of the configuration's `graph`.

    Attributes:
      edges: "sum": one edge per (user, song); "events": one edge per positive event, parallel edges kept.
      half_life_days: age at which an event counts half; None or infinite: no decay.
      organic_factor: factor of events that the recommender played; organic events count 1.
      like_weight: what a standing like adds, in full listens.
      dislike_weight: weight of a standing dislike; its size is what counts, the sign says that it is a negative.
      log1p: edges weigh log(1 + weight).
    """

    edges: str = "sum"
    half_life_days: float | None = 60.0
    organic_factor: float = 0.5
    like_weight: float = 5.0
    dislike_weight: float = -3.0
    log1p: bool = False

    def __post_init__(self) -> None:
        if self.edges not in EDGES:
            raise UserError(f"config.graph.edges={self.edges!r}: choose one of {', '.join(EDGES)}")
        half_life = self.half_life_days
        if half_life is not None and not half_life > 0:
            raise UserError(f"config.graph.half_life_days={half_life}: must be > 0; inf means no decay")
        for name in ("organic_factor", "like_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"config.graph.{name}={value}: must be >= 0")
        if not math.isfinite(self.dislike_weight):
            raise UserError(f"config.graph.dislike_weight={self.dislike_weight}: must be finite")

    def identity(self) -> dict[str, Any]:
        """The fields, JSON-able (no decay is None): what the graph's fingerprint is made from."""
        fields = dataclasses.asdict(self)
        return fields | {"half_life_days": None if self.half_life_days == math.inf else self.half_life_days}
