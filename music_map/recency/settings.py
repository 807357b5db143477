"""What the recency score can be told, checked."""

from __future__ import annotations

import dataclasses

from music_map.errors import require


@dataclasses.dataclass(frozen=True)
class RecencySettings:
    """How the recency score is fitted; the names are those of the configuration's `recency`.

    Attributes:
      enabled: whether there is one, beside the encoder's own score.
      latest_songs: events of a user that the attention sees, the latest ones.
      num_users: users of past windows to fit on; more windows are taken until there are as many.
      max_epochs: epochs of the encoder that the fit uses; fewer where the run's own best came earlier.
      strength: of the regularization.
      max_targets: targets of a user in a window, drawn at random where there are more.
      num_familiar: familiar songs of a user that the fit sees, those of the highest activation.
      num_top: first songs of each feature that it sees.
      num_random: uniform samples of the other songs.
    """

    enabled: bool
    latest_songs: int
    num_users: int
    max_epochs: int
    strength: float
    max_targets: int = 50
    num_familiar: int = 300
    num_top: int = 40
    num_random: int = 200

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "strength":
                require(value > 0, "config.recency.strength", value, "above 0")
            elif field.name != "enabled":
                require(value >= 1, f"config.recency.{field.name}", value, "at least 1")
