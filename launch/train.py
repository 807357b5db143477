"""Trains a model, going on where an earlier run of the same workdir stopped.

    python launch/train.py --config=configs/yambda.py --workdir=checkpoints/yambda
    python launch/train.py --config=configs/yambda.py --workdir=checkpoints/low --config.train.learning_rate=1e-3

Preprocesses and builds the graph first where that has not been done for this configuration. Writes config.json,
metrics.jsonl, checkpoints/, recency/, embeddings/, playlist.json and results.json into the workdir. SIGTERM or Ctrl-C
saves a checkpoint and ends; the same command goes on.
"""

from absl import flags

from launch import app, attention, experiment, recency
from music_map.storage import write_json

_CONFIG = app.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints, metrics, results.", required=True)


def main() -> int:
    workdir = app.path_of(_WORKDIR.value, "workdir")
    loop = experiment.loop_settings(_CONFIG.value)
    run = experiment.load(_CONFIG.value)
    experiment.claim_workdir(run, workdir)
    config = run.config
    with app.stop_on_signal() as asked:
        result = experiment.train(run, workdir, loop, should_stop=asked.is_set)
    if result.resumed_from is not None:
        app.note(f"went on from step {result.resumed_from}")
    if result.reason == "signal":
        app.say(f"stopped by a signal at step {result.step}; checkpoint saved. Run the same command to go on.")
        return 0

    step, params = experiment.best_params(run, workdir)
    with app.stop_on_signal() as asked:
        if not recency.calibrate(run, workdir, best_step=step, should_stop=asked.is_set):
            app.say("stopped by a signal while fitting recency; checkpoint saved. Run the same command to go on.")
            return 0
    experiment.export_model(run, workdir, step, params)
    attention.heads_for(run, workdir)
    task = experiment.task_for(run, config.eval.protocol, "test")
    report = experiment.report(run, task, params, recency=recency.scores_for(run, workdir, params, task))
    seconds = result.position
    times = {name: getattr(seconds, name) for name in ("train_seconds", "eval_seconds", "compile_seconds")}
    write_json(workdir / "results.json", {**report, "step": step, **times})
    how = "stopped early" if result.reason == "patience" else "trained to the end"
    app.say(
        f"{how}: {result.step} steps, {seconds.train_seconds:.1f} s of training, {seconds.eval_seconds:.1f} s of "
        f"evaluation, {seconds.compile_seconds:.1f} s of compilation"
    )
    table = experiment.report_table(report, metric=config.eval.metric)
    app.say(f"best step {step} by validation {config.eval.metric}; {table}")
    song = run.dataset.item_ids[run.graph.item[0]]
    app.say(f"\npython launch/evaluate.py --workdir={workdir} --output={workdir}/test.json --split=test")
    app.say(f"python launch/recommend.py --workdir={workdir} --songs={song} --k=10 --format=table")
    return 0


if __name__ == "__main__":
    app.run(main)
