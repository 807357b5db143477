import time

import pytest

from music_map.reporter import SILENT, Stoppable, Stopped
from music_map.stopwatch import Stages, table


def test_a_stage_within_another_is_not_counted_twice():
    clock, began = Stages(), time.perf_counter()
    with clock("outer"):
        time.sleep(0.05)
        with clock("inner"):
            time.sleep(0.1)
    with clock("inner"):
        time.sleep(0.05)
    seconds, whole = clock.seconds(), time.perf_counter() - began
    assert list(seconds) == ["outer", "inner", "other"]
    assert seconds["inner"] >= 0.15 and 0.05 <= seconds["outer"] < seconds["inner"]
    assert sum(seconds.values()) == pytest.approx(whole, abs=0.02)
    assert table({"short": 0.01, "long": 2.0}).split() == ["long", "2.0", "s", "total", "2.0", "s"]


def test_peak_memory_is_that_of_the_stage():
    clock = Stages(memory=True)
    with clock("large"):
        bytearray(200 << 20)
    with clock("small"):
        pass
    large, small = clock.spent["large"].peak, clock.spent["small"].peak
    assert large == small == 0 or large - small > 100 << 20


def test_a_bar_stops_between_two_units_of_work():
    done, asked = [], False
    reporter = Stoppable(SILENT, lambda: asked)
    with pytest.raises(Stopped), reporter.bar("work", 3, "unit") as advance:
        for unit in range(3):
            done.append(unit)
            asked = unit == 1
            advance(1)
    assert done == [0, 1]
