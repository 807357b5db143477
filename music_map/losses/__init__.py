"""Losses: the training objectives. `register` adds one, see docs/extending.md."""

from music_map.losses.settings import LOSSES, LossSettings
from music_map.losses.table import Loss, Scores, register

__all__ = ["LOSSES", "Loss", "LossSettings", "Scores", "register"]
