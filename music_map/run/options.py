"""Settings by plain names, for Python: `epochs=5, loss="bpr"`, and sizes that suit the data."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from typing import Any

from music_map.errors import UserError
from music_map.run.config import SECTIONS, Config, field_kinds, from_dict, to_dict
from music_map.settings import rules

# Plain names that differ from the field's own name.
ALIASES = {
    "epochs": "train.num_epochs",
    "encoder": "model.name",
    "loss": "loss.name",
    "recency": "recency.enabled",
    "parallel": "parallel",
}
# The number of steps per epoch that the batch size aims at, the bounds of the batch size, and the fewest steps of a
# training: an encoder needs some hundred updates for any number of edges.
_STEPS, _LEAST_BATCH, _MOST_BATCH, _LEAST_STEPS = 128, 64, 8192, 600


@functools.cache
def plain_names() -> dict[str, str]:
    """The full name for each plain name: ALIASES, and every field whose name is in one section only."""
    full: dict[str, list[str]] = {}
    for section, kind in SECTIONS.items():
        for field in rules(kind):
            full.setdefault(field, []).append(f"{section}.{field}")
    return {field: names[0] for field, names in full.items() if len(names) == 1} | ALIASES


def full_names(options: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Joins options and settings into values by full names.

    Args:
      options: by plain names.
      settings: by full names, as in "model.alpha".

    Raises:
      UserError: a name is unknown (the message has the nearest one), or a field is given twice.
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
      UserError: a field does not exist (the message has the nearest one), or a value breaks its rule.
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
        # A loss or an encoder can have further fields, so the settings class depends on the values.
        known = rules(kind.kind_of(nested[section]))
        for field in nested[section]:
            if field not in known:
                field_kinds(f"{section}.{field}", "")
    return from_dict(nested)


def sizes_for(num_events: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The batch size and the fewest steps for a number of train events, unless they are given.

    The batch size is the power of two that gives about 128 steps per epoch, in [64, 8192]. The training has at least
    600 steps.

    Args:
      num_events: number of train events.
      given: values by full names, which are kept; so is a given number of epochs.
    """
    size = 1 << max(0, (num_events // _STEPS).bit_length() - 1)
    found = {"train.batch_size": min(max(size, _LEAST_BATCH), _MOST_BATCH)}
    if "train.num_epochs" not in given:
        found["train.min_steps"] = _LEAST_STEPS
    return {name: value for name, value in found.items() if name not in given}
