"""Checks --config=FILE[:NAME] and its overrides before they are parsed, so that errors name the file, line and field.

ml_collections reports a missing file only when a value is first used, and reports an error inside the file as a missing
field of the configuration.
"""

from __future__ import annotations

import difflib
import inspect
import re
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from music_map.errors import UserError

_FLAG = re.compile(r"--?(?:no)?config(?P<field>\.[^=]*)?(?:=(?P<value>.*))?", re.DOTALL)


def check(argv: Sequence[str]) -> None:
    """Loads the file named by `argv` and looks up every field that is overridden.

    Raises:
      UserError: the file, NAME or a field does not exist, the file has an error, or a field precedes --config=FILE.
    """
    config: ConfigDict | None = None
    for i, argument in enumerate(argv):
        match = _FLAG.fullmatch(argument)
        if not match:
            continue
        field, value = match["field"], match["value"]
        if field is None:
            value = value if value is not None else argv[i + 1] if i + 1 < len(argv) else ""
            config = _load(value)
        elif config is None:
            raise UserError(f"--config{field} needs --config=FILE before it, e.g. --config=configs/demo.py")
        else:
            require_field(config, field.removeprefix("."), "--config.")


def _load(value: str) -> ConfigDict:
    path, has_name, name = value.partition(":")
    flag = f"--config={value}"
    if not path:
        raise UserError("--config is empty; name a file, e.g. --config=configs/demo.py")
    if not Path(path).is_file():
        near = difflib.get_close_matches(Path(path).name, [p.name for p in Path(path).parent.glob("*.py")], n=1)
        hint = f"did you mean {Path(path).parent / near[0]}?" if near else "name a file, e.g. --config=configs/demo.py"
        raise UserError(f"{flag}: no such file; {hint}")
    # The file is the user's own code: any error that it raises is reported with its line.
    try:
        get_config = runpy.run_path(path).get("get_config")
    except Exception as e:
        raise _failure(flag, path, e) from e
    if not callable(get_config):
        raise UserError(f"{flag}: defines no function get_config(); see configs/demo.py")
    arguments = [name] if has_name else []
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as e:
        raise UserError(f"{flag}: the file takes {'no :NAME' if has_name else 'a name, --config=FILE:NAME'}") from e
    try:
        config = get_config(*arguments)
    except (ValueError, UserError) as e:
        raise UserError(f"{flag}: {e}") from e
    except Exception as e:
        raise _failure(flag, path, e) from e
    if not isinstance(config, ConfigDict):
        raise UserError(f"{flag}: get_config() returns {type(config).__name__}; let it return a ConfigDict")
    return config


def _failure(flag: str, path: str, error: Exception) -> UserError:
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1] if frames else None
    where = f"line {line}: " if line else ""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return UserError(f"{flag}: {where}{type(error).__name__}: {message}; mend the file")


def require_field(config: ConfigDict, field: str, flag: str) -> None:
    """Raises UserError, with the nearest name, unless `field` ("model.alpha") is in the configuration.

    Args:
      config: the configuration.
      field: names joined by dots.
      flag: the text before the field on the command line, e.g. "--config.".
    """
    node: Any = config
    parts = field.split(".")
    for i, part in enumerate(parts):
        if "[" in part:  # an element of a tuple or list: ml_collections checks it
            return
        if not isinstance(node, ConfigDict) or part not in node:
            known = sorted(node) if isinstance(node, ConfigDict) else []
            near = difflib.get_close_matches(part, known, n=1)
            if near:
                hint = f"did you mean {flag}{'.'.join([*parts[:i], near[0]])}?"
            else:
                prefix = f"{flag}{'.'.join(parts[:i])}".rstrip(".=")
                hint = f"{prefix} has {', '.join(known) or 'no fields'}"
            raise UserError(f"{flag}{field}: the configuration has no such field; {hint}")
        node = node[part]


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration's fields by their full names, as in "data.size"."""
    fields: dict[str, Any] = {}
    for key, value in tree.items():
        fields |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return fields
