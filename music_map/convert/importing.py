"""Imports an export by name: preset, files and conversion in one call."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from music_map.convert.build import convert_logs, preview_logs
from music_map.convert.engine import Summary
from music_map.convert.presets import AUTO, PRESETS, Import, detect, unpacked
from music_map.convert.settings import ColumnMapping
from music_map.convert.summary import renamed
from music_map.errors import UserError
from music_map.reporter import SILENT, Reporter


def import_logs(
    preset: str,
    paths: Sequence[Path],
    raw_dir: Path,
    *,
    size: str = "own",
    overwrite: bool = False,
    changes: Mapping[str, Any] | None = None,
    preview: bool = False,
    reporter: Reporter = SILENT,
) -> tuple[Import, Summary]:
    """`convert_logs` of an export.

    Args:
      preset: a name of PRESETS, or "auto": told by the files.
      paths: files, folders and archives (ZIP, TAR).
      raw_dir, size, overwrite: see `convert_logs`.
      changes: fields of ColumnMapping in place of the preset's.
      preview: only the first rows, see `preview_logs`.
      reporter: shows progress, and which preset was told.

    Returns:
      What was read, and what came of it.

    Raises:
      UserError: see `convert_logs`; or no preset is known by the files.
    """
    if preset != AUTO:
        PRESETS.find(preset)
    with unpacked(paths) as (files, named):
        if preset == AUTO:
            preset = detect(files)
            reporter.note(f"preset {preset}: told by the files")
        found = PRESETS.find(preset)(files)
        mapping = ColumnMapping(**{"user": None, **found.columns, **(changes or {})})
        options: dict[str, Any] = {"size": size, "overwrite": overwrite, "source": found.source}
        try:
            if preview:
                summary = preview_logs(found.inputs, raw_dir, mapping, **options)
            else:
                summary = convert_logs(found.inputs, raw_dir, mapping, **options, progress=reporter.bar)
        except UserError as e:
            # There is no flag for a column here.
            told = re.sub(r"; set --\w+ to one of them$", f"; is it what the preset {preset} reads?", str(e))
            if told == str(e):
                raise
            raise UserError(told) from e
        found = dataclasses.replace(found, notes=[named(note) for note in found.notes], preset=preset)
        return found, renamed(summary, lambda text: named(found.told(text)))
