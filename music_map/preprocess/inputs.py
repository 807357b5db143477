"""Identities of input files: the sha256 of their content, remembered while size and modification time stay the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from music_map.errors import DamagedFileError, UserError
from music_map.reporter import Progress
from music_map.storage import read_json, write_json
from music_map.threads import num_workers

_BLOCK_BYTES = 8 << 20

# Per file {"size": bytes, "sha256": hex}, or None for an optional file that is absent.
Inputs = dict[str, dict[str, Any] | None]


def identify_inputs(
    folder: Path, names: Sequence[str], *, optional: Sequence[str], remedy: str, cache: Path, progress: Progress
) -> Inputs:
    """Identifies files by content.

    Args:
      folder: the folder of the files.
      names: paths relative to `folder`.
      optional: those of `names` that may be absent.
      remedy: end of the error message for an absent file.
      cache: JSON file that stores sha256 sums by absolute path, size and modification time. A damaged cache is
        replaced.
      progress: shows the bytes hashed.
    Returns:
      Size and sha256 by name, None for an absent file.
    Raises:
      UserError: a file that is not optional is absent.
    """
    entries = _look(folder, names, optional=optional, remedy=remedy)
    known, unknown = _recall(folder, entries, cache)
    if unknown:
        with (
            progress("checksums", sum(entries[name]["size"] for name in unknown), "B") as advance,
            ThreadPoolExecutor(num_workers()) as pool,
        ):
            # The largest file first, because it takes longest and the others can be hashed meanwhile.
            unknown.sort(key=lambda name: -entries[name]["size"])
            for name, found in zip(unknown, pool.map(lambda n: _sha256(folder / n, advance), unknown), strict=True):
                entries[name]["sha256"] = found
        write_json(cache, {**known, **{str((folder / name).absolute()): entries[name] for name in unknown}})
    return _identities(names, entries)


def remembered_inputs(
    folder: Path, names: Sequence[str], *, optional: Sequence[str], remedy: str, cache: Path
) -> tuple[Inputs | None, dict[str, int]]:
    """`identify_inputs` for a preview: it reads no input and writes nothing.

    Returns:
      The identities, or None if a file is new or has changed since its sum was stored; and the bytes of each existing
      file.
    """
    entries = _look(folder, names, optional=optional, remedy=remedy)
    _, unknown = _recall(folder, entries, cache)
    return None if unknown else _identities(names, entries), {name: entry["size"] for name, entry in entries.items()}


def _look(folder: Path, names: Sequence[str], *, optional: Sequence[str], remedy: str) -> dict[str, dict[str, Any]]:
    """Size and modification time of the existing files."""
    entries: dict[str, dict[str, Any]] = {}
    for name in names:
        path = folder / name
        if path.is_file():
            status = path.stat()
            entries[name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        elif name not in optional:
            raise UserError(f"{path}: no such file; {remedy}")
    return entries


def _recall(
    folder: Path, entries: dict[str, dict[str, Any]], cache: Path
) -> tuple[Mapping[str, dict[str, Any]], list[str]]:
    """Adds the sums from the cache. Returns the whole cache, and the files that it lacks."""
    known, unknown = _read_cache(cache), []
    for name, entry in entries.items():
        old = known.get(str((folder / name).absolute()))
        if old is not None and entry == {key: old.get(key) for key in entry}:
            entry["sha256"] = old["sha256"]
        else:
            unknown.append(name)
    return known, unknown


def _identities(names: Sequence[str], entries: Mapping[str, dict[str, Any]]) -> Inputs:
    return {
        name: {key: entries[name][key] for key in ("size", "sha256")} if name in entries else None for name in names
    }


def _read_cache(cache: Path) -> Mapping[str, dict[str, Any]]:
    try:
        known = read_json(cache)
    except DamagedFileError:
        return {}
    whole = isinstance(known, dict) and all(isinstance(entry, dict) and "sha256" in entry for entry in known.values())
    return known if whole else {}


def _sha256(path: Path, advance: Callable[[int], object]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()
