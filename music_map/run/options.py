"""Settings by plain names, for Python: `epochs=5, loss="bpr"`, and sizes that suit the data."""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from music_map.errors import UserError
from music_map.preprocess.text import TEXT_FILES
from music_map.raw.layout import event_path
from music_map.run.config import SECTIONS, Config, field_kinds, from_dict, get, to_dict, with_values
from music_map.settings import rules
from music_map.sizes import FIELDS, LEAST, sizes_for

# Plain names that differ from the field's own name.
ALIASES = {
    "epochs": "train.num_epochs",
    "encoder": "model.name",
    "loss": "loss.name",
    "recency": "recency.enabled",
    "parallel": "parallel",
}


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


def open_fields(config: Config) -> list[str]:
    """The full names of the fields that follow from the size of the logs."""
    found = [name for name in FIELDS if name != FIELDS.min_steps and get(config, name) == 0]
    is_open = FIELDS.num_epochs in found and get(config, FIELDS.min_steps) == 0
    return [*found, FIELDS.min_steps] if is_open else found


def resolved(config: Config) -> Config:
    """The configuration with a size for each field that follows from the logs, see `music_map.sizes`.

    Without logs the sizes are those of no event: what reads the logs then says that they are missing.
    """
    names = open_fields(config)
    if not names:
        return config
    weakest = _weakest(config)
    kept = [int((weakest >= least).sum()) for least in LEAST]
    sizes = dict(zip(FIELDS, sizes_for(kept, len(weakest)), strict=True))
    return with_values(config, {name: sizes[name] for name in names})


def _weakest(config: Config) -> np.ndarray:
    """For each event of the logs the interactions of its user or of its song, whichever has fewer: int64 [E].

    Pairs of a text format are never left out.
    """
    data, columns = config.data, []
    with contextlib.suppress(OSError, pa.ArrowException, UserError):
        if data.format == "text":
            texts = [path.read_bytes() for name in TEXT_FILES.values() if (path := data.source / name).is_file()]
            return np.full(sum(len(text.split()) - text.count(b"\n") for text in texts), LEAST[0])
        paths = (event_path(data.source, data.size, name) for name in ("listens", "likes", "dislikes"))
        columns = [pq.read_table(path, columns=["uid", "item_id"]) for path in paths if path.is_file()]

    def counts(name: str) -> np.ndarray:
        ids = np.concatenate([np.zeros(0, np.int64), *(table[name].to_numpy() for table in columns)])
        _, place, count = np.unique(ids, return_inverse=True, return_counts=True)
        return count[place]

    return np.minimum(counts("uid"), counts("item_id"))
