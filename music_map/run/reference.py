"""docs/configuration.md, made of the settings classes: each field with default, meaning and what values it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from music_map.run.config import PARALLEL, SECTIONS, Config, free_fields, with_values
from music_map.run.options import ALIASES
from music_map.settings import field_types, rules, values_before
from music_map.storage import write_text

_HEAD = """# Configuration

Every field of a run's configuration. `configs/yambda.py` has these defaults; the other files of `configs/` change what
differs. On the command line a field is set by `--config.SECTION.FIELD=VALUE`. In Python (`music_map.train`) it is set
by `settings={{"SECTION.FIELD": value}}`, or by its last name alone (`embedding_dim=32`); {aliases}. A misspelt name is
refused, and the nearest one named.

"In a run" says whether a run may go on, in its folder, with another value: "fixed" fields belong to the trained model.

`make docs` makes this page from the settings classes.
"""
_COLUMNS = ("field", "default", "meaning", "values", "in a run")


def configuration_page() -> str:
    """The page as Markdown."""
    free = free_fields(Config())
    constant = free_fields(with_values(Config(), {"train.schedule": "constant"})) - free
    aliases = ", ".join(f"`{name}` is `{full}`" for name, full in ALIASES.items() if name != full)
    parts = [_HEAD.format(aliases=aliases)]
    for section, kind in SECTIONS.items():
        parts += _section(section, (kind.__doc__ or "").splitlines()[0].partition(";")[0].rstrip("."))
        before, types = values_before(kind), field_types(kind)
        for field in dataclasses.fields(kind):
            full, rule = f"{section}.{field.name}", rules(kind)[field.name]
            bounded = rule.choices or {int, float} & set(types[field.name])
            meaning = rule.doc
            if before[field.name] != field.default:
                meaning += f"; a run made before this field existed has {_code(before[field.name])}"
            changes = "free" if full in free else "free if train.schedule is constant" if full in constant else "fixed"
            names = " or ".join(kind.__name__.removesuffix("Type") for kind in types[field.name])
            text = rule.text() if bounded else ""
            values = text if rule.choices else ", ".join(filter(None, (names, text)))
            parts.append(_row((f"`{full}`", _code(field.default), meaning, values, changes)))
    parts += _section("parallel", "Whether several devices share the work")
    meaning = (Config.__doc__ or "").partition("parallel: ")[2].partition("Raises:")[0]
    values = f"one of {', '.join(PARALLEL)}"
    parts.append(_row(("`parallel`", _code(Config().parallel), meaning.strip().rstrip("."), values, "fixed")))
    return "".join(parts)


def write_page(path: str | Path) -> None:
    """Writes the page to a file."""
    write_text(Path(path), configuration_page())


def _section(name: str, about: str) -> list[str]:
    return [f"\n## {name}\n\n{about}.\n\n", _row(_COLUMNS), _row(["---"] * len(_COLUMNS))]


def _row(cells: Iterable[str]) -> str:
    escaped = (" ".join(cell.split()).replace("|", "\\|").replace("<", "\\<") for cell in cells)
    return f"| {' | '.join(escaped)} |\n"


def _code(value: Any) -> str:
    text = repr(value).replace("'", '"')
    return f"`{text}`"
