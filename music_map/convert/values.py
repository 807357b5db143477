"""What the columns of a row mean, as SQL over the table of rows (strings)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from music_map.convert.settings import IGNORED, SONGS, ColumnMapping
from music_map.convert.times import Times, literal, number
from music_map.raw.layout import EVENTS

# What a row is, by number.
KINDS = (*EVENTS, IGNORED, SONGS)
_LISTEN, _IGNORED, _SONG = KINDS.index("listens"), KINDS.index(IGNORED), KINDS.index(SONGS)
_YES, _NO = ("1", "1.0", "true", "t", "yes", "y"), ("0", "0.0", "false", "f", "no", "n")
_PERCENT = {"percent": 1.0, "fraction": 100.0, "stars": 20.0}
_PER_SECOND = {"seconds": 1, "milliseconds": 1000}
_LONGEST = 1000
_SHORT = f"an id of at most {_LONGEST:,} bytes"
_AT_LEAST_0 = "a number of at least 0"


class Judgement(NamedTuple):
    """How rows are judged.

    Attributes:
      query: SQL, of the table of rows: place (file and row), the kept columns, event (its kind; null where a row
        describes a song or its kind is not known), used (not to be ignored), seconds, chosen, length, played_value,
        percent, problem (the number of the first thing that is wrong), and good (used, and nothing is wrong).
      problems: (role, what a good value is) by number.
      times: files by how their times are read.
    """

    query: str
    problems: list[tuple[str, str]]
    times: Mapping[Times, Sequence[int]]

    @classmethod
    def of(cls, mapping: ColumnMapping, times: Mapping[Times, Sequence[int]], *, kept: Sequence[str]) -> Judgement:
        """The judgement of files whose times are read as `times` says; the columns `kept` stay as they are."""
        event = f"case when kind <> {_SONG} then kind end"
        if mapping.type:
            words = " ".join(f"when {literal(word)} then {KINDS.index(kind)}" for word, kind in mapping.types.items())
            event = f'case when kind = {_LISTEN} then case lower("type") {words} end when kind <> {_SONG} then kind end'
        used, listen = f"(event <> {_IGNORED})", f"(event = {_LISTEN})"
        seconds = " ".join(f"when file in ({_list(files)}) then {told.sql}" for told, files in times.items())
        duration = _number("duration") if mapping.duration else "null"
        length = f"coalesce({duration}, 0) / {_PER_SECOND[mapping.duration_unit]}"
        chosen, played, percent = "1", "100.0", "100.0"

        problems = [
            (
                f"event is null and kind <> {_SONG}",
                "type",
                f"one of {', '.join(mapping.types)} (--types=VALUE:KIND adds others)",
            ),
            *((f"{used} and {missing(mapping, role)}", role, "an id") for role in ("user", "item")),
            *((f'{used} and strlen("{role}") > {_LONGEST}', role, _SHORT) for role in ("user", "item")),
            (f"{used} and (seconds is null or seconds >= {2**32})", "time", "a time"),
        ]
        if mapping.organic:
            words = (f'lower("organic") in ({_list(map(literal, words))})' for words in (_YES, _NO))
            chosen = "case when {} then 1 when {} then 0 when {} then 1 end".format(*words, missing(mapping, "organic"))
            problems.append((f"{used} and ({chosen}) is null", "organic", "one of 1, true, yes, 0, false, no"))
        if mapping.duration:
            bad = f"{listen} and {duration} is null and not {missing(mapping, 'duration')}"
            problems.append((bad, "duration", _AT_LEAST_0))
        if mapping.played:
            played, per_second = _number("played"), _PER_SECOND.get(mapping.played_unit)
            problems.append((f"{listen} and played_value is null", "played", _AT_LEAST_0))
            if per_second is None:
                percent = f"played_value * {_PERCENT[mapping.played_unit]}"
            elif mapping.duration:
                percent = f"100.0 * (played_value / {per_second}) / nullif({length}, 0)"
                rule = f"above 0, as --played is in {mapping.played_unit}"
                problems.append((f"{listen} and {length} <= 0", "duration", rule))
            else:
                percent = f"case when played_value >= {mapping.played_threshold * per_second} then 100.0 else 0.0 end"

        wrong = " ".join(f"when {told} then {place}" for place, (told, _, _) in enumerate(problems))
        # One layer for each thing that others are made of: the engine computes a layer once.
        return cls(
            f"""select file::bigint << 40 | row as place, {_list(f'"{role}"' for role in kept)}, event, used, seconds,
              coalesce({chosen}, 1)::utinyint as chosen,
              (case when {listen} then least(round({length}), {2**32 - 1}) else 0 end)::uinteger as length,
              played_value, least(round(coalesce({percent}, 0)), {2**16 - 1})::usmallint as percent, problem,
              problem is null and coalesce(used, false) as good
            from (select *, event <> {_IGNORED} as used, case {wrong} end as problem
            from (select *, ({event})::utinyint as event, (case {seconds} end)::bigint as seconds,
              {played} as played_value
            from (select *, {number("time") if mapping.time else "null"} as time_number from rows)))""",
            [(role, rule) for _, role, rule in problems],
            times,
        )


def missing(mapping: ColumnMapping, column: str) -> str:
    """SQL, whether a column has no value."""
    return f'("{column}" is null or "{column}" in ({_list(map(literal, ("", *mapping.missing)))}))'


def _list(values: object) -> str:
    return ", ".join(map(str, values))


def _number(column: str) -> str:
    """A number of at least 0, null where there is none."""
    return f"(case when {number(column)} >= 0 then {number(column)} end)"
