"""Settings by plain names, for Python: `epochs=5, loss="bpr"`, and sizes that suit the data."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from typing import Any

from music_map.errors import UserError
from music_map.run.config import SECTIONS, Config, field_kinds, from_dict, to_dict
from music_map.settings import rules

# Names of fields that would not be told by the field's own name.
ALIASES = {
    "epochs": "train.num_epochs",
    "encoder": "model.name",
    "loss": "loss.name",
    "recency": "recency.enabled",
    "parallel": "parallel",
}
# Steps of an epoch that a batch aims at, the ends of its size, and the fewest steps of a training: an untrained
# encoder needs some hundred updates whatever the number of edges.
_STEPS, _LEAST_BATCH, _MOST_BATCH, _LEAST_STEPS = 128, 64, 8192, 600


@functools.cache
def plain_names() -> dict[str, str]:
    """The full name of each plain one: ALIASES, and every field whose name no other section has."""
    full: dict[str, list[str]] = {}
    for section, kind in SECTIONS.items():
        for field in rules(kind):
            full.setdefault(field, []).append(f"{section}.{field}")
    return {field: names[0] for field, names in full.items() if len(names) == 1} | ALIASES


def full_names(options: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Values by full names.

    Args:
      options: by plain names.
      settings: by full names, as in "model.alpha".

    Raises:
      UserError: there is no such name; names the nearest. Or a field is given twice.
    """
    names, found = plain_names(), dict(settings or {})
    for name, value in options.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else 'give other fields by settings={"section.field": value}'
            raise UserError(f"{name}={value!r}: there is no such setting; {hint}")
        if names[name] in found:
            raise UserError(f"{name}={value!r}: settings has {names[name]!r} too; give one of them")
        found[names[name]] = value
    return found


def configured(values: Mapping[str, Any]) -> Config:
    """The default configuration with these fields, by their full names.

    Raises:
      UserError: a field that does not exist (names the nearest), or a value against its rule.
    """
    nested = to_dict(Config())
    for name, value in values.items():
        section, _, field = name.partition(".")
        if section in SECTIONS and field:
            nested[section][field] = list(value) if isinstance(value, tuple) else value
        else:
            field_kinds(name, "")
            nested[name] = value
    for section, kind in SECTIONS.items():
        # The class of a loss or an encoder with fields of its own depends on the values.
        known = rules(kind.kind_of(nested[section]))
        for field in nested[section]:
            if field not in known:
                field_kinds(f"{section}.{field}", "")
    return from_dict(nested)


def sizes_for(num_events: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The batch size and the fewest steps for so many train events, unless they are given.

    A batch is the power of two that makes some 128 steps of the events, at least 64 and at most 8,192 pairs; the
    training has at least 600 steps.

    Args:
      num_events: of train.
      given: values by full names; a number of epochs is kept too.
    """
    size = 1 << max(0, (num_events // _STEPS).bit_length() - 1)
    found = {"train.batch_size": min(max(size, _LEAST_BATCH), _MOST_BATCH)}
    if "train.num_epochs" not in given:
        found["train.min_steps"] = _LEAST_STEPS
    return {name: value for name, value in found.items() if name not in given}
