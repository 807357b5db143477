"""Builds the bipartite graph of the train split; preprocesses first where that has not been done.

python launch/build_graph.py --config=configs/yambda.py
python launch/build_graph.py --config=configs/yambda.py --config.graph.edges=events --config.graph.half_life_days=1e9
"""

from absl import flags

from launch import app, stages
from music_map.graph.build import graph_stats

_CONFIG = app.define_config()
_FORCE = flags.DEFINE_bool("force", False, "Build the graph anew even where it is up to date.")


def main() -> int:
    dataset = stages.ensure_dataset(_CONFIG.value)
    stats = graph_stats(stages.ensure_graph(_CONFIG.value, dataset, force=_FORCE.value))
    weights = stats.pop("edge_weight_stats")
    stats |= {f"weight {name}": value for name, value in weights.items()}
    published = stages.PUBLISHED_GRAPH if stages.is_published_data(dataset) else {}
    app.say(app.comparison(stats, published))
    if published:
        app.say(
            "published: edges=events, no temporal weight, organic_factor 1, played ratio not clipped, withdrawn likes "
            "kept"
        )
    return 0


if __name__ == "__main__":
    app.run(main)
