"""Judges, numbers, sorts and writes the rows of a log.

The rows go as strings into a table of DuckDB; what does not fit into its memory goes to the disk beside the result. The
engine reads no file by itself and has no access to others.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from music_map.convert.formats import FORMATS, format_of
from music_map.convert.parquet import as_text, is_list
from music_map.convert.settings import ROLES, SONG_ROLES, SONGS, SPAN, ColumnMapping
from music_map.convert.sources import ROW, Source
from music_map.convert.times import Times, check_zone, judge
from music_map.convert.values import KINDS, Judgement, literal, missing
from music_map.errors import UserError
from music_map.preprocess.present import far_times
from music_map.raw.layout import ID_TABLES
from music_map.raw.schema import EVENT_SCHEMAS, ITEM_SCHEMAS
from music_map.reporter import Progress
from music_map.sizes import LEAST, sizes_for

MAPPINGS = ("artist", "album")
MEMORY = "1GB"  # of the engine
_ROW_GROUP = 1 << 19
_HOUR = 3600
# A value that stands for a whole number: 1.0, as tables with gaps write integers.
_WHOLE = r"(-?[0-9]+)\.0*"


@dataclasses.dataclass
class Summary:
    """What a conversion has written.

    Attributes:
      events: rows by kind ("listens", ...), without those that are 0.
      num_users, num_items: distinct users and songs.
      first, last: seconds, of the earliest and the latest event.
      skipped: rows left out because they could not be read (bad_rows="skip").
      reasons: how many of those for what reason, with an example.
      ignored: rows of a type that is to be ignored.
      tables: id tables written, by column ("user", "item", "artist", "album").
      numbered: the columns whose ids are no whole numbers.
      few: the events that training needs of a user or a song, see `music_map.sizes`.
      rare_users, rare_items: users and songs with fewer, which training leaves out by default.
      notes: remarks on the data.
    """

    events: dict[str, int]
    num_users: int
    num_items: int
    first: int
    last: int
    skipped: int
    reasons: dict[str, int]
    ignored: int
    tables: dict[str, Path]
    numbered: list[str]
    few: int
    rare_users: int
    rare_items: int
    notes: list[str]


@dataclasses.dataclass
class _File:
    """A file that has been read: its number is its place in the list."""

    path: Path
    kind: str
    typed_time: bool = False


class Log:
    """The state of a conversion: the engine with the rows read so far, and counts."""

    def __init__(self, folder: Path, mapping: ColumnMapping, memory: str):
        self._folder, self._mapping = folder, mapping
        self._work = folder / "work"
        self._work.mkdir()
        self._con = _engine(self._work, folder, memory)
        check_zone(self._con, mapping.time_zone)
        self._roles = [role for role in ROLES if role == "user" or role in mapping.columns()]
        columns = ", ".join(f'"{role}" varchar' for role in self._roles)
        self._con.execute(f"create table rows (kind utinyint, file uinteger, row bigint, {columns})")
        self._files: list[_File] = []
        self._reasons: collections.Counter[str] = collections.Counter()
        self._examples: dict[str, str] = {}
        self._notes: list[str] = []

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(duckdb.Error):
            self._con.close()

    def _bad_row(
        self, path: Path, row: int, reason: str, column: str | None = None, *, count: int = 1, rule: str = ""
    ) -> None:
        """Raises UserError for a row that cannot be read, or counts it (`count` rows under `rule`)."""
        where = f"column {column}" if column else ""
        if self._mapping.bad_rows == "stop":
            place = f"{path}: {where}, row {row}" if where else f"{path}, row {row}"
            raise UserError(f"{place}: {reason}; mend it, or give --bad_rows=skip")
        told = ": ".join(filter(None, (where, rule or reason)))
        self._reasons[told] += count
        self._examples.setdefault(told, f"{path}, row {row}")

    def read(
        self,
        path: Path,
        kind: str,
        *,
        file_format: str | None = None,
        delimiter: str | None = None,
        header: Sequence[str] = (),
        encoding: str | None = None,
    ) -> Iterator[int]:
        """Takes in a file batch by batch; yields the number of rows of each."""
        mapping, columns = self._mapping, self._mapping.columns(kind)
        source = Source(
            path,
            [(role, name) for role, names in columns.items() for name in names],
            functools.partial(self._bad_row, path),
            delimiter,
            header,
            mapping.optional,
            encoding,
        )
        name = file_format or format_of(path)
        read = FORMATS.find(name).read
        file = _File(path, kind)
        self._files.append(file)
        for batch in read(source):
            taken = {}
            for role, names in columns.items():
                if role in MAPPINGS and len(names) == 1 and is_list(batch, names[0]):
                    batch = self._take_lists(file, batch, role, columns)
                parts = [self._text(file, batch, role, name) for name in names if name in batch.schema.names]
                if len(parts) == len(names):
                    taken[role] = parts[0] if len(parts) == 1 else self._joined(parts)
            if kind != SONGS and not mapping.user:
                taken["user"] = pa.repeat(pa.scalar(mapping.user_value), batch.num_rows)
            self._insert(kind, taken, batch.column(ROW))
            yield batch.num_rows

    def _take_lists(
        self, file: _File, batch: pa.RecordBatch, role: str, columns: Mapping[str, Sequence[str]]
    ) -> pa.RecordBatch:
        """Stores each pair of a song and one of its artists as a row that describes the song; returns the rest."""
        [name] = columns[role]
        place, lists = batch.schema.get_field_index(name), batch.column(name)
        parents, values = pc.list_parent_indices(lists), pc.list_flatten(lists)
        songs = [self._text(file, batch, "item", part).take(parents) for part in columns["item"]]
        item = songs[0] if len(songs) == 1 else self._joined(songs)
        artist = self._text(file, pa.record_batch([values], names=[name]), role, name)
        self._insert(SONGS, {"item": item, role: artist}, batch.column(ROW).take(parents))
        return batch.set_column(place, name, pa.nulls(batch.num_rows, pa.string()))

    def _text(self, file: _File, batch: pa.RecordBatch, role: str, name: str) -> pa.Array:
        column = batch.column(name)
        try:
            text, typed = as_text(column, role, self._mapping)
        except TypeError as e:
            raise UserError(f"{file.path}: column {name} is {column.type}: {e}") from None
        file.typed_time |= typed and role == "time"
        return text

    def _joined(self, parts: list[pa.Array]) -> pa.Array:
        """An id of several columns; none where one of them has none."""
        gone = pa.array(["", *self._mapping.missing])
        known = [pc.if_else(pc.is_in(part, gone), None, part) for part in parts]
        return pc.binary_join_element_wise(*known, " - ")

    def _insert(self, kind: str, columns: Mapping[str, pa.Array], rows: pa.Array) -> None:
        batch = pa.table({**columns, "row": rows})
        number = KINDS.index(kind)
        with _sql_errors(self._folder):
            self._con.register("batch", batch)
            names = ", ".join(f'"{role}"' for role in columns)
            self._con.execute(
                f"insert into rows (kind, file, row, {names}) "
                f"select {number}, {len(self._files) - 1}, row, {names} from batch"
            )
            self._con.unregister("batch")

    def finish(self, progress: Progress) -> Summary:
        """Judges, numbers, sorts and writes everything."""
        with _sql_errors(self._folder):
            return self._finish(progress)

    def _finish(self, progress: Progress) -> Summary:
        con, mapping = self._con, self._mapping
        times = self._times()
        kept = [role for role in self._roles if role in ("user", *SONG_ROLES)]
        values = Judgement.of(mapping, times, kept=kept)
        con.execute(f"create table judged as {values.query}")
        ignored, first, last, most_played = self._settle(values)
        events = {
            KINDS[kind]: count
            for kind, count in con.execute(
                "select event, count(*) from judged where good group by event order by event"
            ).fetchall()
        }
        if "listens" not in events:
            raise self._nothing()
        self._notes += self._far() + self._played_notes(most_played)
        con.execute("drop table rows")
        if mapping.time is None:
            self._notes.append(self._place_at_random())
        if mapping.sittings is not None:
            self._notes.append(self._cut_sittings(mapping.sittings))
        roles = ["user", *(role for role in ("item", *MAPPINGS) if role in mapping.columns())]
        counts = {role: self._number(role) for role in roles}
        numbered = [role for role, (_, whole) in counts.items() if not whole]
        tables: dict[str, Path] = {}
        with progress("sort and write", sum(events.values()), "row") as advance:
            for kind in events:
                self._write_events(kind, advance)
        for role in MAPPINGS:
            if role in counts:
                name = f"{role}_item_mapping"
                pairs = f"""select distinct g.number as {role}_id, i.number as item_id
                  from judged join ids_item i on i.raw = item join ids_{role} g on g.raw = "{role}"
                  where good or event is null order by all"""
                self._write(name, pairs, ITEM_SCHEMAS[name])
        for role in (role for role, (count, _) in counts.items() if count):
            if path := self._write_table(role, numbered):
                tables[role] = path
        few = self._least()
        reasons = {f"{reason} (the first: {self._examples[reason]})": n for reason, n in self._reasons.most_common()}
        summary = Summary(
            events,
            counts["user"][0],
            counts["item"][0],
            first,
            last,
            sum(self._reasons.values()),
            reasons,
            ignored,
            tables,
            numbered,
            few,
            self._rare("user", few),
            self._rare("item", few),
            self._notes,
        )
        con.close()
        _empty(self._work)
        return summary

    def _nothing(self) -> UserError:
        """What to say of files without a listen."""
        name = str(self._files[0].path) if len(self._files) == 1 else "the input"
        if not self._reasons:
            return UserError(f"{name}: holds no listens, nothing to learn from; check the file (and --type, --types)")
        [(reason, count)] = self._reasons.most_common(1)
        return UserError(
            f"{name}: holds no listens, nothing to learn from; rows skipped: {sum(self._reasons.values()):,}, of them "
            f"{count:,} for this reason: {reason} (the first: {self._examples[reason]})"
        )

    def _place_at_random(self) -> str:
        """Gives each user's events places in a random order as times; returns a remark."""
        # The order depends on user and song alone. One of the songs alone would hold out the same songs for all users,
        # which nobody then has heard before.
        self._con.execute(
            f"""create or replace table judged as select * replace (
              case when good then {SPAN} * (row_number() over (partition by "user", good
                order by md5("user" || ' ' || item), place) - 1) // count(*) over (partition by "user", good)
                else seconds end as seconds) from judged"""
        )
        return "no times: each user's songs are taken in a random order, whose last part is held out"

    def _cut_sittings(self, minutes: float) -> str:
        """Makes each sitting a user, whose times are places in it; returns a remark."""
        listeners = self._con.execute('select count(distinct "user") from judged where good').fetchone()[0]
        order = 'partition by "user", good order by seconds, place'
        self._con.execute(
            f"""create or replace table judged as
            select * exclude (before, sitting, begins) replace (
              case when good then "user" || ' ' || strftime(make_timestamp(begins * 1000000), '%Y-%m-%d %H:%M:%S')
                else "user" end as "user",
              case when good then {SPAN} * (row_number() over (partition by "user", sitting, good
                order by seconds, place) - 1) // count(*) over (partition by "user", sitting, good)
                else seconds end as seconds)
            from (select *, min(seconds) over (partition by "user", good, sitting) as begins
            from (select *, count_if(before is null or seconds - before > {60 * minutes}) over ({order}) as sitting
            from (select *, lag(seconds) over ({order}) as before from judged)))"""
        )
        sittings = self._con.execute('select count(distinct "user") from judged where good').fetchone()[0]
        return (
            f"each of {sittings:,} sittings (a pause of {minutes:g} minutes ends one) of {listeners:,} "
            f"listener{'s' if listeners > 1 else ''} counts as a user; its last songs are held out"
        )

    def _least(self) -> int:
        """The interactions that training needs of users and songs."""
        counts = ", ".join(f"count_if(fewer >= {least})" for least in LEAST)
        of = {role: f"select raw, sum(n) over (partition by number) as n from ids_{role}" for role in ("user", "item")}
        *kept, total = self._con.execute(
            f"""select {counts}, count(*) from (select least(u.n, i.n) as fewer from judged
              join ({of["user"]}) u on u.raw = "user" join ({of["item"]}) i on i.raw = item where good)"""
        ).fetchone()
        return sizes_for(kept, total).min_interactions

    def _rare(self, role: str, few: int) -> int:
        events = f"select sum(n) as events from ids_{role} group by number"
        return self._con.execute(f"select count_if(events < {few}) from ({events})").fetchone()[0]

    def _times(self) -> dict[Times, list[int]]:
        """The files by how their times are read."""
        if self._mapping.time is None:
            return {Times("0", "a time"): list(range(len(self._files)))}
        found: dict[Times, list[int]] = {}
        for number, file in enumerate(self._files):
            if file.kind == SONGS:
                continue
            name = f"{file.path}: column {self._mapping.time}"
            rows = f"select * from rows where file = {number}"
            told = judge(self._con, self._mapping, rows, name, typed=file.typed_time)
            if told._replace(note=None) not in found and told.note:
                self._notes.append(told.note)
            found.setdefault(told._replace(note=None), []).append(number)
        return found

    def _settle(self, values: Judgement) -> tuple[int, int, int, float]:
        """Counts rows, and raises UserError for the first bad one, or counts those."""
        ignored, bad, first, last, most = self._con.execute(
            """select count_if(not used and problem is null), count_if(problem is not null),
              min(seconds) filter (good), max(seconds) filter (good), max(played_value) filter (good) from judged"""
        ).fetchone()
        if bad:
            for problem, count, file, row in self._con.execute(
                """select problem, count(*), min(place) >> 40, min(place) & 1099511627775
                from judged where problem is not null group by problem order by min(place)"""
            ).fetchall():
                role, rule = values.problems[problem]
                name = ",".join(self._mapping.columns().get(role, [role]))
                value = self._con.execute(
                    f'select "{role}" from rows where file = ? and row = ? limit 1', [file, row]
                ).fetchone()[0]
                path = self._files[file].path
                told = "empty" if value in (None, "") else repr(value[:60])
                if role == "time":
                    rule = next(t.rule for t, files in values.times.items() if file in files)
                self._bad_row(path, row, f"{told}; it must be {rule}", name, count=count, rule=f"must be {rule}")
        return ignored or 0, first or 0, last or 0, most or 0.0

    def _number(self, role: str) -> tuple[int, bool]:
        """Makes the table ids_ROLE (raw, id, number); returns the number of ids and whether they are whole numbers."""
        con = self._con
        rows = "good or event is null" if role in MAPPINGS else "good"
        con.execute(
            f"""create table seen as select "{role}" as raw, count(*) as n from judged where {rows} group by raw;
            delete from seen where {missing(self._mapping, "raw")};
            create table ids_{role} as select raw, n, raw as id, 0::ubigint as number from seen; drop table seen"""
        )
        # Integers that were written as floats (1.0 beside 1) are the integers, where ids are mostly numbers.
        con.execute(
            f"""update ids_{role} set id = regexp_extract(raw, {literal(_WHOLE)}, 1)
            where regexp_full_match(raw, {literal(_WHOLE)}) and
              (select count_if(regexp_full_match(raw, '-?[0-9]+([.]0*)?')) * 2 > count(*) from ids_{role})"""
        )
        raw, count, whole = con.execute(
            f"""select count(*), count(distinct id), coalesce(bool_and(
              regexp_full_match(id, '0|[1-9][0-9]{{0,9}}') and try_cast(id as ubigint) <= 4294967295), true)
            from ids_{role}"""
        ).fetchone()
        if raw > count:
            self._notes.append(
                f"{raw - count:,} ids of --{role} are written both as 1 and as 1.0, say: they count as one"
            )
        if count > 2**32:
            raise UserError(f"{count} different ids: at most 4294967296 can be numbered")
        number = "id::ubigint" if whole else "dense_rank() over (order by id) - 1"
        con.execute(
            f"create or replace table ids_{role} as select raw, n, id, ({number})::uinteger as number from ids_{role}"
        )
        return count, whole

    def _write_events(self, kind: str, advance: Callable[[int], object]) -> None:
        names = {
            "uid": "u.number",
            "timestamp": "seconds",
            "item_id": "i.number",
            "is_organic": "chosen",
            "played_ratio_pct": "percent",
            "track_length_seconds": "length",
        }
        columns = ", ".join(f"{names[column]} as {column}" for column in EVENT_SCHEMAS[kind].names)
        rows = f"""select {columns} from judged join ids_user u on u.raw = "user" join ids_item i on i.raw = item
          where good and event = {KINDS.index(kind)} order by u.number::ubigint << 32 | seconds::ubigint, place"""
        self._write(kind, rows, EVENT_SCHEMAS[kind], advance)

    def _write(self, name: str, query: str, schema: pa.Schema, advance: Callable[[int], object] | None = None) -> Path:
        """Writes the rows of a query, batch by batch."""
        path = self._folder / f"{name}.parquet"
        # A dictionary of times would be nearly as long as the column.
        repeating = [column for column in schema.names if column != "timestamp"]
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repeating) as writer:
            for batch in self._con.sql(query).to_arrow_reader(_ROW_GROUP):
                writer.write_table(pa.Table.from_batches([batch]).cast(schema))
                if advance:
                    advance(batch.num_rows)
        return path

    def _write_table(self, role: str, numbered: list[str]) -> Path | None:
        """Writes the table of numbers, ids and names, where there is anything to tell."""
        columns = self._mapping.columns()
        names = {"item": {"title": "title", "artist_name": "artist", "album_name": "album", "genre": "genre"}}.get(
            role, {}
        )
        names = names or ({f"{role}_name": "name"} if role in MAPPINGS else {})
        names = {given: name for given, name in names.items() if given in columns}
        if role not in numbered and not names:
            return None
        joins, select = "", "number, id"
        for given, name in names.items():
            # The most frequent name; of several as frequent, the first by alphabet.
            joins += f""" left join (select number, arg_min(name, (-n, name)) as "{name}" from (
                select number, "{given}" as name, count(*) as n from judged join ids_{role} on raw = "{role}"
                where "{given}" <> '' and (good or event is null) group by all) group by number) using (number)"""
            select += f', "{name}"'
        fields = [("number", pa.uint32()), ("id", pa.string()), *((name, pa.string()) for name in names.values())]
        rows = f"select {select} from (select distinct number, id from ids_{role}){joins} order by number"
        return self._write(ID_TABLES[role], rows, pa.schema(fields))

    def _far(self) -> list[str]:
        """A warning where a few times lie far from all others."""
        hours, counts = (
            np.array(column, np.int64)
            for column in self._con.execute(
                f"select seconds // {_HOUR} as hour, count(*) as n from judged where good group by hour order by hour"
            )
            .fetchnumpy()
            .values()
        )
        found = far_times(hours * _HOUR, counts)
        notes = []
        for side, count, edge in (("before", found.num_early, found.first), ("after", found.num_late, found.last)):
            if count:
                aim = "min" if side == "before" else "max"
                file, row, value = self._con.execute(
                    f"""select file, row, "time" from rows where file::bigint << 40 | row =
                      (select arg_{aim}(place, seconds) from judged where good) limit 1"""
                ).fetchone()
                day = np.datetime64(int(edge), "s").astype("datetime64[D]")
                notes.append(
                    f"column {self._mapping.time}: {count:,} of {counts.sum():,} times lie far {side} all others "
                    f"({day}), such as {value[:40]!r} in {self._files[file].path}, row {row}; are they right? "
                    "The split and the recency depend on them"
                )
        return notes

    def _played_notes(self, most: float) -> list[str]:
        mapping = self._mapping
        if mapping.played is None or mapping.played_unit != "percent":
            return []
        if most <= 1:
            return [
                f"column {mapping.played} is nowhere above 1, read as percent; if 1 is a whole song, convert again "
                "with --played_unit=fraction"
            ]
        if most > 1000:
            return [
                f"column {mapping.played} goes up to {most:,.0f}, which is no percent; if it is a time, convert again "
                "with --played_unit=milliseconds or seconds"
            ]
        return []


def _engine(work: Path, folder: Path, memory: str) -> duckdb.DuckDBPyConnection:
    """An engine that sees one folder, loads nothing and spills there."""
    settings = {
        "memory_limit": memory,
        "temp_directory": str(work),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "preserve_insertion_order": False,
    }
    con = duckdb.connect(":memory:", config=settings)
    con.execute(
        f"set allowed_directories = [{literal(str(folder))}]; set enable_external_access = false; "
        "set TimeZone = 'UTC'; set enable_progress_bar = false; set lock_configuration = true"
    )
    return con


@contextlib.contextmanager
def _sql_errors(folder: Path) -> Iterator[None]:
    """A full disk or memory that does not suffice, as one line."""
    try:
        yield
    except RuntimeError as e:
        # What a query makes of Ctrl-C.
        if "interrupt" in str(e).lower():
            raise KeyboardInterrupt from None
        raise
    except (duckdb.IOException, duckdb.OutOfMemoryException) as e:
        raise UserError(f"{folder}: no space left on the disk or in memory ({' '.join(str(e).split())[:200]})") from e


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
