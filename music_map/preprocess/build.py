"""One folder per configuration: its name, whether it exists, and how to make it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from music_map.preprocess.dataset import HELD_OUT_SCHEMA, OWN_IDS_SCHEMA, SCHEMA, Dataset
from music_map.preprocess.inputs import Inputs, identify_inputs, remembered_inputs
from music_map.preprocess.logs import preprocess_logs
from music_map.preprocess.settings import PreprocessSettings
from music_map.preprocess.text import TEXT_FILES, preprocess_text
from music_map.raw.reader import BATCH_ROWS
from music_map.raw.schema import ID_TABLES, event_path, id_table_path, pipeline_files
from music_map.reporter import Progress, silent
from music_map.storage import MANIFEST, ArrayFolder, ArrayWriter, fingerprint, new_folder, write_json

# Increase this when the stored arrays change their meaning: folders of an older version are then not used.
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class DatasetPlan:
    """The data set that a configuration and its inputs define.

    Attributes:
      settings: how the logs become a data set.
      source: data.raw_dir, or data.path for the text format.
      processed_dir: the folder of all data sets.
      inputs: the input files and their checksums; None for an optional file that is absent.
      fingerprint: identity of settings, inputs and format version.
    """

    settings: PreprocessSettings
    source: Path
    processed_dir: Path
    inputs: Inputs
    fingerprint: str

    @property
    def folder(self) -> Path:
        return dataset_folder(self.processed_dir, self.fingerprint)

    @property
    def missing(self) -> list[str]:
        """Optional input files that are absent; they count as empty."""
        return [name for name, entry in self.inputs.items() if entry is None]

    @property
    def warnings(self) -> list[str]:
        """Warnings about the inputs, a line each."""
        if not self.missing:
            return []
        if self.settings.format == "text":
            what = "is part of train anyway" if self.settings.train_on_val else "is a tenth of train's pairs"
            return [f"{self.source}: {', '.join(self.missing)} is missing; validation {what}"]
        are = "is missing and counts" if len(self.missing) == 1 else "are missing and count"
        return [f"{self.source}: {', '.join(self.missing)} {are} as empty"]


def dataset_folder(processed_dir: Path, identity: str) -> Path:
    """The folder for the data set with this fingerprint."""
    return processed_dir / f"events-{identity[:12]}"


def plan_dataset(
    settings: PreprocessSettings, *, source: Path, processed_dir: Path, progress: Progress = silent
) -> DatasetPlan:
    """Identifies the inputs and names the folder; nothing is preprocessed.

    Checksums of unchanged files are remembered in `processed_dir/inputs.json`.

    Args:
      settings: how the logs become a data set.
      source: folder in the hub's layout, or with train.txt, valid.txt and test.txt if settings.format is "text".
      processed_dir: the folder of all data sets.
      progress: shows the bytes hashed.
    Raises:
      UserError: a required file is absent.
    """
    cache = processed_dir / "inputs.json"
    inputs = identify_inputs(source, cache=cache, progress=progress, **_wanted(settings, source))
    return DatasetPlan(settings, source, processed_dir, inputs, _identity(settings, inputs))


def remembered_plan(
    settings: PreprocessSettings, *, source: Path, processed_dir: Path
) -> tuple[DatasetPlan | None, dict[str, int]]:
    """`plan_dataset` for a preview: it reads no input and writes nothing.

    Returns:
      The plan, or None if an input is new or has changed since it was hashed; and the bytes of each input.

    Raises:
      UserError: a required file is absent.
    """
    inputs, sizes = remembered_inputs(source, cache=processed_dir / "inputs.json", **_wanted(settings, source))
    if inputs is None:
        return None, sizes
    return DatasetPlan(settings, source, processed_dir, inputs, _identity(settings, inputs)), sizes


def _identity(settings: PreprocessSettings, inputs: Inputs) -> str:
    return fingerprint({"version": FORMAT_VERSION, "settings": settings.identity(), "inputs": inputs})


def _wanted(settings: PreprocessSettings, source: Path) -> dict[str, Any]:
    """The input files, the optional ones among them, and the remedy if another is absent."""
    if settings.format == "text":
        names, optional = list(TEXT_FILES.values()), [TEXT_FILES["val"]]
        remedy = "point --config.data.path at the folder that holds train.txt, valid.txt and test.txt"
    else:
        # A table of ids is only an input if it exists: data sets made without one keep their fingerprint.
        tables = (str(id_table_path(Path(), settings.size, kind)) for kind in ID_TABLES)
        names = pipeline_files(settings.size, source) + [name for name in tables if (source / name).is_file()]
        listens = str(event_path(Path(), settings.size, "listens"))
        optional = [name for name in names if name != listens]
        remedy = (
            f"fetch it with launch/download.py --size={settings.size}, or point --config.data.raw_dir at the folder "
            "that holds flat/"
        )
    return {"names": names, "optional": optional, "remedy": remedy}


def find_dataset(plan: DatasetPlan) -> Dataset | None:
    """Opens the planned data set, or returns None if it has not been made.

    Raises:
      DamagedFileError: its manifest or ids are damaged.
    """
    if not (plan.folder / MANIFEST).is_file() or ArrayFolder.open(plan.folder).fingerprint != plan.fingerprint:
        return None
    return Dataset.open(plan.folder)


def build_dataset(plan: DatasetPlan, *, progress: Progress = silent, batch_rows: int = BATCH_ROWS) -> Dataset:
    """Preprocesses the logs into the planned folder, which appears only when it is whole.

    Args:
      plan: from plan_dataset.
      progress: shows the rows read.
      batch_rows: rows of Parquet in memory at a time; the result does not depend on it.
    Raises:
      UserError: input that cannot be used, a filter that leaves nothing, an empty split, or a full disk.
    """
    with new_folder(plan.folder) as folder:
        writer = ArrayWriter(folder)
        if plan.settings.format == "text":
            meta = preprocess_text(plan.source, plan.settings, writer, progress=progress)
        else:
            meta = preprocess_logs(plan.source, plan.settings, writer, progress=progress, batch_rows=batch_rows)
        finish_dataset(plan, writer, meta)
    return Dataset.open(plan.folder)


def finish_dataset(plan: DatasetPlan, writer: ArrayWriter, meta: Mapping[str, Any]) -> None:
    """Writes stats.json and the manifest, after all arrays have been written.

    Args:
      plan: the plan of the folder.
      writer: the writer of the arrays.
      meta: from preprocess_logs or preprocess_text.
    """
    write_json(writer.folder / "stats.json", meta["stats"])
    own_ids = any(name.endswith("_data") for name in writer.arrays)
    schema = (
        SCHEMA | (HELD_OUT_SCHEMA if plan.settings.cold_item_fraction else {}) | (OWN_IDS_SCHEMA if own_ids else {})
    )
    identity = {"settings": plan.settings.identity(), "inputs": plan.inputs, "schema": schema}
    writer.finish(fingerprint=plan.fingerprint, meta={**meta, **identity})
