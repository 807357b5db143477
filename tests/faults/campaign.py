"""The fault campaign: python tests/faults/campaign.py [--minutes=30] [--areas=kills,flips] [--seed=0]

Each trial ends as the same result, as one line that names what is wrong (status 2), or as a warning that names it;
never with a traceback, never with another answer in silence. Prints the counts by area; the status is 1 where any was
wrong. The areas take turns, so that a short campaign tries something of each.
"""

import argparse
import os
import random
import sys
import tempfile
import time

from areas import AREAS
from harness import Counts, Scene


def campaign(scene, *, seconds, areas, seed=0, most=None, say=print):
    """Runs trials of the areas in turn until they or the time are used up.

    Args:
      scene: a Scene.
      seconds: after which no trial starts.
      areas: names of AREAS.
      seed: of their order and of what is flipped.
      most: trials of an area; None: all.
      say: told what is wrong.

    Returns:
      Counts.
    """
    counts, ends = Counts(say), time.monotonic() + seconds
    left = {name: AREAS[name](scene, random.Random(f"{seed} {name}")) for name in areas}
    while left and time.monotonic() < ends:
        for name in list(left):
            number, trial = sum(counts.areas[name].values()), next(left[name], None)
            if trial is None or number == most:
                del left[name]
            elif time.monotonic() < ends:
                counts.add(name, trial[0], trial[1]())
    return counts


def main():
    parser = argparse.ArgumentParser(description="The fault campaign.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--areas", default=",".join(AREAS))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/xla")
        scene = Scene(folder)
        print(f"a tiny run after {time.monotonic() - started:.0f} s")
        try:
            seconds = 60 * asked.minutes - (time.monotonic() - started)
            counts = campaign(scene, seconds=seconds, areas=asked.areas.split(","), seed=asked.seed)
        finally:
            scene.close()
    print(f"{counts.table()}\n{time.monotonic() - started:.0f} s")
    return int(bool(counts.wrong))


if __name__ == "__main__":
    sys.exit(main())
