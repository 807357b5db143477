"""The files of a run: one manifest with their checksums, written whole or not at all, checked when read.

    files = RunFiles(workdir, warn=print)
    files.write_json({"config.json": {...}, "playlist.json": {...}})
    with files.new_folder("embeddings") as folder: ...       # arrays, by an ArrayWriter
    files.read_json("config.json", {"config": dict, "dataset": str})
    files.arrays("embeddings").load("item_ids")

WORKDIR/manifest.json:

    {"version": 1, "sha256": "...", "files": {"config.json": {"type": "json", "sha256": ["..."]},
                                              "embeddings/manifest.json": {"type": "arrays", "sha256": ["..."]}}}

A file is replaced in three steps: the manifest lists the old and the new checksum; the file is replaced; the manifest
lists the new checksum alone. The run can be read after each step, and a process killed between them leaves the old or
the new file, whole. A folder of arrays is listed with its own manifest, which has the arrays' checksums. Checkpoints
have their own records (music_map.training.checkpoint). metrics.jsonl has no checksum: it grows by lines and changes no
result.

Writing takes the folder's lock (music_map.lock). Runs of earlier versions have no manifest. They are read unverified,
with one warning, and get a manifest at the first write.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from music_map import lock, storage
from music_map.errors import DamagedFileError, disk_errors
from music_map.storage import MANIFEST, ArrayFolder, check_form, json_text, parse_json, read_bytes, sealed, unsealed

VERSION = 1
_FORM = {"version": int, "files": {str: {"type": str, "sha256": [(str, None)]}}}
_REMEDY = "put the file back from a copy, or run the launch/train.py command again with a new --workdir"
# Files that the first write lists for a run without a manifest.
_ADOPTED = ("*.json", "recency/*.json", f"embeddings/{MANIFEST}", f"index/{MANIFEST}")

_told: set[Path] = set()  # runs without a manifest for which a warning has been given


class RunFiles:
    """The files of one run's folder.

    Args:
      folder: of the run.
      warn: called with one line, once per run, if the run has no manifest.
    """

    def __init__(self, folder: Path, *, warn: Callable[[str], object] | None = None):
        self.folder = folder
        self._warn = warn

    def lists(self, name: str) -> bool:
        """Whether the manifest lists a file of this name."""
        return self._entry(name) is not None

    def has(self, name: str) -> bool:
        """Whether the run has a file (or folder of arrays) of this name, damaged or not."""
        if (self.folder / name).exists():
            return True
        entry = self._entry(name) or self._entry(f"{name}/{MANIFEST}")
        return entry is not None and None not in entry["sha256"]

    def read_json(self, name: str, form: Any = object, *, remedy: str = _REMEDY) -> Any:
        """A JSON file of the run.

        Args:
          name: its path in the run, "recency/temporal.json".
          form: of the content, see `music_map.storage.check_form`.
          remedy: ends the message of an error.

        Raises:
          DamagedFileError: the file is missing, differs from the manifest, is not JSON or has another form.
        """
        path = self.folder / name
        value = parse_json(self._checked(name, remedy), path, remedy=remedy)
        check_form(value, form, path, remedy=remedy)
        return value

    def write_json(self, values: Mapping[str, Any]) -> None:
        """Writes JSON files by their names in the run; nothing is written if all exist with the same content."""
        data = {name: json_text(value).encode() for name, value in values.items()}
        with self._replacing({name: ("json", _sha256(one)) for name, one in data.items()}) as changed:
            for name in changed:
                storage.write_bytes(self.folder / name, data[name])

    @contextlib.contextmanager
    def new_folder(self, name: str) -> Iterator[Path]:
        """Yields a temporary folder that becomes FOLDER/NAME when the block ends, which must finish an ArrayWriter."""
        with contextlib.ExitStack() as stack, storage.new_folder(self.folder / name) as temporary:
            yield temporary
            digest = storage.file_sha256(temporary / MANIFEST)
            # This block ends after the folder is in its place; then the manifest lists the new one alone.
            stack.enter_context(self._replacing({f"{name}/{MANIFEST}": ("arrays", digest)}))

    def arrays(self, name: str, *, remedy: str = _REMEDY) -> ArrayFolder:
        """A folder of arrays of the run. Raises DamagedFileError if its manifest is not the one that the run lists."""
        self._checked(f"{name}/{MANIFEST}", remedy)
        return ArrayFolder.open(self.folder / name)

    def remove(self, name: str) -> None:
        """Deletes a file of the run, if it exists."""
        if not self.has(name):
            return
        with lock.writing(self.folder):
            files = self._files() if self._has_manifest() else self._adopted()
            entry = files.pop(name, None)
            if entry is not None:
                self._write(files | {name: {**entry, "sha256": [*entry["sha256"], None]}})
            with disk_errors(self.folder / name):
                (self.folder / name).unlink(missing_ok=True)
            self._write(files)

    def check(self) -> None:
        """Compares the checksum of every listed file. Raises DamagedFileError for the first that differs."""
        for name, entry in self._files().items():
            if None not in entry["sha256"] or (self.folder / name).exists():
                self._checked(name, _REMEDY)
                if entry["type"] == "arrays":
                    store = self.arrays(name.removesuffix(f"/{MANIFEST}"))
                    for array in store.arrays:
                        store.load(array, mmap=True)

    def _checked(self, name: str, remedy: str) -> bytes:
        """The bytes of a file whose checksum is listed."""
        path, entry = self.folder / name, self._entry(name)
        if entry is None and self._has_manifest():
            if path.exists():
                raise DamagedFileError(f"{path}: is not a file of this run ({MANIFEST} does not list it); {remedy}")
            raise DamagedFileError(f"{path}: no such file; {remedy}")
        if entry is None and self._warn and self.folder not in _told and path.exists():
            _told.add(self.folder)
            self._warn(
                f"{self.folder}: has no {MANIFEST}, like runs of earlier versions; its JSON files are not verified"
            )
        if not path.exists():
            raise DamagedFileError(f"{path}: no such file; {remedy}")
        data = read_bytes(path)
        if entry is not None and _sha256(data) not in entry["sha256"]:
            raise DamagedFileError(f"{path}: damaged (its checksum differs from {MANIFEST}); {remedy}")
        return data

    @contextlib.contextmanager
    def _replacing(self, wanted: Mapping[str, tuple[str, str]]) -> Iterator[list[str]]:
        """Yields the names of the files that differ from `wanted`, {name: (type, sha256)}; see the module."""
        with lock.writing(self.folder):
            files = self._files() if self._has_manifest() else self._adopted()
            before = {name: self._sha256_of(name) for name in wanted}
            single = {name: {"type": kind, "sha256": [digest]} for name, (kind, digest) in wanted.items()}
            changed = [name for name, (_, digest) in wanted.items() if before[name] != digest]
            if changed:
                both = {name: {**single[name], "sha256": [before[name], wanted[name][1]]} for name in changed}
                self._write(files | single | both)
            yield changed
            if changed or any(files.get(name) != entry for name, entry in single.items()):
                self._write(files | single)

    def _sha256_of(self, name: str) -> str | None:
        path = self.folder / name
        return _sha256(read_bytes(path)) if path.is_file() else None

    def _adopted(self) -> dict[str, Any]:
        """The files of a run that has no manifest yet."""
        found = sorted(path for pattern in _ADOPTED for path in self.folder.glob(pattern) if path.is_file())
        return {
            (name := str(path.relative_to(self.folder))): {
                "type": "arrays" if path.name == MANIFEST else "json",
                "sha256": [self._sha256_of(name)],
            }
            for path in found
        }

    def _has_manifest(self) -> bool:
        return (self.folder / MANIFEST).exists()

    def _entry(self, name: str) -> dict[str, Any] | None:
        return self._files().get(name)

    def _files(self) -> dict[str, Any]:
        """The files in the manifest; empty if there is none."""
        path = self.folder / MANIFEST
        if not path.exists():
            return {}
        remedy = "put it back from a copy, or delete it to read this run unverified"
        stored = unsealed(parse_json(read_bytes(path), path, remedy=remedy), path, remedy=remedy)
        check_form(stored, _FORM, path, remedy=remedy)
        if stored["version"] != VERSION:
            raise DamagedFileError(f"{path}: another version of this project wrote it; {remedy}")
        return stored["files"]

    def _write(self, files: Mapping[str, Any]) -> None:
        storage.write_json(self.folder / MANIFEST, sealed({"version": VERSION, "files": dict(sorted(files.items()))}))


def read_json(path: Path, form: Any = object, *, remedy: str = _REMEDY) -> Any:
    """A JSON file: checked like RunFiles.read_json if it lies in a run's folder whose manifest lists it."""
    files = RunFiles(path.parent)
    if files.lists(path.name):
        return files.read_json(path.name, form, remedy=remedy)
    return storage.read_json(path, form, remedy=remedy)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
