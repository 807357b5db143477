"""The settings of each baseline. The defaults are starting points; `tuning` chooses on the validation split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from music_map import settings
from music_map.errors import UserError, about, require
from music_map.settings import setting

# Days; a shorter half-life leaves nothing of yesterday, a longer one everything.
_HALF_LIFE = {"at_least": 1e-6, "at_most": 1_000_000}
_WEIGHT = {"at_least": 0, "at_most": 1_000_000}
_SIZE, _EPOCHS = {"at_least": 1, "at_most": 65_536}, {"at_least": 1, "at_most": 100_000}


@dataclasses.dataclass(frozen=True)
class DecayPopSettings(settings.Settings):
    """Popularity that ages."""

    section = "decay_pop"
    half_life_days: float = setting(1.0, "age at which an event counts half", **_HALF_LIFE)


@dataclasses.dataclass(frozen=True)
class OwnPlaysSettings(settings.Settings):
    """The plays of the user, which age."""

    section = "own_plays"
    half_life_days: float = setting(30.0, "age at which a play counts half", **_HALF_LIFE)


@dataclasses.dataclass(frozen=True)
class ItemKnnSettings(settings.Settings):
    """Neighbours by common users."""

    section = "item_knn"
    num_neighbours: int = setting(100, "songs kept per song, the most similar", at_least=1)
    shrinkage: float = setting(10.0, "lowers similarities that rest on few users", **_WEIGHT)
    power: float = setting(
        0.5,
        "of the two songs' popularity in the denominator; 0.5 makes cosines, 0 counts common users",
        at_least=0,
        at_most=10,
    )
    max_history: int = setting(
        500, "similarities use each user's last so many songs; scores use the whole history", at_least=1
    )


@dataclasses.dataclass(frozen=True)
class ItemKnnDecaySettings(settings.Settings):
    """Neighbours of a history that ages."""

    section = "item_knn_decay"
    half_life_days: float = setting(
        1.0, "age, counted back from the user's last event, at which an event counts half", **_HALF_LIFE
    )


@dataclasses.dataclass(frozen=True)
class AudioKnnSettings(settings.Settings):
    """Neighbours in sound."""

    section = "audio_knn"
    num_neighbours: int = setting(100, "played songs kept per song, those that sound most like it; 0: all", at_least=0)
    half_life_days: float = setting(
        100.0,
        "age, counted back from the user's last event, at which a song of the history counts half",
        **_HALF_LIFE,
    )


@dataclasses.dataclass(frozen=True)
class IalsSettings(settings.Settings):
    """Matrix factorisation by alternating least squares."""

    section = "ials"
    factors: int = setting(64, "dimensions of the embeddings", **_SIZE)
    alpha: float = setting(
        10.0, "weight of an observed pair; an unobserved one has 1", at_least=1e-6, at_most=1_000_000
    )
    regularization: float = setting(10.0, "weight of the squared norms", **_WEIGHT)
    num_epochs: int = setting(15, "alternations", **_EPOCHS)


@dataclasses.dataclass(frozen=True)
class BprSettings(settings.Settings):
    """Matrix factorisation by pairwise ranking."""

    section = "bpr_mf"
    factors: int = setting(64, "dimensions of the embeddings", **_SIZE)
    learning_rate: float = setting(0.05, "of stochastic gradient descent", at_least=1e-12, at_most=1_000)
    regularization: float = setting(0.01, "weight of the squared norms", **_WEIGHT)
    popularity: float = setting(
        1.0, "share of the songs' log-popularity that is added back to their biases, see bpr_mf", **_WEIGHT
    )
    num_epochs: int = setting(100, "an epoch draws as many triples as there are pairs", **_EPOCHS)


def _layers(default: str) -> str:
    return setting(default, "form of a block, see baselines.sasrec.SasRec", choices=("pre_norm", "ligr"))


@dataclasses.dataclass(frozen=True)
class SasRecSettings(settings.Settings):
    """A Transformer over the history."""

    section = "sasrec"
    dim: int = setting(64, "width of the Transformer", **_SIZE)
    num_blocks: int = setting(2, "self-attention blocks", at_least=1, at_most=256)
    num_heads: int = setting(2, "attention heads", **_SIZE)
    layers: str = _layers("pre_norm")
    feed_forward: int = setting(4, "width of the feed-forward layer, in widths of the Transformer", **_SIZE)
    max_length: int = setting(50, "events of a history that are read, the last ones", **_SIZE)
    dropout: float = setting(0.2, "share of units dropped in training", at_least=0, below=1)
    first_only: bool = setting(False, "predict only each user's first event on a song; all events are read")
    num_negatives: int = setting(
        512, "uniform negatives shared by a batch; a catalogue no larger than this gets the full softmax", at_least=1
    )
    learning_rate: float = setting(1e-3, "of Adam", at_least=1e-12, at_most=1_000)
    batch_size: int = setting(64, "sequences per step", **_SIZE)
    num_epochs: int = setting(20, "passes over all events, or over `most_events` of them", **_EPOCHS)
    most_events: int = setting(
        2_000_000,
        "events of an epoch; if there are more, an epoch draws so many, in other segments each time",
        at_least=1,
    )

    def check(self) -> None:
        rule = f"a multiple of num_heads={self.num_heads}"
        require(self.dim % self.num_heads == 0, f"{self.section}.dim", self.dim, rule)


@dataclasses.dataclass(frozen=True)
class ESasRecSettings(SasRecSettings):
    """SASRec with gated layers."""

    section = "esasrec"
    layers: str = _layers("ligr")


Settings = (
    DecayPopSettings
    | OwnPlaysSettings
    | ItemKnnSettings
    | ItemKnnDecaySettings
    | AudioKnnSettings
    | IalsSettings
    | BprSettings
    | SasRecSettings
)

# Baselines that can be tuned.
SETTINGS: dict[str, type[Settings]] = {
    "decay_pop": DecayPopSettings,
    "own_plays": OwnPlaysSettings,
    "item_knn": ItemKnnSettings,
    "item_knn_decay": ItemKnnDecaySettings,
    "audio_knn": AudioKnnSettings,
    "ials": IalsSettings,
    "bpr_mf": BprSettings,
    "sasrec": SasRecSettings,
    "esasrec": ESasRecSettings,
}


def require_finite(settings: Settings, *arrays: Any) -> None:
    """Raises UserError if a trained array has NaN or infinity: with these settings the training diverges."""
    if not all(bool(np.isfinite(array).all()) for array in arrays):
        raise UserError(f"{settings.section}: the training diverged with {settings}; choose smaller values")


def settings_to_json(settings: Mapping[str, Settings]) -> dict[str, dict[str, Any]]:
    """{baseline: {field: value}}."""
    return {name: dataclasses.asdict(values) for name, values in settings.items()}


def settings_from_json(stored: Any, *, source: str) -> dict[str, Settings]:
    """The inverse of `settings_to_json`; a field that is left out keeps its default.

    Args:
      stored: parsed JSON.
      source: names the file in errors.

    Raises:
      UserError: an unknown baseline or field, or a value without meaning.
    """
    if not isinstance(stored, Mapping):
        raise UserError(f"{source}: holds no settings by baseline, as {{'decay_pop': {{'half_life_days': 1.0}}}} does")
    found: dict[str, Settings] = {}
    for name, values in stored.items():
        if name not in SETTINGS:
            raise UserError(f"{source}: {name!r} has no settings; choose from {', '.join(SETTINGS)}")
        if not isinstance(values, Mapping):
            raise UserError(f"{source}: {name}={values!r}: must be an object, such as {{'half_life_days': 1.0}}")
        with about(source):
            found[name] = settings.from_values(SETTINGS[name], values)
    return found
