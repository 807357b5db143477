"""The settings of each baseline. The defaults are starting points; `tuning` chooses on the validation split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from music_map.errors import UserError, require


def _check(settings: Any, name: str, **at_least: float) -> None:
    for field in dataclasses.fields(settings):
        value, least = getattr(settings, field.name), at_least.get(field.name)
        if least is None:
            require(not isinstance(value, float) or value > 0, f"{name}.{field.name}", value, "above 0")
        else:
            require(value >= least, f"{name}.{field.name}", value, f"at least {least}")


@dataclasses.dataclass(frozen=True)
class DecayPopSettings:
    """Attributes:
    half_life_days: age at which an event counts half.
    """

    half_life_days: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "decay_pop")


@dataclasses.dataclass(frozen=True)
class ItemKnnSettings:
    """Attributes:
    num_neighbours: songs kept per song, the most similar.
    shrinkage: lowers similarities that rest on few users.
    power: of the two songs' popularity in the denominator; 0.5 makes cosines, 0 counts common users.
    max_history: similarities use each user's last so many songs; scores use the whole history.
    """

    num_neighbours: int = 100
    shrinkage: float = 10.0
    power: float = 0.5
    max_history: int = 500

    def __post_init__(self) -> None:
        _check(self, "item_knn", num_neighbours=1, shrinkage=0, power=0, max_history=1)


@dataclasses.dataclass(frozen=True)
class ItemKnnDecaySettings:
    """Attributes:
    half_life_days: age, counted back from the user's last event, at which an event counts half.
    """

    half_life_days: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "item_knn_decay")


@dataclasses.dataclass(frozen=True)
class AudioKnnSettings:
    """Attributes:
    num_neighbours: played songs kept per song, those that sound most like it; 0: all.
    half_life_days: age, counted back from the user's last event, at which a song of the history counts half.
    """

    num_neighbours: int = 100
    half_life_days: float = 100.0

    def __post_init__(self) -> None:
        _check(self, "audio_knn", num_neighbours=0)


@dataclasses.dataclass(frozen=True)
class IalsSettings:
    """Attributes:
    factors: dimensions of the embeddings.
    alpha: weight of an observed pair; an unobserved one has 1.
    regularization: weight of the squared norms.
    num_epochs: alternations.
    """

    factors: int = 64
    alpha: float = 10.0
    regularization: float = 10.0
    num_epochs: int = 15

    def __post_init__(self) -> None:
        _check(self, "ials", factors=1, regularization=0, num_epochs=1)


@dataclasses.dataclass(frozen=True)
class BprSettings:
    """Attributes:
    factors: dimensions of the embeddings.
    learning_rate: of stochastic gradient descent.
    regularization: weight of the squared norms.
    popularity: share of the songs' log-popularity that is added back to their biases, see bpr_mf.
    num_epochs: an epoch draws as many triples as there are pairs.
    """

    factors: int = 64
    learning_rate: float = 0.05
    regularization: float = 0.01
    popularity: float = 1.0
    num_epochs: int = 100

    def __post_init__(self) -> None:
        _check(self, "bpr_mf", factors=1, regularization=0, popularity=0, num_epochs=1)


@dataclasses.dataclass(frozen=True)
class SasRecSettings:
    """Attributes:
    dim: width of the Transformer.
    num_blocks: self-attention blocks.
    num_heads: attention heads.
    max_length: events of a history that are read, the last ones.
    dropout: share of units dropped in training.
    first_only: predict only each user's first event on a song; all events are read.
    num_negatives: uniform negatives shared by a batch; a catalogue no larger than this gets the full softmax.
    learning_rate: of Adam.
    batch_size: sequences per step.
    num_epochs: passes over all events, or over `most_events` of them.
    most_events: events of an epoch; if there are more, an epoch draws so many, in other segments each time.
    """

    dim: int = 64
    num_blocks: int = 2
    num_heads: int = 2
    max_length: int = 50
    dropout: float = 0.2
    first_only: bool = False
    num_negatives: int = 512
    learning_rate: float = 1e-3
    batch_size: int = 64
    num_epochs: int = 20
    most_events: int = 2_000_000

    def __post_init__(self) -> None:
        ones = ("dim", "num_blocks", "num_heads", "max_length", "num_negatives", "batch_size", "num_epochs")
        _check(self, "sasrec", dropout=0, **dict.fromkeys((*ones, "most_events"), 1))
        require(self.dropout < 1, "sasrec.dropout", self.dropout, "below 1")
        require(self.dim % self.num_heads == 0, "sasrec.dim", self.dim, f"a multiple of num_heads={self.num_heads}")


Settings = (
    DecayPopSettings
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
    "item_knn": ItemKnnSettings,
    "item_knn_decay": ItemKnnDecaySettings,
    "audio_knn": AudioKnnSettings,
    "ials": IalsSettings,
    "bpr_mf": BprSettings,
    "sasrec": SasRecSettings,
}


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
        types = {f.name: type(f.default) for f in dataclasses.fields(SETTINGS[name])}
        for field, value in values.items() if isinstance(values, Mapping) else [(values, None)]:
            if field not in types:
                raise UserError(f"{source}: {name} has no field {field!r}; choose from {', '.join(types)}")
            wanted = types[field]
            if type(value) is not wanted and not (wanted is float and type(value) is int):
                raise UserError(f"{source}: {name}.{field}={value!r} must be {wanted.__name__}")
        try:
            found[name] = SETTINGS[name](**values)
        except UserError as e:
            raise UserError(f"{source}: {e}") from e
    return found
