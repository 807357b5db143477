"""Errors that a user can mend: one line that names the thing and the remedy."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UserError(Exception):
    """A mistake in the input, a flag, a file or the machine; the message is one line and says what to do.

    Commands print it without a traceback and exit with status 2.
    """


class DamagedFileError(UserError):
    """A stored file is not what was written: missing, truncated, or its checksum differs."""


def require(good: bool, field: str, value: object, rule: str) -> None:
    """Raises UserError "FIELD=VALUE: must be RULE" unless `good`: how settings check themselves."""
    if not good:
        raise UserError(f"{field}={value!r}: must be {rule}")


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns a full disk, refused access or a path that cannot be made into a UserError that names it (or `path`)."""
    try:
        yield
    except OSError as e:
        if e.errno in _DISK_FULL:
            raise UserError(f"{path}: no space left on the disk; free some space or choose another folder") from e
        if e.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise UserError(f"{e.filename or path}: {os.strerror(e.errno)}; choose another path") from e
        if e.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            # Inside the block an input may be what cannot be opened.
            name = e.filename or path
            raise UserError(f"{name}: no access ({os.strerror(e.errno)}); change its permissions or the folder") from e
        raise
