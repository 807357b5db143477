"""The whole configuration of a run: a section a room, each with its defaults and checks where it is used."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from music_map import settings
from music_map.errors import UserError, require
from music_map.evaluation.settings import EvalSettings
from music_map.graph.settings import GraphSettings
from music_map.graph_filter.settings import GraphFilterSettings
from music_map.losses import LossSettings
from music_map.model.settings import ModelSettings
from music_map.preprocess.settings import PreprocessSettings
from music_map.recency.settings import RecencySettings
from music_map.retrieval.settings import RetrievalSettings
from music_map.settings import field_types, from_values, rules, setting
from music_map.training.settings import TrainSettings

PARALLEL = ("none", "pmap", "sharded")


@dataclasses.dataclass(frozen=True)
class DataSettings(PreprocessSettings):
    """The configuration's `data`: how logs become a data set, and where they lie."""

    raw_dir: str = setting(
        "data/raw", "the hub's layout: flat/<size>/listens.parquet, ..., embeddings.parquet", free=True
    )
    path: str = setting("", "text format: folder of train.txt, valid.txt and test.txt", free=True)
    processed_dir: str = setting("data/processed", "folder of all processed data sets and graphs", free=True)

    @property
    def source(self) -> Path:
        """The folder of the logs."""
        return _folder(self.path, "path") if self.format == "text" else _folder(self.raw_dir, "raw_dir")

    @property
    def processed(self) -> Path:
        """`processed_dir` as a path."""
        return _folder(self.processed_dir, "processed_dir")

    def preprocess(self) -> PreprocessSettings:
        """The fields that say how logs become a data set."""
        return PreprocessSettings(**{f.name: getattr(self, f.name) for f in dataclasses.fields(PreprocessSettings)})


# Where files lie: other places can hold the same data.
PLACES = ("data.raw_dir", "data.path", "data.processed_dir", "data.chunk_size")


def _folder(text: str, name: str) -> Path:
    if not text:
        raise UserError(f"config.data.{name} is empty; give a path")
    return Path(text).expanduser()


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run; hashable. A field by its full name, as in "data.size", is `get(config, name)`.

    Attributes:
      parallel: "none": one device; "pmap": every device of this host has the graph, and its part of each batch;
        "sharded": nodes, edges and optimizer state are cut over the devices.

    Raises:
      UserError: a value without meaning, before anything that takes long.
    """

    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    graph: GraphSettings = dataclasses.field(default_factory=GraphSettings)
    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    loss: LossSettings = dataclasses.field(default_factory=LossSettings)
    train: TrainSettings = dataclasses.field(default_factory=TrainSettings)
    eval: EvalSettings = dataclasses.field(default_factory=EvalSettings)
    graph_filter: GraphFilterSettings = dataclasses.field(default_factory=GraphFilterSettings)
    recency: RecencySettings = dataclasses.field(default_factory=RecencySettings)
    retrieval: RetrievalSettings = dataclasses.field(default_factory=RetrievalSettings)
    parallel: str = "none"

    def __post_init__(self) -> None:
        require(self.parallel in PARALLEL, "config.parallel", self.parallel, f"one of {', '.join(PARALLEL)}")
        rule = "'none' with config.train.mode='subgraph'"
        require(self.train.mode == "full" or self.parallel == "none", "config.parallel", self.parallel, rule)


SECTIONS = {f.name: f.default_factory for f in dataclasses.fields(Config) if f.name != "parallel"}


def from_dict(values: Mapping[str, Any]) -> Config:
    """A configuration from nested JSON-able values; what is left out has its default.

    Raises:
      UserError: an unknown section or field, or a value against its rule.
    """
    sections = dict(values)
    parallel = sections.pop("parallel", "none")
    for name, section in sections.items():
        if name not in SECTIONS:
            raise UserError(f"config.{name}: there is no such section; sections are {', '.join(SECTIONS)}")
        if not isinstance(section, Mapping):
            raise UserError(
                f"config.{name}={section!r}: must be a section with fields {', '.join(rules(SECTIONS[name]))}"
            )
    made = {name: from_values(SECTIONS[name], section) for name, section in sections.items()}
    return Config(**made, parallel=parallel)


def from_stored(values: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """The configuration of a run that any version of this project made.

    A field that the run lacks has the value that means "as the code did then" (`Rule.before`). A field that this
    version does not know is left out.

    Args:
      values: of config.json.

    Returns:
      The configuration, and the full names of the fields that were left out.

    Raises:
      UserError: a value against its rule.
    """
    unknown, sections = [], {}
    for name, kind in SECTIONS.items():
        section = values.get(name, {})
        if not isinstance(section, Mapping):
            raise UserError(f"config.{name}={section!r}: must be a section")
        sections[name], left_out = settings.from_stored(kind, section)
        unknown += [f"{name}.{field}" for field in left_out]
    unknown += [name for name in values if name not in SECTIONS and name != "parallel"]
    return Config(**sections, parallel=values.get("parallel", "none")), unknown


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested JSON-able values."""
    found = dataclasses.asdict(config)
    for section in found.values():
        if isinstance(section, dict):
            section.update({name: list(value) for name, value in section.items() if isinstance(value, tuple)})
    return found


def described(config: Config) -> dict[str, Any]:
    """`to_dict` with absolute folders: what a run's folder remembers."""
    found = to_dict(config)
    for name in ("raw_dir", "path", "processed_dir"):
        if found["data"][name]:
            found["data"][name] = str(Path(found["data"][name]).expanduser().absolute())
    return found


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values by their full names, as in "data.size"."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        fields |= {f"{name}.{field}": v for field, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return fields


def get(config: Config, name: str) -> Any:
    """The value of a field by its full name."""
    section, _, field = name.partition(".")
    return getattr(getattr(config, section), field) if field else getattr(config, section)


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with some fields, by their full names, set."""
    changed: dict[str, dict[str, Any]] = {}
    top = {}
    for name, value in values.items():
        section, _, field = name.partition(".")
        if field:
            changed.setdefault(section, {})[field] = value
        else:
            top[section] = value
    sections = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in changed.items()}
    return dataclasses.replace(config, **sections, **top)


def field_kinds(name: str, flag: str) -> tuple[type, ...]:
    """The types that a field may have, None's last.

    Args:
      name: its full name.
      flag: what stands before the name where it was given, e.g. "--search=".

    Raises:
      UserError: there is no such field, or it is a section; names the nearest.
    """
    section, _, field = name.partition(".")
    if section == "parallel" and not field:
        return (str,)
    known = list(SECTIONS) if section not in SECTIONS else list(rules(SECTIONS[section]))
    if section in SECTIONS and not field:
        raise UserError(f"{flag}{name}: is a section; name one of its fields: {', '.join(known)}")
    if section in SECTIONS and field in known:
        return field_types(SECTIONS[section])[field]
    near = difflib.get_close_matches(section if section not in SECTIONS else field, known, n=1)
    prefix = "" if section not in SECTIONS else f"{section}."
    hint = f"did you mean {prefix}{near[0]}?" if near else f"there are {', '.join(known)}"
    raise UserError(f"{flag}{name}: the configuration has no such field; {hint}")


def free_fields(config: Config) -> frozenset[str]:
    """Full names of the fields that may have another value when a run of this configuration goes on."""
    free = {
        f"{section}.{name}" for section, kind in SECTIONS.items() for name, rule in rules(kind).items() if rule.free
    }
    # A schedule that ends at the last step depends on how many there are.
    return frozenset(free | ({"train.num_epochs", "train.min_steps"} if config.train.schedule == "constant" else set()))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Full name, old and new value of each field in which two described configurations differ, by name."""
    before, now = flat(old), flat(new)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield name, before.get(name), now.get(name)
