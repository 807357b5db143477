"""Output of the commands: colour, one-line errors, and errors in writing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import IO, NoReturn

from music_map.text import printable

USER_ERROR = 2
_STYLES = {"bold": "1", "red": "1;31", "yellow": "33"}


def style(text: str, name: str, stream: IO[str]) -> str:
    """The text in "bold", "red" or "yellow" on a terminal, unless NO_COLOR (no-color.org) or TERM=dumb is set."""
    plain = not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\033[{_STYLES[name]}m{text}\033[0m"


def write(text: str) -> None:
    """Prints on stdout at once. If that fails, ends the command: status 1 without a reader, 2 on a full disk."""
    try:
        print(text, flush=True)
    except OSError as e:
        # The rest of the buffer is discarded; otherwise Python would try to write it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
        if isinstance(e, BrokenPipeError):  # the reader (head, say) has seen enough
            sys.exit(1)
        fail(f"standard output: {e.strerror}; send it elsewhere")


def warn(text: str) -> None:
    """Prints a one-line warning on stderr."""
    print(f"{style('warning:', 'yellow', sys.stderr)} {printable(text)}", file=sys.stderr, flush=True)


def fail(message: str, notes: Sequence[str] = ()) -> NoReturn:
    """Prints an error in one line on stderr, and each note in a further line; exits with status 2."""
    line = f"{style('error:', 'red', sys.stderr)} {printable(' '.join(message.split()))}"
    print(line, *map(printable, notes), sep="\n", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)
