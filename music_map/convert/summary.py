"""What a conversion did, as lines for the terminal."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from music_map.convert.engine import Summary

_EARLIEST = 600_000_000  # seconds; before there was any log of music


def lines_of(summary: Summary, *, done: bool = True) -> list[str]:
    """What was read, left out and numbered.

    Args:
      summary: of a conversion.
      done: False: of the first rows alone, nothing is written yet.
    """
    lines = [f"{count:>14,} {kind}" for kind, count in summary.events.items()]
    lines.append(f"{summary.num_users:>14,} users, {summary.num_items:,} songs")
    if summary.rare_users or summary.rare_items:
        lines.append(
            f"{'':>14} of them {summary.rare_users:,} users and {summary.rare_items:,} songs with fewer than "
            f"{summary.few} events, which training leaves out (--config.data.min_interactions)"
        )
    if summary.last >= _EARLIEST:
        lines.append(f"{_when(summary.first):>24} to {_when(summary.last)}")
    for count, what in ((summary.skipped, "rows skipped: they could not be read"), (summary.ignored, "rows ignored")):
        if count:
            lines.append(f"{count:>14,} {what}")
    lines += [f"{count:>18,} {reason}" for reason, count in summary.reasons.items()]
    would, are = ("were", "are") if done else ("would be", "would be")
    for column, path in summary.tables.items():
        if column in summary.numbered:
            lines.append(f"{column} ids are no whole numbers and {would} numbered: {path}")
        else:
            lines.append(f"{column} names {are} kept: {path}")
    return lines


def notes_of(summary: Summary, told: Sequence[str] = ()) -> list[str]:
    """Remarks on the data, after those `told` by a preset."""
    notes = [*told, *summary.notes]
    if summary.last < _EARLIEST and not told:
        notes.append(
            "the times lie before 1989: taken as seconds since any moment (--time_unit, --time_format say otherwise)"
        )
    return notes


def _when(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
