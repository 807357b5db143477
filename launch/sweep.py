"""Searches fields of a configuration for the best validation metric. The test split is never ranked.

    python launch/sweep.py --config=configs/demo.py --output=sweeps/demo --trials=20 \
      --search=model.alpha=0:1 --search=model.beta=-0.5:0.5 --search=model.gamma=0:1
    python launch/sweep.py --config=configs/demo.py --output=sweeps/losses --trials=30 \
      --search=loss.name=sampled_softmax,debiased_contrastive --search=train.learning_rate=1e-3:1e-2:log

A range is LOW:HIGH, LOW:HIGH:log, LOW:HIGH:STEP or categories A,B,C. Each trial trains in its own folder under
OUTPUT/trials and counts with its best validation value of config.eval.metric; the first is the configuration as it is.
Writes a table of all trials (OUTPUT/trials.csv) and OUTPUT/parallel_coordinates.png. SIGTERM or Ctrl-C saves a
checkpoint and ends; the same command goes on, also after a kill, and a higher --trials adds trials. The same command
in a second terminal shares the work.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch import app
from music_map.errors import UserError, require, require_packages

if TYPE_CHECKING:
    from music_map.run.config import Config
    from music_map.sweep.search_space import Axis

_CONFIG = app.define_config()
_OUTPUT = flags.DEFINE_string("output", None, "Folder of this sweep.", required=True)
_SEARCH = flags.DEFINE_multi_string(
    "search", [], "A field and its range, e.g. model.alpha=0:1; once for each field. Ranges are explained below."
)
_TRIALS = flags.DEFINE_integer("trials", 20, "Trials altogether, those of earlier commands included.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the search; the training's own is config.train.seed.", 0, 2**31 - 1)
_PRUNER = flags.DEFINE_string(
    "pruner", "median", "Ends trials that fall behind others at the same epoch: none, median or hyperband."
)
_KEEP_CHECKPOINTS = flags.DEFINE_bool("keep_checkpoints", False, "Keep those of trials that are not the best too.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say which stages and trials are done, and what is searched.")


def _plan(output: Path, config: Config, axes: Sequence[Axis]) -> int:
    from music_map.run import plan

    plan.say_stages(config, app.reporter())
    for axis in axes:
        values = ", ".join(map(str, axis.choices)) if axis.choices else f"{axis.low} to {axis.high}"
        app.say(f"search: {axis.field}: {values}")
    begun = len(list((output / "trials").glob("[0-9]*")))
    epochs = config.train.num_epochs
    app.say(f"sweep: {begun} of {_TRIALS.value} trials begun in {output}; each at most {epochs} epochs")
    return 0


def _train_command(values: dict, workdir: str) -> str:
    """The command that trains the best trial anew: this command's configuration and overrides, then its values."""
    from ml_collections import config_flags

    flag = flags.FLAGS["config"]
    fields = {**config_flags.get_override_values(flag), **values}
    overrides = [f"--config.{field}={value}" for field, value in fields.items()]
    file = f"--config={config_flags.get_config_filename(flag)}"
    return f"python {shlex.join(['launch/train.py', file, *overrides, f'--workdir={workdir}'])}"


def main() -> int:
    from music_map.run import stages
    from music_map.run.run import check
    from music_map.sweep import search_space

    output, config = app.path_of(_OUTPUT.value, "output"), app.read_config(_CONFIG)
    axes = search_space.parse_all(_SEARCH.value)
    check(config)
    search_space.check_ends(axes, config)
    if config.data.train_on_val:
        raise UserError("config.data.train_on_val=True: leaves no validation split to choose by; set it to False")
    if _DRY_RUN.value:
        return _plan(output, config, axes)
    require_packages("the sweep", "sweep", "optuna", "matplotlib")
    # Optuna and matplotlib come with an extra.
    from music_map.sweep import report, study

    require(_PRUNER.value in study.PRUNERS, "--pruner", _PRUNER.value, f"one of {', '.join(study.PRUNERS)}")
    dataset = stages.ensure_dataset(config, reporter=app.reporter())
    stages.ensure_graph(config, dataset, reporter=app.reporter())  # which trials then share
    sweep = study.open_sweep(
        output,
        config,
        axes,
        dataset,
        seed=_SEED.value,
        pruner=_PRUNER.value,
        keep_checkpoints=_KEEP_CHECKPOINTS.value,
        reporter=app.reporter(),
    )
    with app.stop_on_signal() as asked:
        study.run(sweep, total=_TRIALS.value, should_stop=asked.is_set)
    results, best, metric = sweep.results(), sweep.best(), config.eval.metric
    report.write_csv(results, axes, metric, output / "trials.csv")
    app.say(f"\nvalidation {metric}, protocol {config.eval.protocol}:\n{report.table(results, axes, metric)}")
    if asked.is_set():
        app.say("\nstopped by a signal; checkpoint saved. Run the same command to go on.")
    if best is None:
        failed = [r for r in results if r.state == "failed"]
        if failed and not asked.is_set():
            raise UserError(f"no trial came to its end; trial {failed[-1].number:03d}: {failed[-1].error}")
        return 0
    picture = output / "parallel_coordinates.png"
    report.draw(results, axes, metric, picture)
    if shares := study.importances(sweep):
        app.say("\nimportance: " + ", ".join(f"{field} {share:.0%}" for field, share in shares.items()))
    app.say(f"\nbest: trial {best.number:03d}, {metric} {best.value:.4f}. To train it anew, or to test it as it is:")
    app.say(_train_command(best.values, f"{output}/best"))
    workdir = sweep.workdir(best.number)
    app.say(f"python launch/evaluate.py --workdir={workdir} --output={output}/test.json --split=test")
    app.say(f"\nall trials in {output / 'trials.csv'}, picture in {picture}")
    return 0


if __name__ == "__main__":
    app.run(main)
