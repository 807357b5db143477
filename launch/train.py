"""Trains a model, or continues an interrupted training in the same workdir.

    python launch/train.py --config=configs/yambda.py --workdir=checkpoints/yambda
    python launch/train.py --config=configs/yambda.py --workdir=checkpoints/low --config.train.learning_rate=1e-3
    python launch/train.py --config=configs/demo.py --workdir=checkpoints/demo --tensorboard --profile_steps=100:110

First preprocesses and builds the graph unless that has been done for this configuration. Writes config.json,
metrics.jsonl, checkpoints/, recency/, embeddings/, playlist.json and results.json into the workdir. SIGTERM or Ctrl-C
saves a checkpoint and ends; the same command goes on.

    python launch/train.py --config=configs/yambda_5b.py --workdir=/nfs/5b --config.parallel=sharded --distributed

With config.parallel "pmap" or "sharded" several processes can train one model, each with the devices that it sees. Give
the command with --distributed on every host of a Cloud TPU slice, or as a Slurm step. Elsewhere add
--coordinator_address=HOST:PORT, --num_processes=N and each process's --process_id. Workdir and data must be on a file
system that all processes share.
"""

import re
from pathlib import Path

from absl import flags

from launch import app
from music_map.errors import UserError

_CONFIG = app.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints, metrics, results.", required=True)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only say which stages are done, and what the others would do, with sizes."
)
_TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "Log to WORKDIR/tensorboard too; needs the extra tensorboard.")
_PROFILE = flags.DEFINE_string("profile_steps", None, "A:B traces the steps A to B - 1 into WORKDIR/profile.")

app.section("Several processes")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", None, "One of several processes; JAX_* variables or the cluster say where the others are."
)
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, the same for all processes.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of this run.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.", 0)
_HEARTBEAT = flags.DEFINE_integer("heartbeat_timeout", 60, "Seconds until a silent process counts as lost.", 5, 10**6)
_STALL = flags.DEFINE_float(
    "stall_timeout", 3600.0, "Seconds without progress after which processes end; 0: never.", 0, 1e9
)


def main() -> int:
    from music_map.run import cluster

    address = {
        "coordinator_address": _COORDINATOR.value,
        "num_processes": _NUM_PROCESSES.value,
        "process_id": _PROCESS_ID.value,
    }
    active = cluster.wanted(_DISTRIBUTED.value, address)
    with cluster.joined(active, **address, heartbeat_timeout=_HEARTBEAT.value, silence=app.silence):
        return _train(app.path_of(_WORKDIR.value, "workdir"))


def _train(workdir: Path) -> int:
    from music_map.run import cluster, plan
    from music_map.run.evaluate import report_table
    from music_map.run.evaluation import verdict
    from music_map.run.folder import check_folder, claim
    from music_map.run.run import check, prepare
    from music_map.run.training import metrics_log, train_run
    from music_map.stopwatch import Stages, table
    from music_map.training.loop import steps_per_epoch
    from music_map.training.profiling import StepProfile

    config, reporter, clock = app.read_config(_CONFIG), app.reporter(), Stages()
    check(config)
    if _DRY_RUN.value:
        dataset, num_edges = plan.say_stages(config, reporter)
        if dataset is not None:
            check_folder(config, dataset.fingerprint, workdir)
        steps = None if num_edges is None else steps_per_epoch(num_edges, config.train.batch_size)
        plan.say_training(config, workdir, dataset, steps, reporter)
        return 0
    steps = _profiled_steps()
    profile = None if steps is None else StepProfile(*steps, workdir / "profile")
    metrics_log(workdir, tensorboard=_TENSORBOARD.value)  # refused before anything that takes long
    run = prepare(config, workdir, reporter=reporter, clock=clock)
    claim(config, run.dataset.fingerprint, workdir)
    with app.stop_on_signal() as asked, cluster.watched(asked.is_set, _STALL.value) as should_stop:
        results = train_run(run, should_stop=should_stop, profile=profile, tensorboard=_TENSORBOARD.value)
    fitted = results.fitted
    if profile is not None and profile.traced:
        app.note(f"profile of {profile.traced} steps in {profile.folder}: open its trace.json.gz in ui.perfetto.dev")
    elif profile is not None:
        app.warn(f"--profile_steps={_PROFILE.value}: none of these steps was run now")
    if fitted.resumed_from is not None:
        app.note(f"went on from step {fitted.resumed_from}")
    if results.report is None:
        where = f"at step {fitted.step}; checkpoint saved" if fitted.reason == "signal" else "after training"
        app.say(f"stopped by a signal {where}. Run the same command to go on.")
        return 0
    metric = config.eval.metric
    app.say(verdict(results.report, metric=metric))
    how, progress = "stopped early" if fitted.reason == "patience" else "trained to the end", fitted.progress
    app.say(
        f"{how}: {fitted.step} steps, {progress.train_seconds:.1f} s of training, {progress.eval_seconds:.1f} s of "
        f"evaluation, {progress.compile_seconds:.1f} s of compilation"
    )
    app.say(f"best step {results.step} by validation {metric}; {report_table(results.report, metric=metric)}")
    app.note(f"\nwall seconds of this call by stage:\n{table(clock.seconds())}")
    song = run.dataset.item_ids[run.graph.item[0]]
    app.say(f"\npython launch/evaluate.py --workdir={workdir} --output={workdir}/test.json --split=test")
    app.say(f"python launch/recommend.py --workdir={workdir} --songs={song} --k=10 --format=table")
    return 0


def _profiled_steps() -> tuple[int, int] | None:
    if _PROFILE.value is None:
        return None
    steps = re.fullmatch(r"(\d+):(\d+)", _PROFILE.value)
    if steps is None or int(steps[1]) >= int(steps[2]):
        raise UserError(f"--profile_steps={_PROFILE.value}: must be A:B with A below B, e.g. 100:110")
    return int(steps[1]), int(steps[2])


if __name__ == "__main__":
    app.run(main)
