"""Parquet logs to NumPy shards: filter, integer ids, temporal split, item features.

python launch/preprocess.py --config=configs/yambda.py
python launch/preprocess.py --config=configs/yambda.py --config.data.filter=k_core --force
"""

from absl import flags

from launch import app, published, stages

_CONFIG = app.define_config()
_FORCE = flags.DEFINE_bool("force", False, "Preprocess again even where the result is up to date.")


def main() -> None:
    dataset = stages.ensure_dataset(_CONFIG.value, force=_FORCE.value, check=True)
    compare = published.is_yambda_50m(dataset.stats)
    for line in published.table(dataset.stats, published.DATASET if compare else None):
        app.say(line)
    for note in published.dataset_notes(dataset.stats, dataset.store.meta["settings"], compare=compare):
        app.say(f"note: {note}")


if __name__ == "__main__":
    app.run(main)
