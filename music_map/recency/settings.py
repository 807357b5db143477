"""The settings of the recency head, with their checks."""

from __future__ import annotations

import dataclasses

from music_map.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class RecencySettings(Settings):
    """The recency head: the configuration's `recency`."""

    section = "config.recency"
    enabled: bool = setting(
        True, "add a recency head to the score: latest songs, familiar songs, trends; needs timestamps", free=True
    )
    latest_songs: int = setting(
        100, "latest events of a user that the attention sees", at_least=1, at_most=65_536, free=True
    )
    num_users: int = setting(
        1000, "number of users to fit on; past windows are added until they have as many", at_least=1, free=True
    )
    few_users: int = setting(
        250,
        "while past windows have fewer users, they may cover three quarters of train in place of one",
        before=0,
        at_least=0,
        free=True,
    )
    max_epochs: int = setting(
        3, "epochs of the encoder for the fit; fewer if the run's best epoch was earlier", at_least=1, free=True
    )
    strength: float = setting(30.0, "of the fit's regularization", at_least=1e-6, at_most=1_000_000, free=True)
    max_targets: int = setting(
        50,
        "most targets of a user in a window; if there are more, they are sampled",
        at_least=1,
        at_most=65_536,
        free=True,
    )
    num_familiar: int = setting(
        300,
        "familiar songs of a user that the fit sees: those of highest activation",
        at_least=1,
        at_most=65_536,
        free=True,
    )
    num_top: int = setting(40, "first songs of each feature that the fit sees", at_least=1, at_most=65_536, free=True)
    num_random: int = setting(
        200, "uniform samples of the other songs that the fit sees", at_least=1, at_most=65_536, free=True
    )
