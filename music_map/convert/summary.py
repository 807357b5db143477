"""What a conversion did, as lines for the terminal."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence

from music_map.convert.engine import Summary
from music_map.text import counted

_EARLIEST = 600_000_000  # seconds; before there was any log of music


def lines_of(summary: Summary, *, done: bool = True) -> list[str]:
    """What was read, left out and numbered.

    Args:
      summary: of a conversion.
      done: False: of the first rows alone, nothing is written yet.
    """
    lines = [_aligned(count, kind.removesuffix("s")) for kind, count in summary.events.items()]
    lines.append(f"{_aligned(summary.num_users, 'user')}, {counted(summary.num_items, 'song')}")
    rare = ((summary.rare_users, "user"), (summary.rare_items, "song"))
    if found := " and ".join(counted(count, what) for count, what in rare if count):
        lines.append(
            f"{'':>14} of them {found} with fewer than {summary.few} events, which training leaves out "
            "(--config.data.min_interactions)"
        )
    if summary.last >= _EARLIEST:
        lines.append(f"{_when(summary.first):>24} to {_when(summary.last)}")
    if summary.ignored:
        lines.append(f"{_aligned(summary.ignored, 'row')} ignored")
    if summary.skipped:
        lines.append(f"{_aligned(summary.skipped, 'row')} skipped:")
        lines += [f"{count:>18,}: {reason}" for reason, count in summary.reasons.items()]
    tables = summary.tables.items()
    if numbered := [path for column, path in tables if column in summary.numbered]:
        kinds = ", ".join(column for column in summary.tables if column in summary.numbered)
        would = "were" if done else "would be"
        lines.append(f"ids that are no whole numbers {would} numbered ({kinds}); tables of them:")
        lines += [f"    {path}" for path in numbered]
    if named := [path for column, path in tables if column not in summary.numbered]:
        lines.append(f"names {'are' if done else 'would be'} kept: {', '.join(map(str, named))}")
    return lines


def renamed(summary: Summary, named: Callable[[str], str]) -> Summary:
    """A summary whose reasons and notes name files as `named` does, see `music_map.convert.presets.unpacked`."""
    reasons = {named(reason): count for reason, count in summary.reasons.items()}
    return dataclasses.replace(summary, reasons=reasons, notes=[named(note) for note in summary.notes])


def notes_of(summary: Summary, told: Sequence[str] = ()) -> list[str]:
    """Remarks on the data, after those `told` by a preset."""
    notes = [*told, *summary.notes]
    if 0 < summary.last < _EARLIEST and not told:
        notes.append(
            "the times lie before 1989: taken as seconds since any moment (--time_unit, --time_format say otherwise)"
        )
    return notes


def _aligned(count: int, what: str) -> str:
    number, _, words = counted(count, what).partition(" ")
    return f"{number:>14} {words}"


def _when(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
