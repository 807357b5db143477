"""Baselines that a learned model must beat, each fitted on the train events and nothing else.

A fitted baseline is a score block: int32 [B] user indices -> float32 [B, I] scores. One module a family; `fit` knows
them by name, `tuning` chooses their settings on the validation split.
"""

from music_map.evaluation.baselines.fit import BASELINES, COLD_START, check_names, fit_baselines
from music_map.evaluation.baselines.settings import settings_from_json, settings_to_json
from music_map.evaluation.baselines.tuning import Tuned, tune_baselines

__all__ = [
    "BASELINES",
    "COLD_START",
    "Tuned",
    "check_names",
    "fit_baselines",
    "settings_from_json",
    "settings_to_json",
    "tune_baselines",
]
