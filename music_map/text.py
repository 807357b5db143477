"""Makes foreign text (ids, names, paths) safe to print, and tables of it."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

# Control characters can move a terminal's cursor or set its title, bidirectional controls reorder the text, line
# separators break a table's row, and a lone surrogate cannot be encoded. Joiners stay: scripts and emoji need them.
_UNSAFE = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[{_UNSAFE}]")


def printable(text: str) -> str:
    r"""The text on one line, with control characters written as escapes: "\x1b" for the escape character.

    Args:
      text: any string.

    Returns:
      The text; control characters, line ends and lone surrogates as in Python's string literals.
    """
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def shortened(text: str, width: int) -> str:
    """`printable` in at most `width` characters; the end of a longer text is replaced by "…"."""
    text = printable(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def printable_lines(text: str) -> str:
    r"""`printable` of each line; lines end at "\n" alone."""
    return "\n".join(printable(line) for line in text.split("\n"))


def counted(count: int, what: str) -> str:
    """A number of things in words: "1 song", "2,000 songs"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def size_text(size: int) -> str:
    """Bytes in a suitable unit: "3.1 MB"."""
    power = next((n for n in range(4) if size < 1000 ** (n + 1)), 4)
    return f"{size:,} B" if power == 0 else f"{size / 1000**power:,.1f} {'kMGT'[power - 1]}B"


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(os.path.getsize(Path(root) / name) for root, _, names in os.walk(folder) for name in names)


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for notebooks; the first cell of a row is its name, the others are right-aligned. Text is escaped."""

    def line(cells: Sequence[str], tag: str) -> str:
        first, *others = (html.escape(printable(cell)) for cell in cells)
        aligned = "".join(f'<{tag} style="text-align: right">{cell}</{tag}>' for cell in others)
        return f'<tr><th style="text-align: left">{first}</th>{aligned}</tr>'

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
