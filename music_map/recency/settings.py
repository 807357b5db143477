"""How the recency head is fitted, checked."""

from __future__ import annotations

import dataclasses

from music_map.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class RecencySettings(Settings):
    """The recency head: the configuration's `recency`."""

    section = "config.recency"
    enabled: bool = setting(
        True, "score what a user plays now: latest songs, familiar songs, trends; needs timestamps", free=True
    )
    latest_songs: int = setting(100, "latest events of a user that the attention sees", at_least=1, free=True)
    num_users: int = setting(
        1000, "users of past windows to fit on; more windows are taken until there are as many", at_least=1, free=True
    )
    max_epochs: int = setting(
        3, "epochs of the encoder that the fit uses; fewer where the run's own best came earlier", at_least=1, free=True
    )
    strength: float = setting(1.0, "of the fit's regularization", above=0, free=True)
    max_targets: int = setting(
        50, "targets of a user in a window, drawn at random where there are more", at_least=1, free=True
    )
    num_familiar: int = setting(
        300, "familiar songs of a user that the fit sees, those of the highest activation", at_least=1, free=True
    )
    num_top: int = setting(40, "first songs of each feature that the fit sees", at_least=1, free=True)
    num_random: int = setting(200, "uniform samples of the other songs that the fit sees", at_least=1, free=True)
