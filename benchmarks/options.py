"""What the benchmarks share as commands: the flag of a configuration, printing, and errors as one line."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from music_map.errors import UserError
from music_map.reporter import PrintReporter
from music_map.run.config import Config, from_dict

REPORTER = PrintReporter()
say, warn, bar = REPORTER.say, REPORTER.warn, REPORTER.bar


def define_config() -> flags.FlagHolder:
    """Defines `--config=FILE[:NAME]` with typed overrides `--config.a.b=value`; read it with `read_config`."""
    holder = config_flags.DEFINE_config_file("config", None, "Configuration file, e.g. configs/demo.py.")
    flags.mark_flag_as_required("config")
    return holder


def read_config(holder: flags.FlagHolder) -> Config:
    """The configuration that --config and its overrides give, checked."""
    return from_dict(holder.value.to_dict())


def path_of(text: str, flag: str) -> Path:
    """A flag's value as a path; UserError where it is empty."""
    if not text:
        raise UserError(f"--{flag} is empty; give a path")
    return Path(text).expanduser()


def run(main: Callable[[], int | None]) -> None:
    """Parses the flags and runs `main`; a UserError or a wrong flag becomes one line on stderr and exit status 2."""
    app.run(lambda argv: _guarded(main), flags_parser=_parse)


def _guarded(main: Callable[[], int | None]) -> None:
    absl_logging.set_verbosity(absl_logging.ERROR)  # JAX and Orbax log through absl
    try:
        status = main()
    except UserError as e:
        _fail(e)
    sys.exit(status or 0)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    # ml_collections raises the others for a field that does not exist or a value of another type.
    except (flags.Error, UserError, KeyError, AttributeError, TypeError, ValueError) as e:
        _fail(e)
    return rest


def _fail(error: Exception) -> None:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)
