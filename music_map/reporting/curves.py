"""Learning curves as inline SVG whose points can be read: by pointer, or by the slider below each.

The page's script (templates/curves.js) reads the points from the figure; without a script the lines, the points and the
table of their values remain.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence

_WIDE, _TALL = 520, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 12, 34
# Points of a line; more are means of equally many neighbours. Fewer than so many are drawn as dots too.
_MOST, _DOTS = 400, 80
Points = tuple[Sequence[float], Sequence[float]]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`: at most `most` and at least one."""
    if not high > low:
        return [low]
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)] or [low]


def thinned(steps: Sequence[float], values: Sequence[float], most: int = _MOST) -> list[tuple[float, float]]:
    """At most `most` points: where there are more, the last step and the mean of each of equally long stretches."""
    width = -(-len(steps) // most)
    return [
        (steps[min(at + width, len(steps)) - 1], sum(values[at : at + width]) / len(values[at : at + width]))
        for at in range(0, len(steps), width)
    ]


def plot(title: str, runs: Mapping[str, Points], *, chosen: Mapping[str, float] | None = None) -> str:
    """A figure of one quantity by step, as HTML.

    Args:
      title: the quantity.
      runs: steps, ascending, and finite values of each run; a run without points is left out.
      chosen: by run a step that is marked, where the run has a point there.
    """
    lines = {name: thinned(*points) for name, points in runs.items() if len(points[0])}
    steps = [step for line in lines.values() for step, _ in line]
    values = [value for line in lines.values() for _, value in line]
    (x_low, x_high), (y_low, y_high) = _span(steps), _span(values, room=0.06)

    def x(step: float) -> float:
        return round(_LEFT + (step - x_low) / (x_high - x_low) * (_WIDE - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_TALL - _BOTTOM - (value - y_low) / (y_high - y_low) * (_TALL - _TOP - _BOTTOM), 1)

    drawn = [
        f'<path class="grid" d="M{_LEFT} {y(tick)}H{_WIDE - _RIGHT}"/>'
        f'<text x="{_LEFT - 7}" y="{y(tick)}" dy=".32em" text-anchor="end">{_number(tick)}</text>'
        for tick in ticks(y_low, y_high)
    ]
    drawn += [
        f'<text x="{x(tick)}" y="{_TALL - _BOTTOM + 17}" text-anchor="middle">{tick:,.0f}</text>'
        for tick in ticks(x_low, x_high)
        if tick == round(tick)
    ]
    drawn.append(f'<text x="{(_LEFT + _WIDE - _RIGHT) / 2}" y="{_TALL - 3}" text-anchor="middle">step</text>')
    rows = []
    for number, (name, line) in enumerate(lines.items()):
        series = list(runs).index(name) % 8 + 1
        path = "M" + "L".join(f"{x(step)} {y(value)}" for step, value in line)
        drawn.append(f'<path class="line" style="stroke:var(--series-{series})" d="{path}"/>')
        if len(line) <= _DOTS:
            drawn += [
                f'<circle style="fill:var(--series-{series})" cx="{x(step)}" cy="{y(value)}" r="2.6"/>'
                for step, value in line
            ]
        marked = [(step, value) for step, value in line if chosen and step == chosen.get(name)]
        drawn += [
            f'<circle class="chosen" style="stroke:var(--series-{series})" cx="{x(step)}" cy="{y(value)}" r="6"/>'
            for step, value in marked
        ]
        points = [[step, float(f"{value:.6g}"), x(step), y(value)] for step, value in line]
        rows.append({"name": name, "series": series, "points": points})
        spoken = f"{name}: from {_number(line[0][1])} at step {line[0][0]:,} to {_number(line[-1][1])}"
        drawn.append(f"<desc>{html.escape(spoken)} at step {line[-1][0]:,}</desc>" if number == 0 else "")
    at = sorted({step for line in lines.values() for step, _ in line})
    label = html.escape(title, quote=True)
    return (
        f'<figure class="plot" data-lines="{html.escape(json.dumps(rows, allow_nan=False), quote=True)}">'
        f"<figcaption><b>{label}</b>{_legend(rows) if len(runs) > 1 else ''}</figcaption>"
        f'<svg viewBox="0 0 {_WIDE} {_TALL}" role="img" aria-label="{label} by step">{"".join(drawn)}'
        f'<g class="cursor" hidden><path d="M0 {_TOP}V{_TALL - _BOTTOM}"/></g></svg>'
        f'<input type="range" min="0" max="{len(at) - 1}" value="{len(at) - 1}" aria-label="Step of {label}">'
        f"<output></output>{_table(rows, at)}</figure>"
    )


def _span(values: Sequence[float], *, room: float = 0.0) -> tuple[float, float]:
    low, high = min(values), max(values)
    more = room * (high - low) or (0.0 if high > low else max(abs(high), 1.0) * 0.05)
    return low - more, high + more


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1e5 else f"{value:,.0f}"


def _legend(rows: Sequence[Mapping]) -> str:
    dots = (f'<span class="dot" style="background:var(--series-{row["series"]})"></span>' for row in rows)
    return "".join(f" <span>{dot}{html.escape(row['name'])}</span>" for dot, row in zip(dots, rows, strict=True))


def _table(rows: Sequence[Mapping], steps: Sequence[float]) -> str:
    """The points as a table, folded away: what a reader without eyes or pointer has of the chart."""
    by_step = [{point[0]: point[1] for point in row["points"]} for row in rows]
    head = "".join(f'<th scope="col">{html.escape(row["name"])}</th>' for row in rows)
    body = "".join(
        f'<tr><th scope="row">{step:,}</th>'
        + "".join(f"<td>{_number(values[step]) if step in values else '–'}</td>" for values in by_step)
        + "</tr>"
        for step in steps
    )
    return (
        '<details><summary>Values</summary><div class="scroll"><table>'
        f'<thead><tr><th scope="col">step</th>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )
