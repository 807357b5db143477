"""What every launcher shares: flags, help, the configuration, one-line errors, what is said and progress bars.

--quiet leaves a command's result, its warnings and its errors; --verbose adds what the libraries log, Python's warnings
and the traceback of an error. Colour only where a terminal reads, and never with NO_COLOR.
"""

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
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

# Before jax and its native libraries load, which happens when a launcher imports the library: before flags are parsed.
if "--verbose" not in sys.argv:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from launch import config_file, usage
from music_map.errors import UserError
from music_map.reporter import Reporter
from music_map.text import printable, printable_lines

USER_ERROR = 2

# Flags defined here are listed by --help as the launcher's own.
flags.disclaim_key_flags()

_QUIET = flags.DEFINE_bool("quiet", False, "Say the result alone: no progress bars, nothing of the stages before it.")
_VERBOSE = flags.DEFINE_bool("verbose", False, "Show what the libraries log, their warnings, and tracebacks of errors.")

_NOISY = ("orbax", "jax", "huggingface_hub", "httpx", "matplotlib")
# A bar of a log file, where no terminal is: seconds before it is worth a line, and between two lines.
_LOG_DELAY, _LOG_INTERVAL = 2.0, 30.0


def define_config() -> flags.FlagHolder:
    """Defines `--config=FILE[:NAME]` with typed, locked overrides `--config.a.b=value`."""
    holder = config_flags.DEFINE_config_file(
        "config", None, "Configuration file, e.g. configs/demo.py.", lock_config=True
    )
    flags.mark_flag_as_required("config")
    return holder


def size_text(size: int) -> str:
    """Bytes in the unit that suits: "3.1 MB"."""
    power = next((n for n in range(4) if size < 1000 ** (n + 1)), 4)
    return f"{size:,} B" if power == 0 else f"{size / 1000**power:,.1f} {'kMGT'[power - 1]}B"


def _is_on(flag: flags.FlagHolder) -> bool:
    # A program that only imports this module parses no flags.
    return flags.FLAGS.is_parsed() and flag.value


class _Terminal:
    """The Reporter of the command line: results on stdout, bars and warnings on stderr, as --quiet says.

    Control characters and lone surrogates in what is reported are escaped: ids and names are other people's.
    """

    def __init__(self) -> None:
        self.silenced = False

    def say(self, text: str = "") -> None:
        """Prints a line of a command's result on stdout, at once."""
        if not self.silenced:
            print(printable_lines(text), flush=True)

    def note(self, text: str) -> None:
        """`say` for what is not the command's result: what a stage does on the way. Nothing with --quiet."""
        if not _is_on(_QUIET):
            self.say(text)

    def warn(self, text: str) -> None:
        """Prints a one-line warning on stderr."""
        if not self.silenced:
            print(f"{usage.style('warning:', 'yellow', sys.stderr)} {printable(text)}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def bar(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], object]]:
        """A Progress drawn by tqdm on stderr; where that is no terminal, a long one prints a line now and then."""
        if self.silenced or _is_on(_QUIET):
            yield lambda n: None
            return
        from tqdm import tqdm  # not for --help

        terminal = sys.stderr.isatty()
        with tqdm(
            total=total,
            desc=printable(label),
            unit=unit,
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.2 if terminal else _LOG_INTERVAL,
            delay=0.0 if terminal else _LOG_DELAY,
            file=sys.stderr,
        ) as progress:
            yield progress.update


_TERMINAL = _Terminal()
say, note, warn, bar = _TERMINAL.say, _TERMINAL.note, _TERMINAL.warn, _TERMINAL.bar


def reporter() -> Reporter:
    """The terminal as the library's Reporter."""
    return _TERMINAL


def silence() -> None:
    """From here on this process reports nothing: of the processes of one run only the first does."""
    _TERMINAL.silenced = True


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
        if any(arg in ("--help", "-help", "--h", "-h", "-?", "--helpshort") for arg in argv):
            _help(argv[0], arguments)
        flags.FLAGS.set_gnu_getopt(True)  # flags may follow arguments
        if "config" in flags.FLAGS and not any(re.fullmatch(r"--?help\w*(=.*)?", arg) for arg in argv):
            config_file.check(argv)
        rest = flags.FLAGS(argv)
        if _QUIET.value and _VERBOSE.value:
            raise UserError("--quiet and --verbose exclude each other; give one of them")
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


def _help(script: str, arguments: Sequence[str]) -> NoReturn:
    try:
        text = usage.text(script, flags.FLAGS, arguments=arguments, common=(_QUIET.name, _VERBOSE.name))
        print(text, flush=True)  # as it is: it may be in colour
    except BrokenPipeError:
        _reader_gone()
    sys.exit(0)


def _exit(message: str, notes: Sequence[str] = ()) -> NoReturn:
    line = f"{usage.style('error:', 'red', sys.stderr)} {printable(' '.join(message.split()))}"
    print(line, *map(printable, notes), sep="\n", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)


def run(main: Callable[..., int | None], *, arguments: Sequence[str] = ()) -> None:
    """Parses the flags and runs `main(*arguments)`; a UserError becomes one line on stderr and exit status 2.

    Notes added to the error (`add_note`), a list of files say, follow on lines of their own.

    Args:
      main: gives the exit status.
      arguments: names of what the command takes besides flags.
    """

    def guarded(argv: Sequence[str]) -> None:
        _set_log_level()
        try:
            status = main(*argv[1:])
        except UserError as e:
            if _VERBOSE.value:
                traceback.print_exc()
            _exit(str(e), getattr(e, "__notes__", ()))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:
            _reader_gone()
        sys.exit(status or 0)

    app.run(guarded, flags_parser=functools.partial(_parse, arguments=arguments))


def _reader_gone() -> NoReturn:
    # The reader of our stdout went away (head, say): not an error; keep the interpreter from flushing to it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _set_log_level() -> None:
    """What the libraries may log on stderr, and whether Python's warnings are shown."""
    absl_logging.set_verbosity(absl_logging.INFO if _VERBOSE.value else absl_logging.ERROR)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.INFO if _VERBOSE.value else logging.ERROR)
    if _VERBOSE.value:
        warnings.simplefilter("default")
    else:
        warnings.filterwarnings("ignore", category=DeprecationWarning)


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


def file_to_write(text: str, flag: str) -> Path:
    """A flag's value as the path of a file; UserError where it is empty or a folder."""
    path = path_of(text, flag)
    if path.is_dir():
        raise UserError(f"--{flag}={text}: is a folder; give a file")
    return path


def check_split(name: str) -> None:
    """Raises UserError where --split is neither val nor test."""
    if name not in ("val", "test"):
        raise UserError(f"--split={name}: must be val or test")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON-able values."""
    return {
        k: to_dict(v) if hasattr(v, "items") else (list(v) if isinstance(v, tuple) else v) for k, v in config.items()
    }
