"""Folders of NumPy arrays with a manifest: written whole or not at all, checked when read.

A folder holds `NAME.npy` files (never pickled) and `manifest.json`:

    {"fingerprint": "...", "meta": {...}, "arrays": {"NAME": {"dtype": "<i4", "shape": [3], "sha256": "..."}}}
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import glob
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import socket
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from music_map.errors import DamagedFileError, disk_errors

MANIFEST = "manifest.json"

_AGAIN = "delete it and run the command that wrote it again"
# Temporary names: .NAME.tmp-HOST-PROCESS-NUMBER, .NAME.old-... for folders moved aside, and names of earlier versions.
_LEFT = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|old)-[0-9a-f-]+|\.[^.]+\.(?:json|jsonl|html|csv|txt)\.[a-z0-9_]{8}")
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_DAY = 86_400
_count = itertools.count()


def fingerprint(value: Any) -> str:
    """The sha256 (hex) of a JSON-able value in canonical form: equal values have equal fingerprints."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 (hex) of a file's bytes, read in blocks."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically: readers see the old text or the new, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically: readers see the old bytes or the new, never a part."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary = _temporary(path)
        try:
            with open(temporary, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def json_text(value: Any) -> str:
    """A value in the form of all JSON files of this project: indented, with a final newline; NaN is refused."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json_text(value))


def read_json(path: Path, form: Any = object, *, remedy: str = _AGAIN) -> Any:
    """Reads a JSON file and checks it.

    Args:
      path: of the file.
      form: of the content, see `check_form`.
      remedy: ends the message of an error.

    Raises:
      DamagedFileError: the file is missing, cannot be read, is not JSON (NaN is not), or has another form.
    """
    value = parse_json(read_bytes(path), path, remedy=remedy)
    check_form(value, form, path, remedy=remedy)
    return value


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises DamagedFileError if it is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as e:
        raise DamagedFileError(f"{path}: no such file") from e
    except OSError as e:
        raise DamagedFileError(f"{path}: cannot be read ({e.strerror}); check its permissions and the disk") from e


def parse_json(data: bytes, path: Path, *, remedy: str = _AGAIN) -> Any:
    """The value of a JSON file's bytes. Raises DamagedFileError if they are not JSON; see `strict_json`."""
    try:
        return strict_json(data.decode())
    except ValueError as e:  # also bytes that are not UTF-8
        raise DamagedFileError(f"{path}: not valid JSON ({e}); {remedy}") from e


def strict_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError: it is not JSON, holds NaN, infinity or a number that no float or int can hold, or is nested too deep.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON value")

    def finite(word: str) -> float:
        if math.isinf(value := float(word)):
            raise ValueError(f"{word[:20]} is too large")
        return value

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except RecursionError as e:
        raise ValueError("nested too deep") from e


def check_form(value: Any, form: Any, path: Path, *, at: str = "", remedy: str = _AGAIN) -> None:
    """Raises DamagedFileError if a JSON value does not have a form; the message names the key.

    Args:
      value: from `json.loads`.
      form: a type (float takes integers too, bool is no int, object takes anything); a tuple of forms, one of which it
        must have; [form]: a list of such values; {type: form}: an object with any keys; {"key": form, ...}: an object
        with at least these keys, where "key?" may be absent.
      path: of the file.
      at: the place of the value in the file.
      remedy: ends the message.
    """
    if wrong := _misfit(value, form, at):
        raise DamagedFileError(f"{path}: {wrong}; {remedy}")


def _misfit(value: Any, form: Any, at: str) -> str:
    """The difference of a value from the form, in words; "" if it has the form."""
    if isinstance(form, tuple):
        found = [_misfit(value, one, at) for one in form]
        return "" if "" in found else f"{at or 'the value'} is {_named(value)}, none of what it can be"
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{at or 'the value'} is {_named(value)}, not a list"
        return next(filter(None, (_misfit(one, form[0], f"{at}[{i}]") for i, one in enumerate(value))), "")
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return f"{at or 'the value'} is {_named(value)}, not an object"
        for key, inner in form.items():
            if key is str:
                found = (_misfit(one, inner, f"{at}.{name}" if at else name) for name, one in value.items())
                if wrong := next(filter(None, found), ""):
                    return wrong
                continue
            name, where = key.removesuffix("?"), f"{at}.{key.removesuffix('?')}" if at else key.removesuffix("?")
            if name in value:
                if wrong := _misfit(value[name], inner, where):
                    return wrong
            elif not key.endswith("?"):
                return f"has no {where!r}"
        return ""
    if form is None:
        return "" if value is None else f"{at or 'the value'} is {_named(value)}, not null"
    kinds = {float: (int, float), int: int}.get(form, form)
    good = isinstance(value, kinds) and (form in (bool, object) or not isinstance(value, bool))
    return "" if good else f"{at or 'the value'} is {_named(value)}, not of type {form.__name__}"


def _named(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """The object with its own checksum under "sha256": see `unsealed`."""
    value = json.loads(json_text(value))  # as it will be read: keys are strings, tuples are lists
    return {**value, "sha256": fingerprint(value)}


def unsealed(value: Any, path: Path, *, remedy: str = _AGAIN) -> dict[str, Any]:
    """The object that `sealed` wrapped. Raises DamagedFileError if its checksum is missing or differs."""
    if not isinstance(value, dict) or value.get("sha256") != fingerprint(
        inner := {key: one for key, one in value.items() if key != "sha256"}
    ):
        raise DamagedFileError(f"{path}: damaged (its checksum differs); {remedy}")
    return inner


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other process or thread uses; it contains the process that made it."""
    return path.parent / f".{path.name}.tmp-{_HOST}-{os.getpid()}-{next(_count)}"


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which vanishes when the block ends.

    Temporary folders that a killed process left beside `path` are removed first.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary = _temporary(path)
        temporary.mkdir()
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends, and vanishes when the block fails.

    An existing folder at `path` stays until the new one is whole; files that a reader has open stay readable.
    """
    with scratch_folder(path) as temporary:
        yield temporary
        if not path.exists():
            os.replace(temporary, path)
        elif not _exchange(temporary, path):
            # For a moment there is no `path`. If the process is killed here, the next writer puts the old folder back.
            old = path.parent / temporary.name.replace(".tmp-", ".old-")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names at once; returns False if the system cannot."""
    rename = getattr(_libc(), "renameat2", None)
    at_cwd, exchange = -100, 2
    return rename is not None and rename(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0


@functools.cache
def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def _sweep(path: Path) -> None:
    """Removes files that killed processes left beside `path`, and puts back a folder that one had just moved aside."""
    name = glob.escape(path.name)
    for stale in path.parent.glob(f".{name}.tmp-*"):
        if not _is_running(stale):
            _remove(stale)
    for old in path.parent.glob(f".{name}.old-*"):
        if _is_running(old):
            continue
        if path.exists():
            _remove(old)
        else:
            os.replace(old, path)


def sweep(folder: Path) -> None:
    """Removes files that killed processes left in a folder and below; other hosts' files only after a day."""
    for found in sorted(folder.rglob(".*")):
        left = _LEFT.fullmatch(found.name)
        if left and found.exists() and not _is_running(found):
            if left["kind"] == "old" and not (whole := found.parent / left["name"]).exists():
                os.replace(found, whole)
            else:
                _remove(found)


def remove_aside(path: Path) -> None:
    """Deletes a folder. It gets a temporary name first, so that readers never see it half deleted."""
    aside = _temporary(path)
    os.replace(path, aside)
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _maker(path: Path) -> tuple[str, int] | None:
    """Host and process that made a temporary file or folder, from its name; host "" for older names."""
    found = re.search(r"\.(?:tmp|old)-(?:([0-9a-f]{8})-)?(\d+)(?:-\d+)?$", path.name)
    return (found[1] or "", int(found[2])) if found else None


def _is_running(path: Path) -> bool:
    """Whether the process that made `path` is running. For another host's process: whether `path` is young."""
    maker = _maker(path)
    if maker is None:
        return False
    host, pid = maker
    if host not in ("", _HOST):
        return time.time() - path.stat().st_mtime < _DAY
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The header of a .npy file of a C-ordered array, as numpy.save writes it."""
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
        # Hashed from memory, so that the file need not be read again.
        digest, data = hashlib.sha256(header), array.reshape(-1).view(np.uint8)
        digest.update(data)
        with open(path, "wb") as file:  # not array.tofile, which says nothing of why a write failed
            file.write(header)
            file.write(data)
        self._note(name, array.dtype, array.shape, digest.hexdigest())

    def register(self, name: str) -> None:
        """Adds an array to the manifest that was written directly to `NAME.npy`, for example by a memory map."""
        path = self.folder / f"{name}.npy"
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        self._note(name, array.dtype, array.shape, file_sha256(path))

    def adopt(self, name: str, store: ArrayFolder, stored_name: str) -> None:
        """Adds an array from another folder, unchanged: by a hard link if the file system has them, else as a copy."""
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
        manifest = {"fingerprint": fingerprint, "meta": dict(meta), "arrays": arrays}
        write_json(self.folder / MANIFEST, sealed(manifest))

    def _path(self, name: str) -> Path:
        path = self.folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _note(self, name: str, dtype: np.dtype, shape: tuple[int, ...], sha256: str) -> None:
        self.arrays[name] = {"dtype": dtype.str, "shape": list(shape), "sha256": sha256}


_ENTRY = {"dtype": str, "shape": [int], "sha256": str}
_MANIFEST_FORM = {"fingerprint": str, "meta": dict, "arrays": {str: _ENTRY}}


@dataclasses.dataclass(frozen=True)
class ArrayFolder:
    """A folder written by ArrayWriter, opened for reading.

    Attributes:
      folder: its path.
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
        """Reads the manifest. Raises DamagedFileError if it is missing, damaged or not a manifest."""
        path, remedy = folder / MANIFEST, f"delete {folder} and run the command again to rebuild it"
        manifest = read_json(path, _MANIFEST_FORM, remedy=f"not a manifest; {remedy}")
        if manifest.keys() != _MANIFEST_FORM.keys():  # earlier versions wrote no checksum of the manifest itself
            manifest = unsealed(manifest, path, remedy=remedy)
        for name in manifest["arrays"]:
            if name.startswith("/") or ".." in name.split("/"):
                raise DamagedFileError(f"{path}: lists a file outside the folder, {name!r}; {remedy}")
        return cls(folder, manifest["fingerprint"], manifest["meta"], manifest["arrays"])

    def size_of(self, name: str) -> int:
        """Bytes of an array, from the manifest. Raises DamagedFileError if there is no array of this name."""
        entry = self._entry(name)
        return math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize

    def length_of(self, name: str) -> int:
        """Length of an array's first axis, from the manifest. Raises DamagedFileError if there is no such array."""
        return self._entry(name)["shape"][0]

    def _entry(self, name: str) -> dict[str, Any]:
        if name not in self.arrays:
            raise DamagedFileError(f"{self.folder / MANIFEST}: has no array {name!r}; delete the folder and rebuild it")
        return self.arrays[name]

    def load(self, name: str, *, verify: bool = True, mmap: bool = False) -> np.ndarray:
        """Loads one array; with `verify` its sha256 is compared first.

        Args:
          name: of the array.
          verify: compare the checksum.
          mmap: map the file instead of reading it; read-only. If a mapped file were rewritten in place, the process
            would end (SIGBUS). This project replaces files and never rewrites them, but a service should rather read.

        Raises:
          DamagedFileError: the file is missing, truncated or changed; the message names it.
        """
        path = self.folder / f"{name}.npy"
        entry, remedy = self._entry(name), f"delete {self.folder} and run the command again to rebuild it"
        if not path.is_file():
            raise DamagedFileError(f"{path}: missing; {remedy}")
        try:
            # The file is read once, so that the checked bytes are the bytes of the array.
            data = np.memmap(path, np.uint8, "r") if mmap else np.fromfile(path, np.uint8)
        except (ValueError, OSError) as e:  # ValueError: an empty file cannot be mapped
            raise DamagedFileError(f"{path}: damaged or not readable ({e}); {remedy}") from e
        if verify and hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise DamagedFileError(f"{path}: damaged (its checksum differs from the manifest); {remedy}")
        try:
            array = npy_array(data)
        except ValueError as e:
            raise DamagedFileError(f"{path}: damaged ({e}); {remedy}") from e
        if list(array.shape) != entry["shape"] or array.dtype.str != entry["dtype"]:
            raise DamagedFileError(f"{path}: shape or dtype differs from the manifest; {remedy}")
        return array


def npy_array(data: np.ndarray) -> np.ndarray:
    """The array of a .npy file's bytes (uint8), sharing their memory. Raises ValueError if they are not valid."""
    head = io.BytesIO(data[:12_000].tobytes())  # numpy reads no header above 10,000 bytes
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(head)](head)
    except Exception as e:  # numpy tokenises and parses the header as Python, which fails in many ways
        raise ValueError(f"its header cannot be read: {' '.join(str(e).split())}") from e
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    body = data[head.tell() :]
    if math.prod(shape) * dtype.itemsize != len(body) or min(shape, default=0) < 0:
        raise ValueError(f"{len(body)} bytes of data for the shape {shape} and dtype {dtype}")
    if dtype.itemsize == 0 or 0 in shape:
        return np.zeros(shape, dtype)
    return body.view(dtype).reshape(shape, order="F" if fortran else "C")


def check_rows(
    store: ArrayFolder, name: str, offsets: np.ndarray, values: np.ndarray, *, rows: int, limit: int
) -> None:
    """Raises DamagedFileError unless two arrays of a folder are compressed rows of indices.

    Args:
      store: the folder.
      name: of the values, named in the message.
      offsets: integers [rows + 1], from 0 to len(values), never decreasing.
      values: integers [N], each at least 0 and below `limit`.
      rows: number of rows.
      limit: of the values.
    """
    good = offsets.shape == (rows + 1,) and values.ndim == 1
    good = good and offsets.dtype.kind == "i" and values.dtype.kind in "iu"
    good = good and offsets[0] == 0 and offsets[-1] == len(values) and bool((offsets[1:] >= offsets[:-1]).all())
    if not (good and (len(values) == 0 or (values.min() >= 0 and values.max() < limit))):
        raise DamagedFileError(
            f"{store.folder / name}.npy: needs {rows:,} rows of indices below {limit:,}; delete {store.folder} and "
            "run the command again to rebuild it"
        )
