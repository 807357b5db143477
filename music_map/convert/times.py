"""Times of a log as seconds: what all of a file's values say they are, and the SQL that reads them."""

from __future__ import annotations

import difflib
from typing import NamedTuple

import duckdb

from music_map.convert.settings import ColumnMapping
from music_map.errors import UserError

# Seconds of the year 5138 are milliseconds of 1973: between the units lie three powers of ten.
_UNITS = {"s": (0.0, 1e11, 1), "ms": (1e11, 1e14, 10**3), "us": (1e14, 1e17, 10**6), "ns": (1e17, 1e19, 10**9)}
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_NAIVE = _DAY + r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?)?"
_ZONED = _DAY + r"[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)? ?([Zz]|UTC|GMT|[+-][0-9]{2}(:?[0-9]{2})?)"
# Dates written without separators look like numbers: by their length, the format and the part of it that is optional.
_COMPACT = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_COMPACT_REGEX = (
    r"(19|20)[0-9]{2}((0[1-9]|1[0-2])((0[1-9]|[12][0-9]|3[01])(([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9])?)?)?)?)?"
)
_EXCEL_EPOCH = 25569  # days from 30 December 1899 to 1970
# Names that are no IANA zones and have one meaning in mail headers (RFC 2822) or European time: hours from UTC.
_NAMED = {
    "UT": 0, "Z": 0, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7,
    "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3,
}  # fmt: skip
# Of a file's values, those that must agree on what they are.
_MOST = 0.9


class Times(NamedTuple):
    """How the times of a file are read.

    Attributes:
      sql: an expression of the columns "time" and time_number, its `number`, whose value is whole seconds since 1970,
        null where there is none.
      rule: what a good value is.
      note: a remark on what was concluded.
    """

    sql: str
    rule: str
    note: str | None = None


def literal(text: str) -> str:
    """A string as SQL."""
    return "'" + text.replace("'", "''") + "'"


def number(column: str) -> str:
    """SQL, the value of a column that is a number, else null."""
    value = f'try_cast("{column}" as double)'
    # To the engine "1_000", "nan" and "inf" are numbers, too.
    return f"(case when isfinite({value}) and not contains(\"{column}\", '_') then {value} end)"


def judge(con: duckdb.DuckDBPyConnection, mapping: ColumnMapping, rows: str, name: str, *, typed: bool) -> Times:
    """Judges the times of a file by all of its rows.

    Args:
      con: the engine.
      mapping: the unit, format and zone that were given.
      rows: SQL, the rows of the file that count.
      name: file and column, for errors.
      typed: the column's own type said that it is a time.

    Raises:
      UserError: the values can mean several things; the message says which flag tells.
    """
    if typed:
        return Times(*_iso(mapping))
    if mapping.time_format is not None:
        return Times(*_formatted(con, mapping, rows, name))
    known = f"""select nullif("time", '') as v from ({rows})"""
    bands = ", ".join(f"count_if(d >= {low} and d < {high})" for low, high, _ in _UNITS.values())
    lengths = ", ".join(f"count_if(c and len = {n})" for n in (4, 6, *_COMPACT))
    count, numbers, dates, excel, low, high, *counts = con.execute(f"""
        with known as ({known}),
          parsed as (
            select v, length(v) as len,
              {number("v")} as d,
              v >= '19' and v < '21' and regexp_full_match(v, {literal(_COMPACT_REGEX)}) as c
            from known where v is not null)
        select count(*), count(d), count_if(d is null and starts_with(substr(v, 5), '-')),
          count_if(d >= 20000 and d < 60000), min(d), max(d), {bands}, {lengths} from parsed
    """).fetchone()
    if mapping.time_unit != "auto":
        return Times(*_number(mapping.time_unit, auto=False))
    if not count or dates >= numbers:
        return Times(*_iso(mapping))
    of_unit, of_length = counts[: len(_UNITS)], dict(zip((4, 6, *_COMPACT), counts[len(_UNITS) :], strict=True))
    looks = next((n for n, found in of_length.items() if found >= _MOST * numbers), None)
    if looks in _COMPACT:
        sql, rule = _compact(mapping, looks)
        return Times(
            sql, rule, f"{name}: read as dates such as {high:.0f} = {_COMPACT[looks]} (--time_unit says otherwise)"
        )
    doubt = f"{name}: the times ({f'{low:.12g}'} to {f'{high:.12g}'}) may be "
    if looks is not None:
        raise UserError(
            f"{doubt}{'years' if looks == 4 else 'months'} or seconds; give "
            f"--time_format={'%Y' if looks == 4 else '%Y%m'} or --time_unit=s"
        )
    if excel >= _MOST * numbers:
        raise UserError(f"{doubt}Excel's days since 1900 or seconds; give --time_unit=excel or --time_unit=s")
    # Of units that are as frequent, the later one: its values are no small numbers of the other.
    unit = max(zip(of_unit, range(len(_UNITS)), _UNITS, strict=True))[2] if any(of_unit) else "s"
    return Times(*_number(unit, auto=True))


def check_zone(con: duckdb.DuckDBPyConnection, zone: str) -> None:
    """Raises UserError unless `zone` is an IANA name."""
    names = [name for (name,) in con.execute("select name from pg_timezone_names()").fetchall()]
    if zone not in names:
        near = difflib.get_close_matches(zone, names, 3, 0.3)
        raise UserError(f"--time_zone={zone}: no such IANA zone; {', '.join(near) or 'e.g. Europe/Lisbon'}")


def _seconds(timestamp: str) -> str:
    """Whole seconds of a timestamp (null before 1970)."""
    return f"(case when epoch_us({timestamp}) >= 0 then epoch_us({timestamp}) // 1000000 end)"


def _local(timestamp: str, zone: str) -> str:
    return timestamp if zone == "UTC" else f"timezone({literal(zone)}, {timestamp})"


def _iso(mapping: ColumnMapping) -> tuple[str, str]:
    point = "replace(\"time\", ',', '.')"
    # Zones in the forms that the engine casts.
    zoned = f"regexp_replace(regexp_replace({point}, ' ?(UTC|GMT|z)$', 'Z'), ' ([Z+-])', '\\1')"
    return (
        f"""(case
          when regexp_full_match("time", {literal(_NAIVE)})
            then {_seconds(_local(f"try_cast({point} as timestamp)", mapping.time_zone))}
          when regexp_full_match("time", {literal(_ZONED)}) then {_seconds(f"try_cast({zoned} as timestamptz)")}
        end)""",
        "a time such as 2026-05-01T12:00:00Z, from 1970 to 2106 (--time_format reads others)",
    )


def _compact(mapping: ColumnMapping, length: int) -> tuple[str, str]:
    told = f'case when length("time") = {length} then try_strptime("time", \'{_COMPACT[length]}\') end'
    return _seconds(_local(f"({told})", mapping.time_zone)), f"a date as {_COMPACT[length]}, as the other rows are"


def _number(unit: str, *, auto: bool) -> tuple[str, str]:
    value = "time_number"
    if unit == "excel":
        days = f"round(({value} - {_EXCEL_EPOCH}) * 86400)::bigint"
        return (
            f"(case when {value} >= {_EXCEL_EPOCH} and {value} < 80000 then {days} end)",
            "Excel's days, from 25569 (1970)",
        )
    low, high, factor = _UNITS[unit]
    # Beyond 2^53 a double does not hold every whole number.
    floored = f"floor({value} / {factor})"
    whole = (
        f'case when length("time") < 16 or contains("time", \'.\') then {floored} '
        f'else coalesce(try_cast("time" as ubigint) // {factor}, {floored}) end'
    )
    # In a unit that was only told by the other rows, a value of another unit would lie decades away.
    inside = f"{value} >= {low} and {value} < {high}" if auto else f"{value} >= 0 and {value} < {2**32 * factor}"
    told = ", as in most rows (--time_unit names another unit)" if auto else ""
    return f"(case when {inside} then ({whole})::bigint end)", f"a time in {unit} before the year 2106{told}"


def _formatted(con: duckdb.DuckDBPyConnection, mapping: ColumnMapping, rows: str, name: str) -> tuple[str, str]:
    wanted = mapping.time_format
    rule = f"a time written as {wanted}, from 1970 to 2106"
    words = wanted.split()
    try:
        if "%Z" not in wanted.replace("%%", ""):
            con.execute("select strptime('', ?) where false", [wanted]).fetchall()
            con.execute(f"select try_strptime('', {literal(wanted)})").fetchall()
            aware = "%z" in wanted.replace("%%", "")
            text = "regexp_replace(\"time\", 'Z$', '+0000')" if aware else '"time"'
            told = f"try_strptime({text}, {literal(wanted)})"
            return _seconds(told if aware else _local(told, mapping.time_zone)), rule
        if "%Z" not in words:
            raise UserError(f"--time_format={wanted}: %Z must stand between spaces; or write zones as +HH:MM (%z)")
        place = words.index("%Z")
        rest = literal(" ".join(words[:place] + words[place + 1 :]))
        con.execute(f"select try_strptime('', {rest})").fetchall()
    except duckdb.Error as e:
        cause = " ".join(str(e).split()).removeprefix("Invalid Input Error: ")[:200]
        raise UserError(f"--time_format={wanted}: is no format of times ({cause}); see strptime") from None
    parts = "string_split_regex(\"time\", '\\s+')"
    zone = f"{parts}[{place + 1}]"
    told = f"try_strptime(array_to_string(list_concat({parts}[:{place}], {parts}[{place + 2}:]), ' '), {rest})"
    iana = {found for (found,) in con.execute("select name from pg_timezone_names()").fetchall()}
    used = [
        found for (found,) in con.execute(f'select distinct {zone} from ({rows}) where "time" is not null').fetchall()
    ]
    cases = ""
    for found in used:
        if found in _NAMED:
            cases += f" when {literal(found)} then {_seconds(told)} - {_NAMED[found] * 3600}"
        elif found in iana and ("/" in found or found in ("UTC", "GMT")):
            cases += f" when {literal(found)} then {_seconds(_local(told, found))}"
    unknown = [found[:20] for found in used if found and f" when {literal(found)} " not in cases]
    if unknown:
        rule += f"; the zone {unknown[0]} has no one meaning: write +HH:MM (%z), an IANA name, or none (--time_zone)"
    return (f"(case {zone}{cases} end)" if cases else "null::bigint"), rule
