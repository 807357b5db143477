"""Recall, latency and throughput of indexes over a trained workdir's songs.

    python launch/evaluate_retrieval.py --workdir=checkpoints/demo --output=retrieval.json
    python launch/evaluate_retrieval.py --workdir=checkpoints/demo --output=retrieval.json --recall_targets=0.9,0.99

A row an index: exact search, and ScaNN tuned to each recall target. Recall@k is against exact search, over queries that
the tuning did not see (half songs, half users); latency is of single queries, throughput of batches of 512.
"""

from absl import flags

from launch import app
from music_map.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of the rows.", required=True)
_TARGETS = flags.DEFINE_list("recall_targets", ["0.9", "0.95", "0.99"], "Recall targets of ScaNN, one index each.")
_K = flags.DEFINE_integer("k", 100, "Songs of a query.", 1)
_QUERIES = flags.DEFINE_integer("num_queries", 1_000, "Queries to measure with.", 2)


def main() -> int:
    from music_map import Recommender
    from music_map.retrieval.measure import measure_indexes
    from music_map.storage import write_json

    workdir, output = app.path_of(_WORKDIR.value, "workdir"), app.file_to_write(_OUTPUT.value, "output")
    try:
        targets = [float(text) for text in _TARGETS.value]
    except ValueError as e:
        raise UserError(f"--recall_targets={','.join(_TARGETS.value)}: numbers between 0 and 1, by commas") from e
    recommender = Recommender.load(workdir, index="exact", reporter=app.reporter())
    found = measure_indexes(
        recommender.vectors,
        recommender.tastes,
        k=_K.value,
        recall_targets=targets,
        num_queries=_QUERIES.value,
        reporter=app.reporter(),
    )
    columns = [name for name in found["rows"][0] if name not in ("index", "facts")]
    app.say(f"{'index':<16}" + "".join(f"{name:>20}" for name in columns))
    for row in found["rows"]:
        name = row["index"] + (f" {row['target']}" if "target" in row else "")
        app.say(f"{name:<16}" + "".join(f"{row[column]:>20.4f}" for column in columns))
    write_json(output, found)
    app.say(
        f"{found['num_songs']} songs, {found['num_queries']} queries, peak memory {found['peak_mib']:.0f} MiB; "
        f"all in {output}"
    )
    return 0


if __name__ == "__main__":
    app.run(main)
