"""The common part of all commands: flags, help, configuration, one-line errors, interrupts, the terminal's Reporter.

With --quiet a command prints only its result, warnings and errors. --verbose adds log lines of the libraries, Python's
warnings and tracebacks of errors. Colour is only used on a terminal, and never with NO_COLOR.

A command's file imports this module, absl and modules without JAX or other slow libraries, so that --help, a wrong flag
and completion answer at once. The library is imported in main().
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import logging
import math
import os
import re
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

# Set before jax and its native libraries load. Level 3, because XLA logs an error for each cached CPU program on
# processors with AVX-512 (jax-ml/jax#38445), and real errors arrive as exceptions.
if "--verbose" not in sys.argv:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from absl import app, flags
from absl import logging as absl_logging

from music_map.cli import compilation_cache, config_file, terminal, usage
from music_map.cli.terminal import USER_ERROR as USER_ERROR
from music_map.errors import UserError, about, disk_error, memory_error
from music_map.reporter import Reporter
from music_map.text import printable, printable_lines

if TYPE_CHECKING:
    from music_map.convert.engine import Summary
    from music_map.evaluation.baselines.settings import Settings
    from music_map.run.config import Config

# Flags defined here are listed by --help as the command's own.
flags.disclaim_key_flags()

_QUIET = flags.DEFINE_bool("quiet", False, "Print only the result: no progress bars, nothing about earlier stages.")
_VERBOSE = flags.DEFINE_bool("verbose", False, "Show what the libraries log, their warnings, and tracebacks of errors.")

_NOISY = ("orbax", "jax", "huggingface_hub", "httpx", "matplotlib")
# A progress bar without a terminal prints lines: seconds before the first line, and between two lines.
_LOG_DELAY, _LOG_INTERVAL = 2.0, 30.0


def define_config() -> flags.FlagHolder:
    """Defines `--config=FILE[:NAME]` with typed, locked overrides `--config.a.b=value`."""
    from ml_collections import config_flags  # only here: commands without a configuration start faster

    holder = config_flags.DEFINE_config_file(
        "config", None, "Configuration file, e.g. configs/demo.py.", lock_config=True
    )
    flags.mark_flag_as_required("config")
    return holder


_SECTIONS: list[usage.Section] = []


def section(title: str) -> None:
    """Puts the flags that are defined from here on under a title of their own in --help."""
    _SECTIONS.append(usage.Section(title, frozenset(flags.FLAGS)))


def _is_on(flag: flags.FlagHolder) -> bool:
    # A program that only imports this module parses no flags.
    return flags.FLAGS.is_parsed() and flag.value


class _Terminal:
    """The Reporter of the command line: results on stdout, bars and warnings on stderr, as --quiet says.

    Control characters and lone surrogates are escaped, because ids and names come from other people.
    """

    def __init__(self) -> None:
        self.silenced = False

    def say(self, text: str = "") -> None:
        """Prints a line of a command's result on stdout, at once."""
        if not self.silenced:
            terminal.write(printable_lines(text))

    def note(self, text: str) -> None:
        """Prints a step on the way to the result, like `say`. Prints nothing with --quiet."""
        if not _is_on(_QUIET):
            self.say(text)

    def warn(self, text: str) -> None:
        """Prints a one-line warning on stderr."""
        if not self.silenced:
            terminal.warn(text)

    @contextlib.contextmanager
    def bar(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], object]]:
        """A Progress drawn by tqdm on stderr. Without a terminal, a long one prints a line from time to time."""
        if self.silenced or _is_on(_QUIET):
            yield lambda n: None
            return
        from tqdm import tqdm  # not for --help

        on_terminal = sys.stderr.isatty()
        with tqdm(
            total=total,
            desc=printable(label),
            unit=unit,
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.2 if on_terminal else _LOG_INTERVAL,
            delay=0.0 if on_terminal else _LOG_DELAY,
            file=sys.stderr,
        ) as progress:
            yield progress.update


_TERMINAL = _Terminal()
say, note, warn, bar = _TERMINAL.say, _TERMINAL.note, _TERMINAL.warn, _TERMINAL.bar


def reporter() -> Reporter:
    """The terminal as the library's Reporter."""
    return _TERMINAL


def silence() -> None:
    """Makes this process report nothing from now on; in a run of several processes only the first one reports."""
    _TERMINAL.silenced = True


# absl's messages for invalid values of flags, and the rules in our words.
_RULES = (
    (r"invalid literal for int\(\).*", "a whole number"),
    (r"could not convert string to float.*", "a number"),
    (r"\('Non-boolean argument.*", "true or false"),
    (r"value should be one of <(.*)>", r"\2"),
    (r"\S+ is not (an? .*)", r"\2"),
)


def _flag_error(error: Exception) -> str:
    """An error of absl or ml_collections about flags as one line."""
    if isinstance(error, flags.UnrecognizedFlagError):
        near = difflib.get_close_matches(error.flagname, list(flags.FLAGS), n=1)
        return f"unknown flag --{error.flagname}" + (f"; did you mean --{near[0]}?" if near else "; see --help")
    text = " ".join(str(error).split()).removeprefix("FATAL ")
    for absl_says, rule in _RULES:
        if match := re.fullmatch(f"flag (--.*): {absl_says}", text):
            return f"{match[1]}: must be {match.expand(rule).replace('|', ' or ')}"
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
        for name, value in flags.FLAGS.flag_values_dict().items():
            if isinstance(value, float) and not math.isfinite(value) and not name.startswith("config."):
                raise UserError(f"--{name}={value}: must be a finite number")
        given = rest[1:]
        if len(given) > len(arguments) and not (arguments and arguments[-1].endswith("...")):
            raise UserError(f"unexpected argument {given[len(arguments)]!r}; flags are written --name=value")
        if len(given) < len(arguments):
            raise UserError(f"{' and '.join(arguments[len(given) :])} missing; give {' '.join(arguments)}")
        return rest
    except UserError as e:
        terminal.fail(str(e))
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as e:
        terminal.fail(_flag_error(e))


def _help(script: str, arguments: Sequence[str]) -> NoReturn:
    text = usage.text(script, flags.FLAGS, arguments=arguments, common=(_QUIET.name, _VERBOSE.name), sections=_SECTIONS)
    terminal.write(text)
    sys.exit(0)


def run(main: Callable[..., int | None], *, arguments: Sequence[str] = ()) -> None:
    """Parses the flags and runs `main(*arguments)`; a UserError becomes one line on stderr and exit status 2.

    Notes of the error (`add_note`), such as a list of files, follow in further lines. Ctrl-C ends with status 130; a
    second one ends the process at once.

    Args:
      main: returns the exit status.
      arguments: names of the positional arguments; "PATH...", as the last, stands for one or several.
    """

    def guarded(argv: Sequence[str]) -> None:
        _set_log_level()
        _use_compilation_cache()
        try:
            status = main(*argv[1:])
        except (UserError, OSError, MemoryError, RuntimeError) as e:
            # Errors that no code closer to the cause has reported: a full disk, refused access, too little memory.
            told = e if isinstance(e, UserError) else memory_error(e) or disk_error(e, "a file of this command")
            if told is None:
                raise
            if _VERBOSE.value:
                traceback.print_exc()
            terminal.fail(str(told), getattr(told, "__notes__", ()))
        sys.exit(status or 0)

    _raise_interrupts()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an ASCII terminal shows names by their code points
    try:
        app.run(guarded, flags_parser=functools.partial(_parse, arguments=arguments))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        _die_of_interrupts()


def _use_compilation_cache() -> None:
    cache = compilation_cache.enable()
    if cache is None:
        return
    folder, new = cache
    if not _VERBOSE.value:
        # If an entry cannot be read or written, JAX compiles the program, so its warning is of no use.
        warnings.filterwarnings("ignore", message=".*persistent compilation cache entry")
    if _VERBOSE.value or (new and not _QUIET.value):
        text = f"compiled programs are kept in {folder}; MUSIC_MAP_CACHE=off turns this off"
        print(printable(text), file=sys.stderr, flush=True)


def _set_log_level() -> None:
    """Sets the libraries' log level on stderr, and whether Python's warnings are shown."""
    absl_logging.set_verbosity(absl_logging.INFO if _VERBOSE.value else absl_logging.ERROR)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.INFO if _VERBOSE.value else logging.ERROR)
    if _VERBOSE.value:
        warnings.simplefilter("default")
    else:
        warnings.filterwarnings("ignore", category=DeprecationWarning)


def _raise_interrupts() -> None:
    """Makes the first Ctrl-C a KeyboardInterrupt that is not lost; the second one ends the process.

    If a KeyboardInterrupt is raised in a finalizer or a garbage collector callback, Python prints it and goes on.
    Then the signal is sent again.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as by nohup
        return

    def interrupt(number: int, frame: object) -> None:
        _die_of_interrupts()
        raise KeyboardInterrupt

    def again(unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(unraisable)
            return
        signal.signal(signal.SIGINT, interrupt)
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()

    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = again


def _die_of_interrupts() -> None:
    """Makes Ctrl-C end the process at once, also at exit, where Python would print a traceback and go on."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class StopRequest:
    """A request by a signal to stop a job at a point from which it can continue later."""

    def __init__(self) -> None:
        self._signal: int | None = None
        self._noticed = False

    def is_set(self) -> bool:
        """Whether to stop. A caller that gets True must stop."""
        self._noticed = self._signal is not None
        return self._noticed

    def unnoticed(self) -> int | None:
        """The number of a signal that came after `is_set` was last asked."""
        return None if self._noticed else self._signal


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """A request that SIGTERM or the first Ctrl-C sets; a second Ctrl-C interrupts at once.

    If no caller has noticed a signal by the end of the block, it is sent again to the outer handler.
    """
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, frame: object) -> None:
        request._signal = number
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if (number := request.unnoticed()) is not None:
        signal.raise_signal(number)


def path_of(text: str, flag: str) -> Path:
    """A flag's value as a path. Raises UserError if it is empty."""
    if not text:
        raise UserError(f"--{flag} is empty; give a path")
    return Path(text).expanduser()


def file_to_write(text: str, flag: str) -> Path:
    """A flag's value as the path of a file. Raises UserError if it is empty or a folder."""
    path = path_of(text, flag)
    if path.is_dir():
        raise UserError(f"--{flag}={text}: is a folder; give a file")
    return path


def command(script: str, *arguments: str) -> str:
    """A command of launch/ to copy."""
    return shlex.join(["python", f"launch/{script}", *arguments])


def events_of(given: str | None, workdir: Path) -> str:
    """--events, or the file beside the run's folder: a run is replaced by the next, its listeners' events are not."""
    if given == "":
        raise UserError("--events is empty; give a file, or postgresql://user@host/name")
    folder = workdir if workdir.name else workdir.absolute()
    return given or f"{folder}.events.sqlite"


def say_conversion(summary: Summary, notes: Sequence[str], raw_dir: Path, size: str, *, dry_run: bool) -> None:
    """Prints what a conversion made, or would make, its notes as warnings, and the command that comes next."""
    from music_map.convert.summary import lines_of, notes_of

    for line in lines_of(summary, done=not dry_run):
        say(line)
    for note in notes_of(summary, notes):
        warn(note)
    say(f"to write: {raw_dir / 'flat' / size}" if dry_run else f"\nNow train:\n{train_command(raw_dir, size)}")


def train_command(raw_dir: Path, size: str) -> str:
    """The command that trains on converted logs, with settings that fit them."""
    places = {"raw_dir": raw_dir, "size": size, "processed_dir": raw_dir / "processed"}
    given = [f"--config.data.{name}={value}" for name, value in places.items()]
    return command("train.py", "--config=configs/own.py", *given, f"--workdir={Path('checkpoints') / size}")


def read_config(holder: flags.FlagHolder) -> Config:
    """The checked configuration from --config and its overrides, with sizes for what follows from the logs."""
    from music_map.run.config import from_dict
    from music_map.run.options import resolved

    return resolved(from_dict(holder.value.to_dict()))


def naming(flag: str) -> contextlib.AbstractContextManager[None]:
    """A context for errors about a flag's value: the message of a UserError begins with --FLAG."""
    return about(f"--{flag}")


def protocol_of(config: Config, given: str | None) -> str:
    """--protocol, or the run's own. Raises UserError if it is unknown or the data does not support it."""
    from music_map.run.run import check_protocol

    protocol = config.eval.protocol if given is None else given
    with naming("protocol"):
        check_protocol(config, protocol)
    return protocol


def baselines_of(config: Config, protocol: str, given: Sequence[str] | None) -> tuple[str, ...]:
    """--baselines, or those of the configuration that apply. Raises UserError if one is unknown or does not apply."""
    from music_map.run.evaluate import baseline_names

    with naming("baselines"):
        return baseline_names(config, protocol, given)


def baseline_settings(given: str | None) -> dict[str, Settings] | None:
    """The settings in the file of --baseline_settings; None if it is not given."""
    from music_map.run.evaluation import read_baseline_settings

    return None if given is None else read_baseline_settings(path_of(given, "baseline_settings"))


@contextlib.contextmanager
def notes_on_stderr() -> Iterator[None]:
    """A context in which notes of stages go to stderr, so that stdout has only the answer."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
