"""Charts as SVG, to stand in an HTML page: colours are the page's CSS variables, text is text.

Matplotlib draws in stand-in colours, which are then replaced: a chart follows the page from light to dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

# Series 1, 2, ..., then ink, quiet ink, grid lines: colours that no chart would have by chance.
_SERIES = tuple(f"#ab00{number:02d}" for number in range(1, 9))
_INK, _QUIET, _GRID = "#ab00a0", "#ab00b0", "#ab00c0"
_VARIABLES = {colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, 1)} | {
    _INK: "var(--ink)",
    _QUIET: "var(--quiet)",
    _GRID: "var(--line)",
}
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _QUIET,
    "axes.titlecolor": _INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "text.color": _INK,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "lines.linewidth": 1.8,
}
_HALF = (5.4, 3.0)


def colour(number: int) -> str:
    """The stand-in of the page's series colour `number`, from 0; they come round again after eight."""
    return _SERIES[number % len(_SERIES)]


def _drawn(size: tuple[float, float], draw: Any, label: str, *, columns: int = 1) -> str:
    """The SVG of a figure on which `draw(*axes)` was called; `label` is what a screen reader says."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
        draw(*axes)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # Groups are numbered alike in every figure, and nothing refers to them; other ids are hashed with the label.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.S)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(
        r'(?<=<svg )[^>]*?viewBox="([^"]*)"[^>]*', rf'viewBox="\1" role="img" aria-label="{label}"', svg, count=1
    )
    return re.sub(r"\n\s*", "\n", svg)


def _thousands(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:g} M"))


def intervals(rows: Sequence[tuple[str, float, Sequence[float], int]], *, title: str, label: str, zero: bool) -> str:
    """Values with intervals, a row each: (name, value, [low, high], series).

    Args:
      rows: from the top.
      title: of the chart.
      label: for screen readers.
      zero: whether a line is drawn at 0, as for differences; else the axis starts there.
    """

    def draw(ax: Axes) -> None:
        for at, (_, value, (low, high), series) in enumerate(rows):
            ax.plot([low, high], [at, at], color=colour(series), linewidth=3, alpha=0.45, solid_capstyle="round")
            ax.plot([value], [at], "o", color=colour(series), markersize=6)
        ax.set_yticks(range(len(rows)), [row[0] for row in rows])
        ax.tick_params(axis="y", labelcolor=_INK)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        ax.xaxis.set_major_locator(MaxNLocator(6))
        if zero:
            ax.axvline(0, color=_QUIET, linewidth=1)
        else:
            ax.set_xlim(left=0)
        ax.set_title(title)

    return _drawn((_HALF[0], 0.9 + 0.34 * len(rows)), draw, label)


def histogram(edges: Sequence[float], counts: Sequence[int], *, title: str, x: str, label: str) -> str:
    """Counts by interval of x."""

    def draw(ax: Axes) -> None:
        ax.stairs(counts, edges, fill=True, color=colour(0), alpha=0.75)
        ax.set_title(title)
        ax.set_xlabel(x)
        ax.set_xlim(edges[0], edges[-1])
        _thousands(ax.yaxis)

    return _drawn(_HALF, draw, label)


def tails(found: Mapping[str, Mapping[str, Sequence[float]]], *, title: str, x: str, label: str) -> str:
    """Shares of nodes with at least x edges, both axes logarithmic; from distributions.tail."""

    def draw(ax: Axes) -> None:
        for number, (name, each) in enumerate(found.items()):
            ax.plot(each["at_least"], each["share"], color=colour(number), label=name)
        ax.set(xscale="log", yscale="log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.minorticks_off()
        ax.set_title(title)
        ax.set_xlabel(x)
        ax.legend()

    return _drawn(_HALF, draw, label)


def days(found: Mapping[str, Any], *, title: str, label: str) -> str:
    """Events of each day, coloured by split; from distributions.data_facts."""

    def draw(ax: Axes) -> None:
        at = found["first"] + np.arange(len(found["train"]) + 1)
        below = np.zeros(len(found["train"]))
        for number, split in enumerate(("train", "val", "test")):
            top = below + np.asarray(found[split])
            ax.stairs(top, at, baseline=below, fill=True, color=colour(number), alpha=0.75, label=split)
            below = top
        ax.set_title(title)
        ax.set_xlabel("day")
        ax.set_ylim(top=1.25 * below.max())
        _thousands(ax.yaxis)
        ax.legend(ncols=3, loc="upper left")

    return _drawn(_HALF, draw, label)


def shares(found: Mapping[str, Sequence[float]], *, title: str, label: str, dashed: Sequence[str] = ()) -> str:
    """What is shown by tenth of the songs, the most heard first: a line a scorer."""

    def draw(ax: Axes) -> None:
        at = np.arange(1, 11)
        for number, (name, values) in enumerate(found.items()):
            ax.plot(
                at, values, marker="o", markersize=4, color=_INK if name in dashed else colour(number), label=name,
                linestyle="--" if name in dashed else "-",
            )  # fmt: skip
        ax.set_xticks(at, ["most heard", *map(str, range(2, 10)), "least"])
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.set_xlabel("tenth of the songs, by listeners in train")
        ax.set_title(title)
        ax.legend()

    return _drawn((_HALF[0], 3.4), draw, label)
