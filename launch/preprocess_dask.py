"""Preprocessing in parts under Dask: its workers do the steps of launch/preprocess.py --part, this process merges.

python launch/preprocess_dask.py --config=configs/yambda.py --parts=8 --workers=2
python launch/preprocess_dask.py --config=configs/yambda.py --parts=64 --scheduler=tcp://10.0.0.1:8786

Without --scheduler it starts workers on this machine. Workers need this package and the folders of the configuration
(data.raw_dir, data.processed_dir) under the same paths. Needs the extra dask: pip install 'music-map[dask]'.
"""

import logging

from absl import flags

from launch import app
from music_map.errors import require_packages

_CONFIG = app.define_config()
_PARTS = flags.DEFINE_integer("parts", 8, "Parts of the log; a few for each worker.", 1)
_SCHEDULER = flags.DEFINE_string("scheduler", None, "Address of a running scheduler.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Without --scheduler: processes to start on this machine.", 1)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say whether it is done, and what would be read.")


def main() -> None:
    require_packages("preprocessing on several machines", "dask", "distributed")
    from distributed import Client, LocalCluster

    from music_map.preprocess.parts import run_part
    from music_map.reporting import published
    from music_map.run import plan, stages

    config, reporter = app.read_config(_CONFIG), app.reporter()
    # Dask's scheduler and workers log every connection.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    if _DRY_RUN.value:
        plan.say_dataset(config, reporter)
        where = _SCHEDULER.value or f"{_WORKERS.value} processes of this machine"
        app.say(f"in {_PARTS.value} parts, on {where}")
        return
    task = stages.dataset_plan(config, reporter=reporter)
    parts = range(1, _PARTS.value + 1)
    cluster = None
    if not _SCHEDULER.value:
        # One thread a worker: the parts use threads of their own. No dashboard, so no port of it either.
        cluster = LocalCluster(n_workers=_WORKERS.value, threads_per_worker=1, dashboard_address=None)
    try:
        with Client(cluster or _SCHEDULER.value) as client:
            steps: set[str] = set()
            while steps != {"done"}:
                # Not pure: the same call does another step each time. Gathering is the barrier between two steps.
                steps = set(client.gather(client.map(run_part, [task] * len(parts), parts, of=len(parts), pure=False)))
                app.note(f"{len(parts)} parts: {', '.join(sorted(steps))}")
    finally:
        if cluster is not None:
            cluster.close()
    published.say_dataset(stages.merged_dataset(config, len(parts), reporter=reporter), reporter)


if __name__ == "__main__":
    app.run(main)
