"""One writer at a time: a lock on a folder that names its holder and ends with the holder's process.

    with writing(workdir, job="train"):
        ...

The lock is flock(2) on FOLDER/.lock. The kernel releases it when the process ends in any way. Readers need no lock,
because files and folders are replaced whole. On a network file system without locks the folder stays unlocked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from music_map.errors import UserError, disk_errors
from music_map.storage import sweep

NAME = ".lock"
_WAIT = 0.2  # seconds between two tries
# The errors of file systems without locks.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}

# Locks of this process: the number of blocks inside each, and its file.
_held: dict[str, list[int]] = {}
_guard = threading.Lock()


def _forked() -> None:
    # A child that kept the file open would keep the lock after its parent's death.
    for _, handle in _held.values():
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forked)


@contextlib.contextmanager
def writing(folder: Path, job: str = "", *, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Holds the lock of a folder, which is made if missing. Inside the block, the same process may take it again.

    Files that killed writers left in the folder are removed first.

    Args:
      folder: the folder that the job writes into.
      job: its name, for the message to other processes; by default this program's name.
      wait: if given, this waits for another process to end, and first calls `wait` with a line that names it.

    Raises:
      UserError: another process is writing there; the message names its job, process and host.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / NAME, f"{folder}", job, wait) as first:
        if first:
            with disk_errors(folder):
                sweep(folder)
        yield


@contextlib.contextmanager
def writing_file(path: Path, job: str = "") -> Iterator[None]:
    """`writing` for a job whose output is one file: locks .NAME.lock beside it."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent / f".{path.name}.lock", f"{path}", job, None):
        yield


@contextlib.contextmanager
def _locked(path: Path, what: str, job: str, wait: Callable[[str], object] | None) -> Iterator[bool]:
    """Holds one lock file; yields whether this block is the outermost of the process."""
    key, told = str(path.resolve()), False
    job = job or Path(sys.argv[0]).stem or "python"
    while True:
        with _guard:
            first = key not in _held
            with disk_errors(path):
                handle = _acquire(path, job) if first else None
            if not isinstance(handle, str):
                if handle is not None:
                    _held[key] = [0, handle]
                _held[key][0] += 1
                break
        if wait is None:
            raise UserError(f"{what}: {handle} is writing there; wait for it to end, or choose another folder")
        if not told:
            wait(f"{what}: waiting for {handle}, which is writing there")
            told = True
        time.sleep(_WAIT)
    try:
        yield first
    finally:
        with _guard:
            if key in _held:  # not in a fork that ends inside the block
                _held[key][0] -= 1
                if not _held[key][0]:
                    # Removed while it is held: a process that opened it meanwhile sees this, and opens the next file.
                    with contextlib.suppress(OSError):
                        os.unlink(path)
                    os.close(_held.pop(key)[1])


def _acquire(path: Path, job: str) -> int | str:
    """The open and locked file, or the text that names another process that holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = _holder(handle)
            os.close(handle)
            return told
        except OSError as e:
            if e.errno not in _NO_LOCKS:
                os.close(handle)
                raise
        try:
            there = os.stat(path)
        except FileNotFoundError:
            there = None
        if there is None or there.st_ino != os.fstat(handle).st_ino:
            os.close(handle)  # its holder removed it between our open and our lock
            continue
        holder = {"job": job, "pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode() + b"\n", 0)
        return handle


def _holder(handle: int) -> str:
    """The holder of the lock as text: "train (process 812 on host gpu3, since 2026-01-31 12:00:00)"."""
    try:
        told = json.loads(os.pread(handle, 1_000, 0))
        return f"{told['job']} (process {told['pid']} on host {told['host']}, since {told['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
