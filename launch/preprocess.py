"""Parquet logs to NumPy shards: filter, integer ids, temporal split, item features.

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

from launch import app, plan, published, stages
from music_map.errors import UserError
from music_map.preprocess.parts import merge_parts, run_part
from music_map.storage import write_json

_CONFIG = app.define_config()
_FORCE = flags.DEFINE_bool("force", False, "Preprocess again even where the result is up to date.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say whether it is done, and what would be read.")
_PART = flags.DEFINE_string("part", None, "i/n: do the next step of the i-th of n parts, and nothing else.")
_MERGE = flags.DEFINE_integer("merge", None, "n: make the data set of what n parts have written.", 1)


def main() -> None:
    if sum((_PART.value is not None, _MERGE.value is not None, _FORCE.value)) > 1:
        raise UserError("--part, --merge and --force exclude each other; to start anew, delete the processed folder")
    if _DRY_RUN.value:
        plan.say_dataset(_CONFIG.value, force=_FORCE.value)
        return
    if _PART.value is not None:
        if not (match := re.fullmatch(r"(\d+)/(\d+)", _PART.value)):
            raise UserError(f"--part={_PART.value}: must be i/n, e.g. --part=1/4")
        step = run_part(stages.dataset_plan(_CONFIG.value), int(match[1]), int(match[2]), progress=app.bar)
        app.say(f"part {_PART.value}: " + ("nothing left to do" if step == "done" else f"step {step} done"))
        return
    if _MERGE.value is not None:
        dataset = merge_parts(stages.dataset_plan(_CONFIG.value), _MERGE.value, progress=app.bar)
        app.note(f"preprocess: {dataset.store.folder}")
        write_json(stages.processed_dir(_CONFIG.value) / "stats.json", dataset.stats)
    else:
        dataset = stages.ensure_dataset(_CONFIG.value, force=_FORCE.value, check=True)
    compare = published.is_yambda_50m(dataset.stats)
    for line in published.table(dataset.stats, published.DATASET if compare else None):
        app.say(line)
    for note in published.dataset_notes(dataset.stats, dataset.store.meta["settings"], compare=compare):
        app.say(f"note: {note}")


if __name__ == "__main__":
    app.run(main)
