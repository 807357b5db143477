"""Learning curves: ticks, thinning, and where the points of a figure lie."""

import html
import json
import re

import pytest

from music_map.reporting.curves import plot, thinned, ticks


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.031, 0.074, [0.04, 0.05, 0.06, 0.07]),
        (-1.2, 1.2, [-1, -0.5, 0, 0.5, 1]),
        (41, 328, [100, 200, 300]),
        (7, 7, [7]),
    ],
)
def test_ticks_are_round_and_few(low, high, wanted):
    assert ticks(low, high) == pytest.approx(wanted)


def test_thinning_takes_means_and_keeps_the_last_step():
    assert thinned([1, 2, 3], [5.0, 6.0, 8.0]) == [(1, 5.0), (2, 6.0), (3, 8.0)]
    assert thinned([1, 2, 3, 4, 5], [1.0, 3.0, 5.0, 7.0, 10.0], most=3) == [(2, 2.0), (4, 6.0), (5, 10.0)]
    many = thinned(list(range(10_000)), [1.0] * 10_000)
    assert len(many) <= 400 and many[-1] == (9_999, 1.0)


def test_a_figure_has_its_points_where_their_values_are():
    runs = {"a <b>": ([10, 20, 30], [1.0, 2.0, 4.0]), "empty": ([], []), "c": ([20], [3.0])}
    found = plot("loss & more", runs, chosen={"a <b>": 20, "c": 25})
    lines = json.loads(html.unescape(re.search('data-lines="([^"]*)"', found).group(1)))
    assert [(line["name"], line["series"]) for line in lines] == [("a <b>", 1), ("c", 3)]
    (s1, v1, x1, y1), (s2, v2, x2, y2), (s3, v3, x3, y3) = lines[0]["points"]
    assert [(s1, v1), (s2, v2), (s3, v3)] == [(10, 1.0), (20, 2.0), (30, 4.0)]
    # Equal steps are equally far apart; twice the rise is twice as high, and up is less y.
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2) and y2 - y3 == pytest.approx(2 * (y1 - y2), abs=0.3) and y3 < y1
    assert lines[1]["points"][0][2] == x2
    assert found.count('class="chosen"') == 1 and f'cx="{x2}" cy="{y2}" r="6"' in found
    assert "<b>loss &amp; more</b>" in found and "a <b>" not in found
    # The values are there as a table too.
    rows = re.findall(r'<tr><th scope="row">(\d+)</th>(.*?)</tr>', found)
    assert [(step, re.findall("<td>(.*?)</td>", cells)) for step, cells in rows] == [
        ("10", ["1", "–"]), ("20", ["2", "3"]), ("30", ["4", "–"]),
    ]  # fmt: skip
    # A single point is a curve as well.
    assert plot("x", {"a": ([5], [0.0])}).count("<circle") == 1
