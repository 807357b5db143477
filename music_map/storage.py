"""Folders of NumPy arrays with a manifest: written whole or not at all, checked when read.

A folder holds `NAME.npy` files (never pickled) and `manifest.json`:

    {"fingerprint": "...", "meta": {...}, "arrays": {"NAME": {"dtype": "<i4", "shape": [3], "sha256": "..."}}}
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from music_map.errors import DamagedFileError, UserError, disk_errors

MANIFEST = "manifest.json"


def fingerprint(value: Any) -> str:
    """The sha256 (hex) of a JSON-able value in canonical form: equal values have equal fingerprints."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 (hex) of a file's bytes, read by blocks."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically: readers see the old text or the new, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically: readers see the old bytes or the new, never a part."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically, indented, ending in a newline."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file; DamagedFileError where it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as e:
        raise DamagedFileError(f"{path}: no such file") from e
    except OSError as e:
        raise DamagedFileError(f"{path}: cannot be read ({e.strerror}); check its permissions and the disk") from e
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise DamagedFileError(
            f"{path}: not valid JSON ({e}); delete it and run the command that wrote it again"
        ) from e


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which vanishes when the block ends.

    Temporary folders that a killed process left beside `path` are removed first.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary = path.parent / f".{path.name}.tmp-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Removes what killed processes left beside `path`, and puts back a folder that one had just moved aside."""
    name = glob.escape(path.name)
    for stale in path.parent.glob(f".{name}.tmp-*"):
        if not _is_running(stale):
            shutil.rmtree(stale, ignore_errors=True)
    for old in path.parent.glob(f".{name}.old-*"):
        if not _is_running(old) and not path.exists():
            os.replace(old, path)
        elif not _is_running(old):
            shutil.rmtree(old, ignore_errors=True)


def _is_running(folder: Path) -> bool:
    """Whether the process whose id ends the folder's name runs (on this machine)."""
    pid = folder.name.rpartition("-")[2]
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends, and vanishes when the block fails.

    A folder already at `path` stays until the new one is whole.
    """
    with scratch_folder(path) as temporary:
        yield temporary
        if path.exists():
            old = path.parent / f".{path.name}.old-{os.getpid()}"
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The bytes before the data in a .npy file of a C-ordered array, as numpy.save writes them."""
    header = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


class ArrayWriter:
    """Writes arrays into a folder and collects their checksums for the manifest."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.arrays: dict[str, dict[str, Any]] = {}

    def write(self, name: str, array: np.ndarray) -> None:
        """Writes `NAME.npy`; the name may hold folders ("train/user-00000"). Several threads may write at a time."""
        array = np.asarray(array, order="C")
        if array.dtype.hasobject:
            raise ValueError(f"{name}: Object arrays cannot be saved: they would have to be pickled")
        path = self._path(name)
        header = npy_header(array.dtype, array.shape)
        # Hashed from memory: the file need not be read again.
        digest = hashlib.sha256(header)
        digest.update(array.reshape(-1).view(np.uint8))
        with open(path, "wb") as file:
            file.write(header)
            array.tofile(file)
        self._note(name, array.dtype, array.shape, digest.hexdigest())

    def register(self, name: str) -> None:
        """Adds an array that was written straight to `NAME.npy` (a memory map, say) to the manifest."""
        path = self.folder / f"{name}.npy"
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        self._note(name, array.dtype, array.shape, file_sha256(path))

    def adopt(self, name: str, store: ArrayFolder, stored_name: str) -> None:
        """Takes an array of another folder over as it is: a hard link where the file system has them, else a copy."""
        source, path = store.folder / f"{stored_name}.npy", self._path(name)
        try:
            os.link(source, path)
        except OSError:
            shutil.copyfile(source, path)
        self.arrays[name] = dict(store.arrays[stored_name])

    def finish(self, *, fingerprint: str, meta: Mapping[str, Any]) -> None:
        """Writes the manifest; call it last."""
        # By name: threads may finish in any order.
        arrays = dict(sorted(self.arrays.items()))
        write_json(self.folder / MANIFEST, {"fingerprint": fingerprint, "meta": dict(meta), "arrays": arrays})

    def _path(self, name: str) -> Path:
        path = self.folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _note(self, name: str, dtype: np.dtype, shape: tuple[int, ...], sha256: str) -> None:
        self.arrays[name] = {"dtype": dtype.str, "shape": list(shape), "sha256": sha256}


def _is_manifest(value: Any) -> bool:
    """Whether the JSON value has the form that ArrayWriter.finish writes."""
    types = {"fingerprint": str, "meta": dict, "arrays": dict}
    if not (isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in types.items())):
        return False
    entries = value["arrays"].values()
    return all(isinstance(entry, dict) and {"dtype", "shape", "sha256"} <= entry.keys() for entry in entries)


@dataclasses.dataclass(frozen=True)
class ArrayFolder:
    """A folder written by ArrayWriter, opened for reading.

    Attributes:
      folder: where it is.
      fingerprint: identity of the configuration and inputs that it was made from.
      meta: the JSON values given to `ArrayWriter.finish`.
      arrays: per array its dtype, shape and sha256.
    """

    folder: Path
    fingerprint: str
    meta: dict[str, Any]
    arrays: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, folder: Path) -> ArrayFolder:
        """Reads the manifest. Raises DamagedFileError where it is missing or not a manifest."""
        manifest = read_json(folder / MANIFEST)
        if not _is_manifest(manifest):
            raise DamagedFileError(
                f"{folder / MANIFEST}: not a manifest; delete {folder} and run the command again to rebuild it"
            )
        return cls(folder, manifest["fingerprint"], manifest["meta"], manifest["arrays"])

    def load(self, name: str, *, verify: bool = True, mmap: bool = False) -> np.ndarray:
        """Loads one array; with `verify` its sha256 is compared first.

        Raises:
          DamagedFileError: the file is missing, truncated or changed; the message names it.
        """
        path = self.folder / f"{name}.npy"
        if name not in self.arrays:
            raise DamagedFileError(f"{self.folder / MANIFEST}: has no array {name!r}; delete the folder and rebuild it")
        remedy = f"delete {self.folder} and run the command again to rebuild it"
        if not path.is_file():
            raise DamagedFileError(f"{path}: missing; {remedy}")
        if verify and file_sha256(path) != self.arrays[name]["sha256"]:
            raise DamagedFileError(f"{path}: damaged (its checksum differs from the manifest); {remedy}")
        try:
            array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
        except (ValueError, EOFError, OSError) as e:
            raise DamagedFileError(f"{path}: damaged ({e}); {remedy}") from e
        if list(array.shape) != self.arrays[name]["shape"] or array.dtype.str != self.arrays[name]["dtype"]:
            raise DamagedFileError(f"{path}: shape or dtype differs from the manifest; {remedy}")
        return array


def require_file(path: Path, remedy: str) -> Path:
    """Returns `path` if it is a file, else raises a UserError that ends in `remedy`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    return path
