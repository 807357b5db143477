"""docs/configuration.md: every field, as the settings classes have it."""

import dataclasses
from pathlib import Path

from music_map.run.config import SECTIONS
from music_map.run.reference import configuration_page, write_page

PAGE = Path(__file__).resolve().parents[2] / "docs/configuration.md"


def test_the_page_is_up_to_date(tmp_path):
    write_page(tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == PAGE.read_text(), "run `make docs`, which makes the page anew"


def test_every_field_has_a_row():
    lines = configuration_page().splitlines()
    for section, kind in SECTIONS.items():
        for field in dataclasses.fields(kind):
            (row,) = [line for line in lines if line.startswith(f"| `{section}.{field.name}` |")]
            assert len(row.replace("\\|", "").split("|")) == 7
    assert sum(line.startswith("| `") for line in lines) == 1 + sum(
        len(dataclasses.fields(k)) for k in SECTIONS.values()
    )
    # By hand: a bound, a choice, what a run may change.
    for start, end in (
        ("| `model.gamma` | `0.35` |", "| float, at least 0 and at most 1 | fixed |"),
        ('| `graph.edges` | `"sum"` |', "| one of sum, events | fixed |"),
        ("| `train.patience` | `5` |", "| int, at least 0 | free |"),
    ):
        assert any(line.startswith(start) and line.endswith(end) for line in lines)
