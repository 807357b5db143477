"""Preprocesses raw logs into NumPy shards; a second run with the same input and configuration does nothing.

python launch/preprocess.py --config=configs/yambda.py
"""

from absl import flags

from launch import app, stages

_CONFIG = app.define_config()
_FORCE = flags.DEFINE_bool("force", False, "Make the shards anew even where they are up to date.")


def main() -> int:
    dataset = stages.ensure_dataset(_CONFIG.value, force=_FORCE.value)
    published = stages.PUBLISHED_STATS if stages.is_published_data(dataset) else {}
    app.say(app.comparison(dataset.stats, published))
    if moved := dataset.stats.get("rows_moved_by_ties"):
        app.say(
            f"boundaries lie {moved[0]} and {moved[1]} rows from the exact fractions: equal timestamps stay together"
        )
    return 0


if __name__ == "__main__":
    app.run(main)
