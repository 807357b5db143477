"""The folder of a run: its configuration and data, and whether a run may continue there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from music_map import processes
from music_map.errors import DamagedFileError, UserError
from music_map.reporter import SILENT, Reporter
from music_map.run.config import (
    PLACES,
    Config,
    described,
    differences,
    flat,
    free_fields,
    from_stored,
)
from music_map.runfiles import RunFiles
from music_map.storage import fingerprint


@dataclasses.dataclass(frozen=True)
class Record:
    """The content of config.json in a run's folder.

    Attributes:
      config: the configuration.
      dataset: fingerprint of the data.
      run: fingerprint of the run as of its first training, which its checkpoints have too; "" in older runs.
    """

    config: Config
    dataset: str
    run: str = ""


def config_file(workdir: Path) -> Path:
    """The file of a run's configuration."""
    return workdir / "config.json"


def files_of(workdir: Path, reporter: Reporter = SILENT) -> RunFiles:
    """The files of a run; warns about runs of earlier versions, whose files are not verified."""
    return RunFiles(workdir, warn=None if reporter is SILENT else reporter.warn)


def read_record(workdir: Path, *, reporter: Reporter = SILENT) -> Record:
    """The record of a run, made by any version of this project.

    Raises:
      UserError: there is no run.
      DamagedFileError: config.json is not a configuration.
    """
    path, files = config_file(workdir), files_of(workdir, reporter)
    if not files.has(path.name):
        command = f"launch/train.py --config=... --workdir={workdir}"
        raise UserError(f"{workdir}: no config.json there; train first: {command}")
    remedy = "put the file back, or train again in a new folder"
    stored = files.read_json(path.name, {"config": dict, "dataset": str, "run?": str}, remedy=remedy)
    try:
        config, unknown = from_stored(stored["config"])
    except UserError as e:
        raise DamagedFileError(f"{path}: {e}; {remedy}") from e
    if unknown:
        reporter.warn(f"{path}: this version does not know config.{', config.'.join(unknown)}; not used")
    return Record(config, stored["dataset"], stored.get("run", ""))


def read_results(workdir: Path) -> dict[str, Any]:
    """results.json of a run. Raises DamagedFileError."""
    return files_of(workdir).read_json("results.json", {"step": int}, remedy="give the launch/train.py command again")


def claim(config: Config, dataset: str, workdir: Path) -> None:
    """Writes config.json into a new folder, or checks that a used one belongs to this configuration and data.

    Raises:
      UserError: the folder is another run's; names the first field that differs.
    """

    def write() -> None:
        before = check_folder(config, dataset, workdir)
        value = {"config": described(config), "dataset": dataset}
        run = _fingerprint(config, dataset) if before is None else before.run
        files_of(workdir).write_json({config_file(workdir).name: value | ({"run": run} if run else {})})

    processes.once(write)


def _fingerprint(config: Config, dataset: str) -> str:
    """Of a new run. It is stored, because a later version with more fields would compute another one."""
    fields = {name: value for name, value in flat(described(config)).items() if name not in PLACES}
    return fingerprint({"config": fields, "dataset": dataset})


def run_of(workdir: Path) -> str:
    """The stored fingerprint of the run in a folder; "" if it has none."""
    return read_record(workdir).run if files_of(workdir).has(config_file(workdir).name) else ""


def check_folder(config: Config, dataset: str, workdir: Path) -> Record | None:
    """The record of the run in the folder, if there is one.

    Raises:
      UserError: it is a run with another configuration or data; `dataset` is a fingerprint.
    """
    if not files_of(workdir).has(config_file(workdir).name):
        return None
    before = read_record(workdir)
    remedy = "choose another --workdir, or delete this one to start anew"
    if difference := first_difference(described(before.config), config, but=free_fields(config)):
        raise UserError(f"{workdir}: was trained with {difference}; {remedy}")
    if before.dataset != dataset:
        raise UserError(f"{workdir}: was trained on other data than {config.data.source}; {remedy}")
    return before


def first_difference(old: dict[str, Any], new: Config, *, but: frozenset[str]) -> str | None:
    """The first field, except those in `but`, that differs between configurations: "config.F=OLD, not NEW"."""
    for name, before, now in differences(old, described(new)):
        if name not in but:
            return f"config.{name}={before!r}, not {now!r}"
    return None


def check_same_data(workdirs: Sequence[Path], records: Sequence[Record]) -> None:
    """Raises UserError if a run was trained on other data than the first."""
    for workdir, record in zip(workdirs[1:], records[1:], strict=True):
        if record.dataset == records[0].dataset:
            continue
        one, other = (flat({"data": described(each.config)["data"]}) for each in (records[0], record))
        named = [name for name in one if one[name] != other[name] and name not in PLACES]
        why = f"config.{named[0]} is {one[named[0]]!r} there, {other[named[0]]!r} here" if named else "the logs differ"
        raise UserError(
            f"{workdirs[0]} and {workdir} were trained on different data ({why}); figures on different data cannot be "
            "compared: train both with the same data fields on the same logs"
        )
