"""Ids and queries in text: on a command line, in the lines of a file, as JSON.

Lines of a file end at "\\n" only: an id may hold any other character, such as U+2028.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from music_map.errors import UserError
from music_map.ids import Ids
from music_map.retrieval.plays import Play, plays_of
from music_map.storage import strict_json

# An id with more commas than this is read as several ids, unless it is the whole text.
_MOST_COMMAS = 16


class WrittenQuery(NamedTuple):
    """A query as written: ids are not looked up yet, and may be of any type.

    Attributes:
      songs, dislikes: ids.
      user: an id, or None.
      ordered: whether the order of the songs means something.
      history: entries as `music_map.retrieval.plays.plays_of` takes them.
      now: seconds, or None.
    """

    songs: tuple[Any, ...] = ()
    user: Any = None
    dislikes: tuple[Any, ...] = ()
    ordered: bool = True
    history: tuple[Any, ...] = ()
    now: int | None = None


def parse_ids(text: str, ids: Ids) -> list[str]:
    """The ids or names of songs in a text, separated by commas.

    They may contain commas. From left to right, the longest stretch up to a comma that is a known id is taken: as
    written, without spaces around it, or as a quoted field of CSV ('"12"" mix"' is 12" mix). Else a quoted field is one
    unknown id, and otherwise the piece up to the next comma is. Empty pieces are left out. Names count like ids where
    the text is not made of known ids alone.

    Args:
      text: e.g. "1,2,3" or "Hello, Goodbye,song 030".
      ids: the known ids.
    """
    found = _parsed(text, lambda form: ids.index_of(form) >= 0)
    if ids.named and (ids.indices(found) < 0).any():
        found = _parsed(text, lambda form: ids.index_of(form) >= 0 or (form == form.strip() and bool(ids.find(form))))
    return found


def _parsed(text: str, is_known: Callable[[str], bool]) -> list[str]:
    pieces, found, start = text.split(","), [], 0
    while start < len(pieces):
        ends = list(range(min(len(pieces), start + _MOST_COMMAS + 1), start, -1))
        if start == 0 and ends[0] != len(pieces):
            ends.insert(0, len(pieces))
        stretches = [(",".join(pieces[start:end]), end) for end in ends]
        known = ((_first(stretch, is_known), end) for stretch, end in stretches)
        quoted = ((_unquoted(stretch.strip()), end) for stretch, end in reversed(stretches))
        value, start = (
            next(((value, end) for value, end in known if value is not None), None)
            or next(((value, end) for value, end in quoted if value is not None), None)
            or (pieces[start].strip(), start + 1)
        )
        if value:
            found.append(value)
    return found


def as_known(text: str, ids: Ids) -> str | None:
    """The known id that a text is: as written, without spaces around it, or without quotes; None if there is none."""
    return _first(text, lambda form: ids.index_of(form) >= 0)


def _first(text: str, is_known: Callable[[str], bool]) -> str | None:
    stripped = text.strip()
    forms = (text, stripped, _unquoted(stripped))
    return next((form for form in forms if form and is_known(form)), None)


def _unquoted(text: str) -> str | None:
    """The content of a quoted field of CSV; None for other texts."""
    inner = text[1:-1]
    if len(text) < 2 or text[0] != '"' or text[-1] != '"' or '"' in inner.replace('""', ""):
        return None
    return inner.replace('""', '"')


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a UTF-8 text file that are not blank, with their numbers from 1.

    Raises:
      UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else f"byte {e.start} is no UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}); give a text file in UTF-8") from e
    lines = ((number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in lines if line.strip()]


def read_id_file(path: Path, ids: Ids) -> list[str]:
    """The ids in a file, one a line; unknown ones stay as they are, without spaces around them.

    A line may also be the name of songs: all of them are meant.

    Raises:
      UserError: the file cannot be read.
    """
    found = []
    for _, line in read_lines(path):
        known = as_known(line, ids)
        named = ids.find(line) if known is None and ids.named else []
        found += [str(ids.label(at)) for at in named] or [line.strip() if known is None else known]
    return found


def read_history(path: Path) -> tuple[Play, ...]:
    """A history from a file: CSV with a header, or JSON lines, each an entry as `plays.plays_of` takes it.

    Args:
      path: a CSV file has the columns song, time, played and kind, of which only song must be there; an empty field is
        an absent one.

    Raises:
      UserError: the file cannot be read, or an entry is wrong; names its line.
    """
    lines = read_lines(path)
    if path.suffix.lower() != ".csv":
        return _plays_at(path, [(number, _json_of(line, path, number)) for number, line in lines])
    rows = csv.reader((line for _, line in lines), strict=True)
    try:
        head = next(rows, [])
        if unknown := [name for name in head if name not in Play._fields]:
            raise UserError(f"{path}: unknown column {unknown[0]!r}; columns are {', '.join(Play._fields)}")
        if "song" not in head:
            raise UserError(f"{path}: no column song; columns are {', '.join(Play._fields)}")
        found = [(lines[rows.line_num - 1][0], _of_texts(head, row)) for row in rows]
    except csv.Error as e:
        raise UserError(f"{path}: not valid CSV ({e})") from e
    return _plays_at(path, found)


def _json_of(line: str, path: Path, number: int) -> Any:
    try:
        return strict_json(line)
    except ValueError as e:
        raise UserError(f"{path}, line {number}: not valid JSON ({e})") from e


def _of_texts(head: list[str], row: list[str]) -> Any:
    """A row of CSV as an entry; a text that is no number stays one, to be refused with its entry."""
    if len(row) != len(head):
        return None
    entry: dict[str, Any] = {name: text for name, text in zip(head, row, strict=True) if text or name == "song"}
    for name, kind in (("time", int), ("played", float)):
        if name in entry:
            with contextlib.suppress(ValueError):
                entry[name] = kind(entry[name])
    return entry


def _plays_at(path: Path, entries: list[tuple[int, Any]]) -> tuple[Play, ...]:
    try:
        return plays_of([entry for _, entry in entries])
    except UserError as e:
        place = re.match(r"history\[(\d+)\](.*)", str(e), re.DOTALL)
        where = f"{path}, line {entries[int(place[1])][0]}{place[2]}" if place else f"{path}: {e}"
        raise UserError(where) from e


def parse_query_line(line: str, songs: Ids) -> WrittenQuery:
    """A line of a file of queries: song ids separated by commas, or a JSON object with fields of WrittenQuery.

    Args:
      line: the line.
      songs: the known songs, see `parse_ids`.

    Raises:
      UserError: the line starts with "{", but is neither such an object nor a known song. The message does not name
        the line.
    """
    if not line.lstrip().startswith("{") or as_known(line, songs) is not None:
        return WrittenQuery(tuple(parse_ids(line, songs)))
    try:
        value = strict_json(line)
    except ValueError as e:
        raise UserError(f"not valid JSON ({e})") from e
    fields = WrittenQuery._fields
    if unknown := sorted(value.keys() - set(fields)):
        raise UserError(f"unknown field {unknown[0]!r}; fields are {', '.join(fields)}")
    for name in ("songs", "dislikes", "history"):
        if not isinstance(value.get(name, []), list):
            raise UserError(f"{name} must be a list of {'entries' if name == 'history' else 'ids'}")
        if name in value:
            value[name] = tuple(value[name])
    if not isinstance(value.get("ordered", True), bool):
        raise UserError("ordered must be true or false")
    if not isinstance(value.get("now"), int | None) or isinstance(value.get("now"), bool):
        raise UserError("now must be whole seconds, or null")
    return WrittenQuery(**value)
