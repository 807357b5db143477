"""What every launcher shares: flags, the configuration, one-line errors and progress bars."""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Before jax and its native libraries load, which happens when a launcher imports the library.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags
from tqdm import tqdm

from launch import config_file
from music_map.errors import UserError

USER_ERROR = 2

# Flags defined here are listed by --help as the launcher's own.
flags.disclaim_key_flags()


def define_config() -> flags.FlagHolder:
    """Defines `--config=FILE[:NAME]` with typed, locked overrides `--config.a.b=value`."""
    holder = config_flags.DEFINE_config_file(
        "config", None, "Configuration file, e.g. configs/demo.py.", lock_config=True
    )
    flags.mark_flag_as_required("config")
    return holder


@contextlib.contextmanager
def bar(label: str, total: int | None, unit: str) -> Iterator[Callable[[int], object]]:
    """A music_map Progress drawn by tqdm on stderr; one line a bar where stderr is no terminal."""
    quiet = not sys.stderr.isatty()
    with tqdm(
        total=total,
        desc=label,
        unit=unit,
        unit_scale=True,
        dynamic_ncols=True,
        mininterval=30 if quiet else 0.2,
        miniters=None,
        leave=True,
        file=sys.stderr,
    ) as progress:
        yield progress.update


def say(text: str = "") -> None:
    """Prints a line of a command's report on stdout, at once."""
    print(text, flush=True)


def warn(text: str) -> None:
    """Prints a one-line warning on stderr."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _flag_error(error: Exception) -> str:
    """One line for what absl and ml_collections say of wrong flags."""
    if isinstance(error, flags.UnrecognizedFlagError):
        near = difflib.get_close_matches(error.flagname, list(flags.FLAGS), n=1)
        return f"unknown flag --{error.flagname}" + (f"; did you mean --{near[0]}?" if near else "; see --help")
    text = " ".join(str(error).split()).removeprefix("FATAL ")
    missing = re.findall(r"Flag --(\w+) must have a value other than None", text)
    return f"--{' and --'.join(missing)} missing; see --help" if missing else text


def _parse(argv: Sequence[str], arguments: Sequence[str]) -> list[str]:
    try:
        flags.FLAGS.set_gnu_getopt(True)  # flags may follow arguments
        if "config" in flags.FLAGS and not any(re.fullmatch(r"--?(h|\?|help\w*)(=.*)?", arg) for arg in argv):
            config_file.check(argv)
        rest = flags.FLAGS(argv)
        given = rest[1:]
        if len(given) > len(arguments):
            raise UserError(f"unexpected argument {given[len(arguments)]!r}; flags are written --name=value")
        if len(given) < len(arguments):
            raise UserError(f"{' and '.join(arguments[len(given) :])} missing; give {' '.join(arguments)}")
        return rest
    except UserError as e:
        _exit(str(e))
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as e:
        _exit(_flag_error(e))
    raise AssertionError


def _exit(message: str, notes: Sequence[str] = ()) -> None:
    print(f"error: {' '.join(message.split())}", *notes, sep="\n", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)


def run(main: Callable[..., int | None], *, arguments: Sequence[str] = ()) -> None:
    """Parses the flags and runs `main(*arguments)`; a UserError becomes one line on stderr and exit status 2.

    Notes added to the error (`add_note`), a list of files say, follow on lines of their own.

    Args:
      main: gives the exit status.
      arguments: names of what the command takes besides flags.
    """

    def guarded(argv: Sequence[str]) -> None:
        absl_logging.set_verbosity(absl_logging.ERROR)
        for noisy in ("orbax", "jax", "huggingface_hub", "httpx"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            status = main(*argv[1:])
        except UserError as e:
            _exit(str(e), getattr(e, "__notes__", ()))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:
            # The reader of our stdout went away (head, say): not an error; keep the interpreter from flushing to it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        sys.exit(status or 0)

    app.run(guarded, flags_parser=functools.partial(_parse, arguments=arguments))


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM or the first Ctrl-C sets; a second Ctrl-C interrupts at once."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def path_of(text: str, flag: str) -> Path:
    """A flag's value as a path; UserError where it is empty."""
    if not text:
        raise UserError(f"--{flag} is empty; give a path")
    return Path(text).expanduser()


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON-able values."""
    return {
        k: to_dict(v) if hasattr(v, "items") else (list(v) if isinstance(v, tuple) else v) for k, v in config.items()
    }
