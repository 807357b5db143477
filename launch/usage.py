"""The text of --help: what a command does, its own flags, examples; and whether colour is wanted."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from absl import flags

_STYLES = {"bold": "1", "red": "1;31", "yellow": "33"}
_REQUIRED = re.compile(r"Flag --\S+ must have a value other than None\.")
_WIDEST = 100
_INDENT = 24


def colour(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that should get colour: not with NO_COLOR (no-color.org) or TERM=dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, name: str, stream: IO[str]) -> str:
    """The text in "bold", "red" or "yellow" where the stream takes colour."""
    return f"\033[{_STYLES[name]}m{text}\033[0m" if colour(stream) else text


def split(doc: str) -> tuple[str, list[str], list[str]]:
    """A launcher's description: its first paragraph, the other paragraphs, and the commands it gives as examples."""
    summary, *rest = [textwrap.dedent(p) for p in re.split(r"\n\s*\n", textwrap.dedent(doc).strip())]
    paragraphs, examples = [], []
    for paragraph in rest:
        # A line that ended in a backslash goes on in the next; in a docstring nothing but its spaces is left of that.
        joined = re.sub(r" *\\\n\s*|(?<=\S) {3,}", " ", paragraph)
        if joined.startswith("python "):
            examples += joined.splitlines()
        else:
            paragraphs.append(paragraph)
    return " ".join(summary.split()), paragraphs, examples


def text(script: str, defined: flags.FlagValues, *, arguments: Sequence[str], common: Iterable[str]) -> str:
    """What --help prints.

    Args:
      script: path of the launcher, sys.argv[0].
      defined: all flags.
      arguments: names of what the command takes besides flags.
      common: names of the flags that every command has.
    """
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    main = sys.modules["__main__"]
    summary, paragraphs, examples = split(main.__doc__ or "")
    program = f"python {_relative(script)}"
    # Imported, and not run itself, where the command was given as `music-map JOB`.
    from_shell = "launch.jobs" in sys.modules
    if from_shell:
        program = _as_jobs(program)
    common = tuple(common)
    own = {f.name: f for f in defined.get_key_flags_for_module(script) if f.name not in common}
    required = {name: f for name, f in own.items() if any(_REQUIRED.match(v.message) for v in f.validators)}
    optional = {name: f for name, f in own.items() if name not in required}
    given = [*arguments, *(_form(f) for f in required.values())]
    if "config" in own:
        given.append("[--config.FIELD=VALUE ...]")
    parts = [_wrapped(summary, width), _head("Usage")]
    parts.append(textwrap.fill(
        " ".join([program, *given, "[flags]"]), width, initial_indent="  ", subsequent_indent="      ",
        break_long_words=False, break_on_hyphens=False,
    ))  # fmt: skip
    for title, group in (("Needed", required), ("Flags", optional)):
        if group:
            parts.append(_head(title))
            parts += [_line(f, width, show_default=title == "Flags") for f in group.values()]
    parts.append(_head("Of every command"))
    parts += [_line(defined[name], width, show_default=False) for name in common]
    parts.append(_entry("--help", "This text.", width))
    if examples:
        parts.append(_head("Examples"))
        parts += [f"  {_as_jobs(e) if from_shell else e}" for e in examples]
    if paragraphs:
        parts.append("")
        parts.append("\n\n".join(_wrapped(p, width) for p in paragraphs))
    return "\n".join(parts)


def _as_jobs(command: str) -> str:
    return re.sub(r"python launch/(\w+)\.py", lambda match: f"music-map {match[1].replace('_', '-')}", command)


def _relative(script: str) -> str:
    path = Path(script)
    return "/".join(path.parts[-2:]) if path.parent.name == "launch" else script


def _wrapped(paragraph: str, width: int) -> str:
    # A table or a list keeps its lines.
    if re.search(r"\n\s|  +\S", paragraph):
        return paragraph
    return textwrap.fill(" ".join(paragraph.split()), width, break_long_words=False, break_on_hyphens=False)


def _head(title: str) -> str:
    return "\n" + style(f"{title}:", "bold", sys.stdout)


def _form(flag: flags.Flag) -> str:
    """The flag as it is written, with what stands for its value."""
    kind = flag.flag_type()
    if flag.name == "config":
        return "--config=FILE[:NAME]"
    if kind == "bool":
        return f"--{flag.name}" if flag.default is False else f"--{flag.name}=true|false"
    if kind == "string enum":
        return f"--{flag.name}={'|'.join(flag.parser.enum_values)}"
    if "list" in kind:
        return f"--{flag.name}=A,B,..."
    value = {"int": "N", "float": "X"}.get(kind.removeprefix("multi "), flag.name.split("_")[-1].upper())
    return f"--{flag.name}={value}"


def _line(flag: flags.Flag, width: int, *, show_default: bool) -> str:
    # absl adds the choices of an enum, and how to repeat a flag.
    told = re.sub(r"^<[^>]*>: |; repeat this option.*", "", " ".join((flag.help or "").split()))
    default = flag.default
    if show_default and default not in (None, [], "", False):
        shown = ",".join(default) if isinstance(default, list) else "true" if default is True else default
        told += f" Default: {shown}."
    return _entry(_form(flag), told, width)


def _entry(form: str, told: str, width: int) -> str:
    head = f"  {form}"
    fill = textwrap.fill(
        told, width, initial_indent=" " * _INDENT, subsequent_indent=" " * _INDENT,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    if len(head) + 2 > _INDENT:
        return f"{head}\n{fill}"
    return head + fill[len(head) :]
