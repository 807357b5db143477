"""Identity of the input files: sha256 of their content, remembered so that unchanged files are not read again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from music_map.errors import DamagedFileError, UserError
from music_map.progress import Progress, silent
from music_map.storage import file_sha256, read_json, write_json


def identify(files: Mapping[str, Path], cache: Path, *, progress: Progress = silent) -> dict[str, dict[str, Any]]:
    """Size and sha256 of each file.

    Args:
      files: by name.
      cache: JSON file that remembers path -> size, modification time, sha256.
      progress: bar over bytes.

    Returns:
      {name: {"size": bytes, "sha256": hex}}; where the files lie does not enter.

    Raises:
      UserError: a file is missing.
    """
    try:
        known = read_json(cache) if cache.exists() else {}
    except DamagedFileError:
        known = {}
    stats = {}
    for name, path in files.items():
        try:
            stats[name] = os.stat(path)
        except FileNotFoundError as e:
            raise UserError(
                f"{path}: no such file; set config.data.raw_dir (or config.data.path) to where it is"
            ) from e
    stamps = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    keys = {name: str(path.absolute()) for name, path in files.items()}
    new = [name for name in files if known.get(keys[name], [])[:2] != stamps[name]]
    if new:
        with progress("checksums of the inputs", sum(stats[name].st_size for name in new), "B") as advance:
            for name in new:
                known[keys[name]] = [*stamps[name], file_sha256(files[name])]
                advance(stats[name].st_size)
        write_json(cache, known)
    return {name: {"size": stats[name].st_size, "sha256": known[keys[name]][2]} for name in files}
