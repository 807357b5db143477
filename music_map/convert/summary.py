"""What a conversion did, as lines for the terminal."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence

from music_map.convert.engine import Summary

_EARLIEST = 600_000_000  # seconds; before there was any log of music


def lines_of(summary: Summary, *, done: bool = True) -> list[str]:
    """What was read, left out and numbered.

    Args:
      summary: of a conversion.
      done: False: of the first rows alone, nothing is written yet.
    """
    lines = [f"{count:>14,} {_counted(count, kind)}" for kind, count in summary.events.items()]
    users, songs = summary.num_users, summary.num_items
    lines.append(f"{users:>14,} {_counted(users, 'users')}, {songs:,} {_counted(songs, 'songs')}")
    rare = ((summary.rare_users, "users"), (summary.rare_items, "songs"))
    if found := " and ".join(f"{count:,} {_counted(count, what)}" for count, what in rare if count):
        lines.append(
            f"{'':>14} of them {found} with fewer than {summary.few} events, which training leaves out "
            "(--config.data.min_interactions)"
        )
    if summary.last >= _EARLIEST:
        lines.append(f"{_when(summary.first):>24} to {_when(summary.last)}")
    if summary.ignored:
        lines.append(f"{summary.ignored:>14,} {_counted(summary.ignored, 'rows')} ignored")
    if summary.skipped:
        lines.append(f"{summary.skipped:>14,} {_counted(summary.skipped, 'rows')} skipped:")
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


def _counted(count: int, plural: str) -> str:
    return plural.removesuffix("s") if count == 1 else plural


def _when(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
