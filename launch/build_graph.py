"""Shards to the bipartite graph of users and songs, with negative edges; preprocesses first where that is not done.

python launch/build_graph.py --config=configs/yambda.py
python launch/build_graph.py --config=configs/yambda.py --config.graph.edges=events
"""

from absl import flags

from launch import app, plan, published, stages
from music_map.storage import read_json

_CONFIG = app.define_config()
_FORCE = flags.DEFINE_bool("force", False, "Build again even where the graph is up to date.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say which stages are done, and what would be built.")


def main() -> None:
    config = _CONFIG.value
    if _DRY_RUN.value:
        plan.say_stages(config, force=_FORCE.value)
        return
    dataset = stages.ensure_dataset(config)
    stages.ensure_graph(config, dataset, force=_FORCE.value)
    stats = read_json(stages.processed_dir(config) / "graph_stats.json")
    compare = published.is_yambda_50m(dataset.stats)
    for line in published.table(stats, published.GRAPH if compare else None):
        app.say(line)
    settings = stages.graph_settings(config).identity()
    for note in published.graph_notes(stats, settings, compare=compare):
        app.say(f"note: {note}")


if __name__ == "__main__":
    app.run(main)
