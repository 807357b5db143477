"""Turns Parquet logs into NumPy shards: filter, integer ids, temporal split, item features.

python launch/preprocess.py --config=configs/yambda.py
python launch/preprocess.py --config=configs/yambda.py --config.data.filter=k_core --force

Several workers that see the same folders may share the work: --part=i/n does the next step of the i-th of n parts, to
be run until it says that nothing is left (twice with filter="once": all parts count before one can write); --merge=n
then makes the data set, the same to the last byte. See docs/preprocessing.md.

python launch/preprocess.py --config=configs/yambda.py --part=1/4
python launch/preprocess.py --config=configs/yambda.py --merge=4
"""

import re

from absl import flags

from launch import app
from music_map.errors import UserError

_CONFIG = app.define_config()
_FORCE = flags.DEFINE_bool("force", False, "Preprocess again even where the result is up to date.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say whether it is done, and what would be read.")
_PART = flags.DEFINE_string("part", None, "i/n: do the next step of the i-th of n parts, and nothing else.")
_MERGE = flags.DEFINE_integer("merge", None, "n: make the data set of what n parts have written.", 1)


def main() -> None:
    from music_map.preprocess.parts import run_part
    from music_map.reporting import published
    from music_map.run import plan, stages

    if sum((_PART.value is not None, _MERGE.value is not None, _FORCE.value)) > 1:
        raise UserError("--part, --merge and --force exclude each other; to start anew, delete the processed folder")
    config, reporter = app.read_config(_CONFIG), app.reporter()
    if _DRY_RUN.value:
        plan.say_dataset(config, reporter, force=_FORCE.value)
        return
    if _PART.value is not None:
        if not (match := re.fullmatch(r"(\d+)/(\d+)", _PART.value)):
            raise UserError(f"--part={_PART.value}: must be i/n, e.g. --part=1/4")
        part = stages.dataset_plan(config, reporter=reporter)
        step = run_part(part, int(match[1]), int(match[2]), progress=app.bar)
        app.say(f"part {_PART.value}: " + ("nothing left to do" if step == "done" else f"step {step} done"))
        return
    if _MERGE.value is not None:
        dataset = stages.merged_dataset(config, _MERGE.value, reporter=reporter)
    else:
        dataset = stages.ensure_dataset(config, force=_FORCE.value, check=True, reporter=reporter)
    published.say_dataset(dataset, reporter)


if __name__ == "__main__":
    app.run(main)
