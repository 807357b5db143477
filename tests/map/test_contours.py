"""The page's contours (contours.js): closed lines that hold the shares of the songs that they say."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "music_map/map/page/contours.js"
RUN = """
const c = require(process.argv[1]), { x, y } = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify({ rings: c.contoursOf(x, y), within: c.WITHIN }));
"""


def inside(ring, points):
    """Even-odd rule."""
    x, y = np.array(ring).reshape(-1, 2).T
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    crosses = (y > points[:, 1:]) != (y2 > points[:, 1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        right = points[:, :1] < x + (points[:, 1:] - y) / (y2 - y) * (x2 - x)
    return (crosses & right).sum(axis=1) % 2 == 1


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js on this machine to run contours.js with")
def test_lines_hold_the_shares_of_the_songs_and_the_sea_between_islands_stays_out():
    rng = np.random.default_rng(0)
    position = np.concatenate([rng.normal((-3, 0), 0.5, (3_000, 2)), rng.normal((3, 1), 0.7, (3_000, 2))])
    given = json.dumps({"x": position[:, 0].tolist(), "y": position[:, 1].tolist()})
    done = subprocess.run(
        ["node", "-e", RUN, "--", str(SCRIPT)], input=given, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for rings, share in zip(found["rings"], found["within"], strict=True):
        # A ring inside another one is a hole.
        held = sum(inside(ring, position).astype(int) for ring in rings) % 2
        assert abs(held.mean() - share) < 0.03
    shore = found["rings"][0]
    assert not any(inside(ring, np.array([[0.0, 0.5]]))[0] for ring in shore)
    assert any(inside(ring, np.array([[-3.0, 0.0]]))[0] for ring in shore)
