"""JSON: an object a line, or an array of objects, read element by element."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from music_map.convert.settings import SPAN
from music_map.convert.sources import Source, batches_of, open_bytes
from music_map.errors import UserError

# Numbers stay as they are written: 1.0 is no 1, and thousands of digits are no burden where nobody asked for them.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
_CHUNK = 1 << 20
_LONGEST = 64 << 20  # bytes of one element
_NAMED_ROWS = 100  # whose fields an error lists

Explode = Callable[[Any], Iterable[dict]]


def read_json(source: Source, *, within: str | None = None, explode: Explode | None = None) -> Iterator[pa.RecordBatch]:
    """Reads JSON lines, or an array of objects.

    Args:
      source: the file.
      within: the key whose array holds the objects, where the file is one object.
      explode: turns an object (or an array within the array) into rows; None: an object is one.
    """
    with open_bytes(source) as stream:
        try:
            yield from batches_of(_rows(source, stream, within, explode), source)
        except (pa.ArrowException, OSError, EOFError) as e:
            source.unreadable(e, "JSON")


def _rows(
    source: Source, stream: io.BufferedIOBase, within: str | None, explode: Explode | None
) -> Iterator[tuple[int, dict[str, str | None]]]:
    head = stream.peek(_CHUNK)[:_CHUNK].lstrip()
    objects = _array(source, stream, within) if within or head.startswith(b"[") else _lines(source, stream)
    seen: dict[str, None] = {}
    absent = set(source.names)
    getters = [(name, name.split(".")) for name in source.names]
    row = 0
    for number, value in objects:
        if not isinstance(value, dict) and not (explode and isinstance(value, list)):
            source.bad_row(number, "is no JSON object; write {...} a line, or an array of objects")
            continue
        for event in explode(value) if explode else (value,):
            if row < _NAMED_ROWS:
                seen.update(dict.fromkeys(event))
            found = {}
            try:
                for name, path in getters:
                    there, item = _get(event, name, path)
                    if there:
                        absent.discard(name)
                        found[name] = _text(item)
            except TypeError as e:
                source.bad_row(number, str(e), name)
                continue
            yield (row if explode else number), found
            row += 1
    if seen:
        source.require([*seen, *(name for name in source.names if name not in absent)])


def _get(event: dict, name: str, path: list[str]) -> tuple[bool, Any]:
    if name in event or len(path) == 1:
        return name in event, event.get(name)
    value: Any = event
    for key in path:
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return False, None
    return True, value


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    what = "an object" if isinstance(value, dict) else f"a {type(value).__name__}"
    raise TypeError(f"{what}; name a field in it (as in a.b), or write a number or a string")


def _lines(source: Source, stream: io.BufferedIOBase) -> Iterator[tuple[int, Any]]:
    row = 0
    for line in stream:
        if line.isspace():
            continue
        try:
            # What nobody asked for may be of another encoding.
            yield row, _DECODER.decode(line.decode(errors="surrogateescape").strip())
        except json.JSONDecodeError as e:
            source.bad_row(row, f"not valid JSON ({e.msg})")
        except RecursionError:
            source.bad_row(row, "JSON nested too deep")
        row += 1


def _array(source: Source, stream: io.BufferedIOBase, within: str | None) -> Iterator[tuple[int, Any]]:
    """The elements of an array, which is never whole in memory."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    text, at, row = "", 0, 0

    def more() -> bool:
        """Reads on; what has been taken goes."""
        nonlocal text, at
        read = stream.read(_CHUNK)
        text, at = text[at:] + decoder.decode(read, final=not read), 0
        return bool(read)

    def skip(marks: str) -> str:
        """The next character, after white space and `marks`; empty at the end."""
        nonlocal at
        while True:
            while at < len(text) and (text[at].isspace() or text[at] in marks):
                at += 1
            if at < len(text) or not more():
                return text[at : at + 1]

    if within:
        mark = json.dumps(within)
        while mark not in text and len(text) < _LONGEST and more():
            pass
        at = text.find(mark) + len(mark) if mark in text else len(text)
    if skip(":") != "[":
        raise UserError(f"{source.path}: has no array of {within or 'objects'}; give the file as it was exported")
    at += 1
    while (character := skip(",")) != "]":
        while True:
            try:
                value, end = _DECODER.raw_decode(text, at)
                # A number may go on in the next chunk.
                if end < len(text) or not more():
                    break
            except RecursionError:
                raise UserError(f"{source.path}, row {row}: JSON nested too deep; mend it") from None
            except json.JSONDecodeError as e:
                if not character or len(text) - at > _LONGEST or not more():
                    raise UserError(
                        f"{source.path}, row {row}: not valid JSON ({e.msg}), and what follows in the array cannot be "
                        "told apart; export the file again"
                    ) from None
        yield row, value
        at, row = end, row + 1


def read_pages(source: Source) -> Iterator[pa.RecordBatch]:
    """Reads an array of objects, or of pages, arrays of objects."""
    return read_json(source, explode=_of_page)


def read_scrobbles(source: Source) -> Iterator[pa.RecordBatch]:
    """Reads an object whose array "scrobbles" holds the rows, as lastfmstats.com writes it."""
    return read_json(source, within="scrobbles")


def _of_page(page: dict | list) -> Iterator[dict]:
    return (row for row in (page if isinstance(page, list) else [page]) if isinstance(row, dict))


def read_playlists(source: Source) -> Iterator[pa.RecordBatch]:
    """Reads a slice of the Million Playlist Dataset: a row a song of a playlist."""
    return read_json(source, within="playlists", explode=_songs)


def _songs(event: dict) -> Iterator[dict]:
    """The songs of a playlist. Its time is the place, stretched so that all playlists last as long."""
    if not isinstance(event, dict):
        return
    tracks = event.get("tracks") or []
    for place, track in enumerate(tracks):
        if isinstance(track, dict):
            yield {**track, "pid": event.get("pid"), "time": str(SPAN * place // len(tracks))}
