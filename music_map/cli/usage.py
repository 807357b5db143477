"""The text of --help: the description of a command, its own flags, and examples.

absl and argparse_flags also have help texts. But neither separates a command's own flags from common ones and also
shows required flags, sections, defaults and examples. argparse_flags also refuses `--config.field=value`.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from music_map.cli.terminal import style

_REQUIRED = re.compile(r"Flag --\S+ must have a value other than None\.")
_WIDEST = 100
_INDENT = 24


class Section(NamedTuple):
    """A titled group of flags: those defined after the flags in `before`, up to the next section.

    before: names of the flags that were defined when the section began.
    """

    title: str
    before: frozenset[str]


def split(doc: str) -> tuple[str, list[str], list[str]]:
    """Splits a launcher's docstring into its first paragraph, the other paragraphs, and the example commands."""
    summary, *rest = [textwrap.dedent(p) for p in re.split(r"\n\s*\n", textwrap.dedent(doc).strip())]
    paragraphs, examples = [], []
    for paragraph in rest:
        # A command may continue in the next line after a backslash; in a docstring only the next line's spaces remain.
        joined = re.sub(r" *\\\n\s*|(?<=\S) {3,}", " ", paragraph)
        if joined.startswith("python "):
            examples += joined.splitlines()
        else:
            paragraphs.append(paragraph)
    return " ".join(summary.split()), paragraphs, examples


def text(
    script: str,
    defined: flags.FlagValues,
    *,
    arguments: Sequence[str],
    common: Iterable[str],
    sections: Sequence[Section] = (),
) -> str:
    """The text that --help prints.

    Args:
      script: path of the command's file, sys.argv[0].
      defined: all flags.
      arguments: names of the positional arguments.
      common: names of the flags that every command has.
      sections: titles of the command's optional flags, in the order of their definition.
    """
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    summary, paragraphs, examples = split(sys.modules["__main__"].__doc__ or "")
    own = [f for f in defined.get_key_flags_for_module(script) if f.name not in common]
    required = [f for f in own if any(_REQUIRED.match(v.message) for v in f.validators)]
    parts: dict[str, list[flags.Flag]] = {"Required": required, "Options": []} | {s.title: [] for s in sections}
    for flag in own:
        if flag not in required:
            title = next((s.title for s in reversed(sections) if flag.name not in s.before), "Options")
            parts[title].append(flag)
    given = [*arguments, *map(_form, required)]
    if any(f.name == "config" for f in own):
        given.append("[--config.FIELD=VALUE ...]")
    call = " ".join([_named(f"python {_relative(script)}"), *given, "[flags]"])
    lines = [_wrapped(_named(summary), width), _head("Usage"), _filled(call, width, "  ", "      ")]
    for title, members in parts.items():
        if members:
            lines.append(_head(title))
            lines += [_line(f, width, show_default=f not in required) for f in members]
    lines.append(_head("Common options"))
    lines += [_line(defined[name], width, show_default=False) for name in common]
    lines.append(_entry("--help", "Show this text.", width))
    if examples:
        lines += [_head("Examples"), *(f"  {_named(e)}" for e in examples)]
    if paragraphs:
        lines += ["", "\n\n".join(_wrapped(_named(p), width) for p in paragraphs)]
    return "\n".join(lines)


def _named(text: str) -> str:
    """The text with commands in the user's form: "music-map train" if this command was called as `music-map JOB`."""
    if "music_map.cli.jobs" not in sys.modules:  # it is only imported if the command was called by that form
        return text
    return re.sub(r"(?:python )?launch/(\w+)\.py", lambda match: f"music-map {match[1].replace('_', '-')}", text)


def _relative(script: str) -> str:
    path = Path(script)
    return "/".join(path.parts[-2:]) if path.parent.name == "launch" else script


def _filled(words: str, width: int, first: str = "", later: str = "") -> str:
    return textwrap.fill(
        words, width, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


def _wrapped(paragraph: str, width: int) -> str:
    # A table or a list keeps its lines.
    return paragraph if re.search(r"\n\s|  +\S", paragraph) else _filled(" ".join(paragraph.split()), width)


def _head(title: str) -> str:
    return "\n" + style(f"{title}:", "bold", sys.stdout)


def _form(flag: flags.Flag) -> str:
    """The flag as typed, with a placeholder for its value."""
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
    return _entry(_form(flag), _named(told), width)


def _entry(form: str, told: str, width: int) -> str:
    head, margin = f"  {form}", " " * _INDENT
    fill = _filled(told, width, margin, margin)
    return f"{head}\n{fill}" if len(head) + 2 > _INDENT else head + fill[len(head) :]
