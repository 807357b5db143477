"""Evaluates a trained model beside the baselines.

python launch/evaluate.py --workdir=checkpoints/demo --output=test.json --split=test
"""

from absl import flags

from launch import app, experiment
from music_map.errors import UserError
from music_map.evaluation.protocols import find_protocol
from music_map.storage import write_json

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.", required=True)
_PROTOCOL = flags.DEFINE_string("protocol", None, "Protocol, by default that of the configuration (eval.protocol).")
_SPLIT = flags.DEFINE_string("split", "test", "Split to evaluate on: val or test.")


def main() -> int:
    workdir, output = app.path_of(_WORKDIR.value, "workdir"), app.path_of(_OUTPUT.value, "output")
    if _SPLIT.value not in ("val", "test"):
        raise UserError(f"--split={_SPLIT.value}: must be val or test")
    if output.is_dir():
        raise UserError(f"--output={output}: is a folder; give a file")
    opened = experiment.open_workdir(workdir)
    config = opened.config
    protocol = _PROTOCOL.value if _PROTOCOL.value is not None else config.eval.protocol
    find_protocol(protocol)
    run = experiment.load(config, trained_on=opened.dataset)
    step, params = experiment.best_params(run, workdir)
    task = experiment.task_for(run, protocol, _SPLIT.value)
    result = experiment.report(run, task, params)
    write_json(output, {**result, "step": step, "config": app.to_dict(config)})
    app.say(f"checkpoint of step {step}, {experiment.report_table(result)}")
    app.say(f"all metrics in {output}")
    return 0


if __name__ == "__main__":
    app.run(main)
