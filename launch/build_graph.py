"""Builds the bipartite graph of users and songs, with negative edges; preprocesses first if that is not done.

python launch/build_graph.py --config=configs/yambda.py
python launch/build_graph.py --config=configs/yambda.py --config.graph.edges=events
"""

from absl import flags

from launch import app

_CONFIG = app.define_config()
_FORCE = flags.DEFINE_bool("force", False, "Build again even where the graph is up to date.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say which stages are done, and what would be built.")


def main() -> None:
    from music_map.reporting import published
    from music_map.run import plan, stages
    from music_map.storage import read_json

    config, reporter = app.read_config(_CONFIG), app.reporter()
    if _DRY_RUN.value:
        plan.say_stages(config, reporter, force=_FORCE.value)
        return
    dataset = stages.ensure_dataset(config, reporter=reporter)
    stages.ensure_graph(config, dataset, force=_FORCE.value, reporter=reporter)
    stats = read_json(config.data.processed / "graph_stats.json")
    published.say_graph(stats, config.graph.identity(), published.is_yambda_50m(dataset.stats), reporter)


if __name__ == "__main__":
    app.run(main)
