"""Evaluates a trained model beside the baselines.

    python launch/evaluate.py --workdir=checkpoints/demo --output=test.json --split=test
    python launch/evaluate.py --workdir=checkpoints/demo --output=test.json --baselines=all --tune_baselines
    python launch/evaluate.py --workdir=checkpoints/demo --output=playlist.json --protocol=playlist

OUTPUT has all metrics, and under "intervals" the 95 % bootstrap intervals over users of each and of the model's paired
difference from each baseline.
With --tune_baselines their settings are chosen on the validation split, once for a workdir and protocol, and kept in
WORKDIR/baselines-PROTOCOL.json. A run on train and validation (data.train_on_val) has no validation split left: give
it the file of the run before by --baseline_settings.
"""

from absl import flags

from launch import app
from music_map.errors import UserError
from music_map.evaluation.protocols import PROTOCOLS, find_protocol

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.", required=True)
_PROTOCOL = flags.DEFINE_string(
    "protocol", None, f"One of {', '.join(PROTOCOLS.all())}; by default config.eval.protocol."
)
_BASELINES = flags.DEFINE_list("baselines", None, "Baselines, or 'all'; by default those of the configuration.")
_TUNE = flags.DEFINE_bool("tune_baselines", False, "Choose the baselines' settings on the validation split first.")
_SETTINGS = flags.DEFINE_string("baseline_settings", None, "JSON file of settings that --tune_baselines has written.")
_SESSIONS = flags.DEFINE_integer("max_sessions", 10_000, "Protocol playlist: sessions drawn of a number of seeds.", 1)
_SPLIT = flags.DEFINE_enum("split", "test", ["val", "test"], "Split to evaluate on.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say what would be evaluated, and what is tuned already.")


def main() -> int:
    from music_map.run import evaluation, plan
    from music_map.run.config import to_dict
    from music_map.run.evaluate import evaluate, report_table
    from music_map.run.evaluation import verdict
    from music_map.run.folder import read_record
    from music_map.run.run import open_run
    from music_map.storage import write_json

    workdir, output = app.path_of(_WORKDIR.value, "workdir"), app.file_to_write(_OUTPUT.value, "output")
    reporter, config = app.reporter(), read_record(workdir, reporter=app.reporter()).config
    protocol = app.protocol_of(config, _PROTOCOL.value)
    names = app.baselines_of(config, protocol, _BASELINES.value)
    kept = workdir / f"baselines-{protocol}.json"
    _check_tuning(config.data.train_on_val, protocol)
    settings = app.baseline_settings(_SETTINGS.value)
    if _DRY_RUN.value:
        how = plan.settings_from(_SETTINGS.value)
        if _TUNE.value:
            done = ", ".join(evaluation.read_baseline_settings(kept)) if kept.exists() else ""
            how = f"tuned on validation, kept in {kept}; done already: {done or 'none'}"
        plan.say_evaluation([workdir], protocol, _SPLIT.value, names, how, reporter)
        app.say(f"to write: {output}")
        return 0
    run = open_run(workdir, reporter=reporter)
    if _TUNE.value:
        settings = evaluation.tuned_baselines(run, run.task(protocol, "val"), kept, names=names)
    result = evaluate(run, protocol, _SPLIT.value, baselines=names, settings=settings, max_sessions=_SESSIONS.value)
    write_json(output, {**result, "config": to_dict(config)})
    app.say(verdict(result, metric=config.eval.metric))
    app.say(f"checkpoint of step {result['step']}, {report_table(result, metric=config.eval.metric)}")
    app.say(f"all metrics in {output}")
    return 0


def _check_tuning(train_on_val: bool, protocol: str) -> None:
    if _TUNE.value and _SETTINGS.value is not None:
        raise UserError("--tune_baselines and --baseline_settings exclude each other; give one of them")
    if _TUNE.value and train_on_val:
        raise UserError(
            "--tune_baselines: this run was trained on train and validation, no split is left to choose by; "
            "tune in the workdir of a run without data.train_on_val and give its file by --baseline_settings"
        )
    if _TUNE.value and find_protocol(protocol).queries == "sessions":
        raise UserError(
            f"--tune_baselines: not with --protocol={protocol}; tune with --protocol=temporal_repeats, then give "
            "WORKDIR/baselines-temporal_repeats.json by --baseline_settings"
        )


if __name__ == "__main__":
    app.run(main)
