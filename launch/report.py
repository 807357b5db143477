"""One HTML page on a run, or on several side by side: data, results, slices, popularity, examples, learning curves.

    python launch/report.py --workdir=checkpoints/demo --output=report.html
    python launch/report.py --workdir=checkpoints/new --workdir=checkpoints/old --output=report.html --split=val

The figures are those of launch/evaluate.py, with 95 % intervals over users, beside the baselines; the first run is
compared with each other one as by launch/compare.py, so all must have been trained on the same data. The page needs no
network: charts, style and the figures as JSON are in it. Needs the extra "report" (pip install 'music-map[report]').
"""

import shlex
from pathlib import Path

from absl import flags

from launch import app
from music_map.errors import UserError, require_packages
from music_map.evaluation.protocols import PROTOCOLS, find_protocol

_WORKDIRS = flags.DEFINE_multi_string(
    "workdir", [], "Folder of a run of launch/train.py; once for each run, the first is compared with the others."
)
_OUTPUT = flags.DEFINE_string("output", None, "HTML file to write.", required=True)
_PROTOCOL = flags.DEFINE_string("protocol", None, "A protocol over users; by default the first run's eval.protocol.")
_SPLIT = flags.DEFINE_enum("split", "test", ["val", "test"], "Split to evaluate on.")
_BASELINES = flags.DEFINE_list("baselines", None, "Baselines, or 'all'; by default those of the first run.")
_SETTINGS = flags.DEFINE_string("baseline_settings", None, "JSON file of settings that --tune_baselines has written.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say which runs would be evaluated, and beside what.")


def main() -> int:
    require_packages("the report", "report", "jinja2", "matplotlib")
    from music_map.run import plan
    from music_map.run.folder import check_same_data, read_record
    from music_map.run.report import make_report
    from music_map.storage import write_text

    workdirs = [app.path_of(text, "workdir") for text in _WORKDIRS.value]
    output = app.file_to_write(_OUTPUT.value, "output")
    if not workdirs:
        raise UserError("--workdir missing; see --help")
    records = [read_record(workdir, reporter=app.reporter()) for workdir in workdirs]
    check_same_data(workdirs, records)
    config = records[0].config
    protocol = app.protocol_of(config, _PROTOCOL.value)
    if find_protocol(protocol).queries != "users":
        over_users = ", ".join(p.name for p in PROTOCOLS.all().values() if p.queries == "users")
        raise UserError(f"--protocol={protocol}: must be one over users: {over_users}")
    baselines = app.baselines_of(config, protocol, _BASELINES.value)
    settings = app.baseline_settings(_SETTINGS.value)
    if _DRY_RUN.value:
        how = plan.settings_from(_SETTINGS.value)
        plan.say_evaluation(workdirs, protocol, _SPLIT.value, baselines, how, app.reporter())
        app.say(f"to write: {output}")
        return 0
    report = make_report(
        workdirs,
        protocol=protocol,
        split=_SPLIT.value,
        baselines=baselines,
        settings=settings,
        commands=_commands(workdirs, protocol),
        reporter=app.reporter(),
    )
    write_text(output, report.html)
    for name, value in report.values.items():
        app.say(f"{name}: {config.eval.metric} {value:.4f}, protocol {protocol}, {_SPLIT.value} split")
    app.say(f"{output}: {len(report.html) / 1e3:,.0f} kB")
    return 0


def _commands(workdirs: list[Path], protocol: str) -> list[str]:
    more = [f"--{flag}={','.join(value)}" for flag, value in (("baselines", _BASELINES.value),) if value is not None]
    if _SETTINGS.value is not None:
        more.append(f"--baseline_settings={_SETTINGS.value}")
    same = [f"--protocol={protocol}", f"--split={_SPLIT.value}"]
    lines = [
        shlex.join(
            ["python", "launch/evaluate.py", f"--workdir={workdir}", f"--output={workdir.name}.json", *same, *more]
        )
        for workdir in workdirs
    ]
    lines += [
        shlex.join(["python", "launch/compare.py", str(workdirs[0]), str(workdir), *same]) for workdir in workdirs[1:]
    ]
    return lines


if __name__ == "__main__":
    app.run(main)
