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

from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from launch import app, attention, experiment, plan, playlist, recency
from music_map.errors import UserError
from music_map.evaluation.baselines import settings_to_json
from music_map.evaluation.baselines.settings import Settings
from music_map.evaluation.protocols import PROTOCOLS, find_protocol
from music_map.storage import write_json

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.", required=True)
_PROTOCOL = flags.DEFINE_string("protocol", None, f"One of {', '.join(PROTOCOLS)}; by default config.eval.protocol.")
_BASELINES = flags.DEFINE_list("baselines", None, "Baselines, or 'all'; by default those of the configuration.")
_TUNE = flags.DEFINE_bool("tune_baselines", False, "Choose the baselines' settings on the validation split first.")
_SETTINGS = flags.DEFINE_string("baseline_settings", None, "JSON file of settings that --tune_baselines has written.")
_SESSIONS = flags.DEFINE_integer("max_sessions", 10_000, "Protocol playlist: sessions drawn of a number of seeds.", 1)
_SPLIT = flags.DEFINE_string("split", "test", "Split to evaluate on: val or test.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say what would be evaluated, and what is tuned already.")


def main() -> int:
    workdir, output = app.path_of(_WORKDIR.value, "workdir"), app.file_to_write(_OUTPUT.value, "output")
    app.check_split(_SPLIT.value)
    if _TUNE.value and _SETTINGS.value is not None:
        raise UserError("--tune_baselines and --baseline_settings exclude each other; give one of them")
    opened = experiment.open_workdir(workdir)
    config = opened.config
    if _TUNE.value and config.data.train_on_val:
        raise UserError(
            "--tune_baselines: this run was trained on train and validation, no split is left to choose by; "
            "tune in the workdir of a run without data.train_on_val and give its file by --baseline_settings"
        )
    protocol = _PROTOCOL.value if _PROTOCOL.value is not None else config.eval.protocol
    experiment.check_protocol(config, protocol, "--protocol")
    on_sessions = find_protocol(protocol).queries == "sessions"
    evaluate = _on_sessions if on_sessions else _on_users
    if _TUNE.value and on_sessions:
        raise UserError(
            f"--tune_baselines: not with --protocol={protocol}; tune with --protocol=temporal_repeats, then give "
            "WORKDIR/baselines-temporal_repeats.json by --baseline_settings"
        )
    settings = None
    if _SETTINGS.value is not None:
        settings = experiment.read_baseline_settings(app.path_of(_SETTINGS.value, "baseline_settings"))
    if _DRY_RUN.value:
        names = _baseline_names(config, protocol)
        plan.say_evaluation([workdir], protocol, _SPLIT.value, names, _settings_from(workdir, protocol))
        app.say(f"to write: {output}")
        return 0
    result, table = evaluate(workdir, opened, protocol, settings)
    write_json(output, {**result, "config": app.to_dict(config)})
    app.say(f"checkpoint of step {result['step']}, {table}")
    app.say(f"all metrics in {output}")
    return 0


def _baseline_names(config: ConfigDict, protocol: str) -> tuple[str, ...]:
    if find_protocol(protocol).queries == "sessions":
        return playlist.baseline_names(config, _BASELINES.value)
    names = experiment.baseline_names(config, protocol, _BASELINES.value)
    experiment.check_baselines(names, "--baselines")
    return names


def _kept(workdir: Path, protocol: str) -> Path:
    """Where --tune_baselines keeps what it chose."""
    return workdir / f"baselines-{protocol}.json"


def _settings_from(workdir: Path, protocol: str) -> str:
    if not _TUNE.value:
        return plan.settings_from(_SETTINGS.value)
    kept = _kept(workdir, protocol)
    done = ", ".join(experiment.read_baseline_settings(kept)) if kept.exists() else ""
    return f"tuned on validation, kept in {kept}; done already: {done or 'none'}"


def _on_users(
    workdir: Path, opened: experiment.Run, protocol: str, settings: dict[str, Settings] | None
) -> tuple[dict[str, Any], str]:
    """The report of a protocol over users, and its table."""
    config = opened.config
    names = _baseline_names(config, protocol)
    run = experiment.load(config, trained_on=opened.dataset)
    step, params = experiment.best_params(run, workdir)
    task = experiment.task_for(run, protocol, _SPLIT.value)
    if _TUNE.value:
        validation = experiment.task_for(run, protocol, "val")
        kept = _kept(workdir, protocol)
        settings = experiment.tuned_baselines(config, run.dataset, validation, kept, names=names)
    recent = recency.scores_for(run, workdir, params, task)
    result = experiment.report(run, task, params, recency=recent, baselines=names, settings=settings)
    used = settings_to_json({n: s for n, s in (settings or {}).items() if n in names})
    table = experiment.report_table(result, metric=config.eval.metric)
    return result | {"baseline_settings": used, "step": step}, table


def _on_sessions(
    workdir: Path, opened: experiment.Run, protocol: str, settings: dict[str, Settings] | None
) -> tuple[dict[str, Any], str]:
    """The report of a protocol over sessions, and its table."""
    config = opened.config
    names = _baseline_names(config, protocol)
    run = experiment.load(config, trained_on=opened.dataset)
    step, params = experiment.best_params(run, workdir)
    tasks = playlist.tasks_for(run, _SPLIT.value, max_sessions=_SESSIONS.value)
    heads = attention.heads_for(run, workdir)
    result = playlist.report(run, params, tasks, heads=heads, baselines=names, settings=settings)
    used = settings_to_json({n: s for n, s in (settings or {}).items() if n in names})
    return result | {"baseline_settings": used, "step": step}, playlist.report_table(result, metric=config.eval.metric)


if __name__ == "__main__":
    app.run(main)
