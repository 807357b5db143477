"""Errors that a user can correct: one line that names the cause and the remedy."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import re
from collections.abc import Iterator

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WRONG_PATH = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
_NO_ACCESS = {errno.EACCES, errno.EROFS, errno.EPERM}


class UserError(Exception):
    """A mistake in the input, a flag, a file or the machine; the message is one line and says what to do.

    Commands print it without a traceback and exit with status 2.
    """


class DamagedFileError(UserError):
    """A stored file is not what was written: missing, truncated, or its checksum differs."""


def require(good: bool, field: str, value: object, rule: str) -> None:
    """Raises UserError "FIELD=VALUE: must be RULE" unless `good`; settings use it for their checks."""
    if not good:
        # An integer of thousands of digits cannot be printed.
        huge = isinstance(value, int) and value.bit_length() > 1_000
        raise UserError(f"{field}={'a huge number' if huge else repr(value)}: must be {rule}")


def require_packages(what: str, extra: str, *packages: str) -> None:
    """Raises UserError with the command that installs them if one of the `packages` of an extra is not installed.

    Args:
      what: needs the packages; named in the message: "--method=umap".
      extra: of setup.py. "pip install 'music-map[EXTRA]'" works beside an installed wheel and in a checkout.
      packages: names as they are imported.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{what} needs the package {missing[0]}, which is not installed: pip install 'music-map[{extra}]'"
        )


def require_memory(wanted: int, what: str, *, free: int | None = None) -> None:
    """Raises UserError if `what` needs more bytes than this machine has free now; call it before allocating.

    Args:
      wanted: bytes.
      what: named in the message, with the value to lower: "config.model.embedding_dim=4096: 9,984 users".
      free: bytes that can be allocated; None: those of this machine.
    """
    free = _free_memory() if free is None else free
    if free is not None and wanted > free:
        raise UserError(
            f"{what} needs {wanted / 2**30:,.1f} GiB of memory, but {free / 2**30:,.1f} GiB are free; choose a smaller "
            "value, or a machine with more memory"
        )


def memory_error(error: Exception) -> UserError | None:
    """The UserError for memory that NumPy, Arrow or XLA could not allocate; None for other errors."""
    text = " ".join(str(error).split())
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
        return None
    asked = re.search(r"(?:allocate|allocating|failed to allocate|of size) (\d[\d.,]* ?\w*)", text)
    size = f" ({asked[1].strip(' .,')})" if asked else ""
    return UserError(
        f"not enough memory{size}; choose smaller sizes (batch, dimensions), or a machine with more memory"
    )


def _free_memory() -> int | None:
    """Bytes that can be allocated without swapping; None if the system does not report them."""
    try:
        with open("/proc/meminfo") as f:
            found = re.search(r"^MemAvailable:\s+(\d+) kB", f.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def disk_error(error: Exception, path: str | os.PathLike[str]) -> UserError | None:
    """The UserError for a full disk, refused access or an impossible path; None for other errors.

    Args:
      error: the error that was raised; others than OSError are none of these.
      path: named if the error itself names no file, for example "standard output".
    """
    if not isinstance(error, OSError):
        return None
    name = error.filename if isinstance(error.filename, str | os.PathLike) else path
    # numpy's tofile sets no errno: "1000 requested and 512 written".
    if error.errno in _DISK_FULL or (error.errno is None and re.search(r"\brequested and \d+ written", str(error))):
        return UserError(f"{path}: no space left on the disk; free some space or choose another folder")
    if error.errno in _WRONG_PATH:
        return UserError(f"{name}: {os.strerror(error.errno)}; choose another path")
    if error.errno in _NO_ACCESS:
        # The file may be an input, so the remedy is not only about outputs.
        return UserError(f"{name}: no access ({os.strerror(error.errno)}); change its permissions or the folder")
    if error.errno == errno.EIO:
        return UserError(f"{name}: the disk cannot be read or written ({os.strerror(error.errno)}); check the disk")
    return None


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """A context that prefixes the message of a UserError with its subject: a field, a file or a flag."""
    try:
        yield
    except UserError as e:
        raise type(e)(f"{what}: {e}") from e


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns a full disk, refused access or an impossible path into a UserError that names the file (or `path`)."""
    try:
        yield
    except OSError as e:
        told = disk_error(e, path)
        if told is None:
            raise
        raise told from e
