"""The results of a sweep: a table, a CSV file and a plot of parallel coordinates."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from music_map.storage import write_bytes, write_text
from music_map.sweep.search_space import Axis, Value
from music_map.sweep.study import Result


def by_value(results: Sequence[Result]) -> list[Result]:
    """Complete trials from the best, then pruned ones, then the others."""
    rank = ("complete", "pruned", "running", "failed")
    return sorted(results, key=lambda r: (rank.index(r.state), -(r.value if r.value is not None else 0.0), r.number))


def _text(value: Value | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def table(results: Sequence[Result], axes: Sequence[Axis], metric: str) -> str:
    """All trials as text, the best first; the errors of failed ones below."""
    head = ["trial", metric, *(axis.field for axis in axes), "epochs", "seconds", "state"]
    rows = [
        [
            f"{r.number:03d}",
            "" if r.value is None else f"{r.value:.4f}",
            *(_text(r.values.get(axis.field)) for axis in axes),
            _text(r.epochs),
            "" if r.seconds is None else f"{r.seconds:.1f}",
            r.state,
        ]
        for r in by_value(results)
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    lines += [f"trial {r.number:03d} failed: {r.error}" for r in results if r.state == "failed"]
    return "\n".join(lines)


def write_csv(results: Sequence[Result], axes: Sequence[Axis], metric: str, path: Path) -> None:
    """All trials, the best first, numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", "state", metric, *(axis.field for axis in axes), "epochs", "seconds", "error"])
    for r in by_value(results):
        values = [r.values.get(axis.field) for axis in axes]
        writer.writerow([r.number, r.state, r.value, *values, r.epochs, r.seconds, r.error])
    write_text(path, out.getvalue())


_BEST, _PRUNED = "#d62728", "#b8b8b8"


def _height(axis: Axis, value: Value) -> float:
    """Where a value is on its axis: 0 at the bottom, 1 at the top."""
    if axis.choices:
        return (axis.choices.index(value) + 0.5) / len(axis.choices)
    scale = math.log if axis.log else float
    return (scale(value) - scale(axis.low)) / (scale(axis.high) - scale(axis.low))


def _spread(axis: Axis, result: Result) -> float:
    """Height of a trial's line; trials of one category are spread so that they do not cover each other."""
    height = _height(axis, result.values[axis.field])
    # Multiples of the golden ratio, modulo 1, are evenly spread for any number.
    return height + ((result.number * 0.618) % 1 - 0.5) * 0.3 / len(axis.choices) if axis.choices else height


def _ticks(axis: Axis) -> dict[float, str]:
    """Heights and labels of an axis: all categories, or the two ends and round numbers (or steps) between them."""
    if axis.choices:
        return {_height(axis, choice): str(choice) for choice in axis.choices}
    if axis.step:
        steps = round((axis.high - axis.low) / axis.step)
        inner = axis.low + axis.step * np.arange(0, steps, math.ceil(steps / 8))
    elif axis.log:
        inner = LogLocator(subs=(1.0, 3.0)).tick_values(axis.low, axis.high)
    else:
        inner = MaxNLocator(nbins=6, integer=isinstance(axis.low, int)).tick_values(axis.low, axis.high)
    ticks = {0.0: axis.low, 1.0: axis.high}
    # Closer labels would touch those of the ends.
    ticks |= {h: v for v in inner if axis.low < v < axis.high and 0.06 < (h := _height(axis, float(v))) < 0.94}
    return {height: f"{value:.6g}" for height, value in ticks.items()}


def figure(results: Sequence[Result], axes: Sequence[Axis], metric: str) -> Figure:
    """Parallel coordinates: a vertical axis a field and one for the metric, a line a trial.

    The colour is the trial's value, the best trial is bold, pruned ones are grey and thin; failed ones are left out.

    Args:
      results: with at least one complete trial.
      axes: the searched fields, from left to right.
      metric: name of the last axis.
    """
    complete = [r for r in by_value(results) if r.state == "complete"]
    pruned = [r for r in results if r.state == "pruned"]
    best, values = complete[0], [r.value for r in complete]
    low, high = min(values), max(values)
    margin = (high - low) or 0.1 * abs(high) or 1.0
    ends = MaxNLocator(nbins=8).tick_values(low - 0.05 * margin, high + 0.05 * margin)
    last = Axis(metric, low=float(ends[0]), high=float(ends[-1]))
    # The worst tenth of trials shares a colour, else a few bad ones would take most of the range.
    bottom = float(np.quantile(values, 0.1))
    colour = ScalarMappable(Normalize(bottom if bottom < high else last.low, high), colormaps["viridis"])

    columns = len(axes) + 1
    drawing = Figure(figsize=(max(7.0, 1.9 * columns + 1.5), 5.2), layout="constrained")
    frame = drawing.add_subplot()
    across = np.arange(columns)

    def line(result: Result, **style: object) -> list[float]:
        heights = [*(_spread(axis, result) for axis in axes), _height(last, result.value)]
        frame.plot(across, heights, solid_joinstyle="round", **style)
        return heights

    for r in pruned:
        # The value of a pruned trial may lie below the axis of complete ones.
        frame.plot(across[:-1], [_spread(axis, r) for axis in axes], color=_PRUNED, lw=0.8, ls="--")
    for r in complete[:0:-1]:
        line(r, color=colour.to_rgba(r.value), lw=1.6, alpha=0.9)
    heights = line(best, color=_BEST, lw=4.0, zorder=5)
    frame.plot(across, heights, "o", color=_BEST, ms=7, zorder=6)

    _draw_axes(frame, [*axes, last])
    for x, height, value in zip(across, heights, [*(best.values[a.field] for a in axes), best.value], strict=True):
        text = f"{value:.4f}" if x == columns - 1 else _text(value)
        # Near the top the label goes below the point, since the axis' name is above.
        beside = (9, 9 if height < 0.93 else -16)
        frame.annotate(
            text, (x, height), xytext=beside, textcoords="offset points", color=_BEST, weight="bold", fontsize=10,
            zorder=7, bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
        )  # fmt: skip
    bar = drawing.colorbar(colour, ax=frame, extend="min", pad=0.06, fraction=0.04)
    bar.set_label(f"validation {metric}", fontsize=10)
    counts = f"{len(complete)} trial{'s' * (len(complete) > 1)}" + (
        f", {len(pruned)} pruned (dashed)" if pruned else ""
    )
    frame.set_title(f"{counts}; best: trial {best.number:03d}, {metric} {best.value:.4f} (bold)", fontsize=12, pad=30)
    return drawing


def _draw_axes(frame: Axes, axes: Sequence[Axis]) -> None:
    """Vertical lines with their names above and their ticks beside them."""
    frame.set_xlim(-0.3, len(axes) - 0.55)
    frame.set_ylim(-0.03, 1.03)
    frame.set_axis_off()
    for x, axis in enumerate(axes):
        frame.plot([x, x], [0, 1], color="black", lw=1.2, zorder=3)
        name = axis.field + (" (log)" if axis.log else "")
        frame.text(x, 1.05, name, ha="center", va="bottom", weight="bold", fontsize=10)
        for height, label in _ticks(axis).items():
            frame.plot([x - 0.02, x], [height, height], color="black", lw=1.2, zorder=3)
            frame.text(
                x - 0.04, height, label, ha="right", va="center", fontsize=9, zorder=4,
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7},
            )  # fmt: skip


def draw(results: Sequence[Result], axes: Sequence[Axis], metric: str, path: Path) -> None:
    """Writes `figure` as a PNG file."""
    picture = io.BytesIO()
    figure(results, axes, metric).savefig(picture, dpi=150, format="png")
    write_bytes(path, picture.getvalue())
