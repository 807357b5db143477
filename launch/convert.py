"""Converts own logs (CSV, TSV, JSON lines, Parquet) to the schema and layout that training reads.

    python launch/convert.py --input=plays.csv --output=data/own --user=user_id --item=track --time=played_at
    python launch/convert.py --input=plays.parquet --likes=likes.csv --output=data/own --user=u --item=t --time=ts
    python launch/convert.py --input=log.jsonl.gz --output=data/own --user=user --item=song --time=at --type=event

Times are numbers (s, ms, us or ns since any moment, told by the first value) or ISO 8601; ids are numbers or strings.
Strings are numbered, and the numbers kept in OUTPUT/flat/SIZE/user_ids.parquet and song_ids.parquet, which
launch/recommend.py --id_tables=OUTPUT/flat/SIZE reads. Rows need no order. Errors name file, column and row (from 0).
"""

import datetime
from pathlib import Path

from absl import flags

from launch import app
from music_map.convert.settings import (
    BAD_ROWS,
    DURATION_UNITS,
    EVENT_TYPES,
    FORMATS,
    PLAYED_UNITS,
    TIME_UNITS,
    ColumnMapping,
)
from music_map.errors import UserError

_INPUT = flags.DEFINE_list("input", None, "Files of listens (of all events with --type).", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to fill: data.raw_dir of the configurations.", required=True)
_USER = flags.DEFINE_string("user", None, "Column of the user.", required=True)
_ITEM = flags.DEFINE_string("item", None, "Column of the song.", required=True)
_TIME = flags.DEFINE_string("time", None, "Column of the time.", required=True)
_SIZE = flags.DEFINE_string("size", "own", "Name of the log: data.size of the configurations.")

app.section("Other events")
_LIKES = flags.DEFINE_list("likes", [], "Files of likes: their columns of user, song and time.")
_DISLIKES = flags.DEFINE_list("dislikes", [], "Files of dislikes: the same columns.")
_UNLIKES = flags.DEFINE_list("unlikes", [], "Files of likes taken back: the same columns.")
_UNDISLIKES = flags.DEFINE_list("undislikes", [], "Files of dislikes taken back: the same columns.")

app.section("Columns")
_TIME_UNIT = flags.DEFINE_enum("time_unit", "auto", TIME_UNITS, "Unit of times that are numbers.")
_TIME_FORMAT = flags.DEFINE_string(
    "time_format", None, "strptime format of times, e.g. '%d/%m/%Y %H:%M'; else ISO 8601."
)
_PLAYED = flags.DEFINE_string("played", None, "Column of how much was played; without it, all of the song.")
_PLAYED_UNIT = flags.DEFINE_enum(
    "played_unit", "percent", PLAYED_UNITS, "Unit of --played; fraction: 1 is a whole song."
)
_DURATION = flags.DEFINE_string("duration", None, "Column of the song's length.")
_DURATION_UNIT = flags.DEFINE_enum("duration_unit", "seconds", DURATION_UNITS, "Unit of --duration.")
_ORGANIC = flags.DEFINE_string("organic", None, "Column that is true where the user chose the song; else all did.")
_TYPE = flags.DEFINE_string("type", None, "Column of the kind of event: listen, like, dislike, unlike, undislike.")
_TYPES = flags.DEFINE_list("types", [], "What other values of --type mean, e.g. heart:like,skip:listen,view:ignore.")
_ARTIST = flags.DEFINE_string("artist", None, "Column of the song's artist.")
_ALBUM = flags.DEFINE_string("album", None, "Column of the song's album.")

app.section("Format of the files")
_FORMAT = flags.DEFINE_enum("format", None, sorted(set(FORMATS.values())), "Format of the files; by default by name.")
_DELIMITER = flags.DEFINE_string("delimiter", None, "Of a CSV; by default a comma, or a tab in .tsv.")
_HEADER = flags.DEFINE_list("header", [], "Names of the columns of a CSV that has no header line.")

app.section("What to do")
_BAD_ROWS = flags.DEFINE_enum("bad_rows", "stop", BAD_ROWS, "At a row that cannot be read: stop, or skip and count it.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier conversion.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only read the first rows of each file, and say what they become.")


def _types() -> dict[str, str]:
    types = dict(EVENT_TYPES)
    for text in _TYPES.value:
        value, colon, kind = text.rpartition(":")
        if not colon:
            raise UserError(f"--types={text}: write VALUE:KIND, e.g. heart:like")
        types[value.strip().lower()] = EVENT_TYPES.get(kind.strip(), kind.strip())
    return types


def _day(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def main() -> int:
    from music_map.convert.build import convert_logs, preview_logs

    raw_dir = app.path_of(_OUTPUT.value, "output")
    if _TYPES.value and _TYPE.value is None:
        raise UserError("--types: says what the values of a column mean; give --type=COLUMN")
    mapping = ColumnMapping(
        user=_USER.value,
        item=_ITEM.value,
        time=_TIME.value,
        played=_PLAYED.value,
        played_unit=_PLAYED_UNIT.value,
        duration=_DURATION.value,
        duration_unit=_DURATION_UNIT.value,
        organic=_ORGANIC.value,
        type=_TYPE.value,
        types=_types(),
        artist=_ARTIST.value,
        album=_ALBUM.value,
        time_unit=_TIME_UNIT.value,
        time_format=_TIME_FORMAT.value,
        bad_rows=_BAD_ROWS.value,
    )
    inputs = {
        "listens": _INPUT.value,
        "likes": _LIKES.value,
        "dislikes": _DISLIKES.value,
        "unlikes": _UNLIKES.value,
        "undislikes": _UNDISLIKES.value,
    }
    files = {kind: [app.path_of(text, "input") for text in paths] for kind, paths in inputs.items()}
    options = {
        "size": _SIZE.value,
        "overwrite": _OVERWRITE.value,
        "source": {"file_format": _FORMAT.value, "delimiter": _DELIMITER.value, "header": _HEADER.value},
    }
    if _DRY_RUN.value:
        summary = preview_logs(files, raw_dir, mapping, **options)
        for path in (path for paths in files.values() for path in paths):
            app.say(f"  {app.size_text(path.stat().st_size):>10}  {path}")
        app.say("Their first rows:")
    else:
        summary = convert_logs(files, raw_dir, mapping, **options, progress=app.bar)
    for kind, count in summary.events.items():
        app.say(f"{count:>14,} {kind}")
    app.say(f"{summary.num_users:>14,} users, {summary.num_items:,} songs")
    app.say(f"{_day(summary.first):>24} to {_day(summary.last)}")
    for count, what in ((summary.skipped, "rows skipped: they could not be read"), (summary.ignored, "rows ignored")):
        if count:
            app.say(f"{count:>14,} {what}")
    for column, path in summary.tables.items():
        app.say(f"{column} ids are no whole numbers and {'would be' if _DRY_RUN.value else 'were'} numbered: {path}")
    for note in summary.notes:
        app.warn(note)
    if _DRY_RUN.value:
        app.say(f"to write: {raw_dir / 'flat' / _SIZE.value}")
        return 0
    app.say("\nNow train:")
    app.say(
        f"python launch/train.py --config=configs/yambda.py --config.data.raw_dir={raw_dir} "
        f"--config.data.size={_SIZE.value} --workdir={Path('checkpoints') / _SIZE.value}"
    )
    return 0


if __name__ == "__main__":
    app.run(main)
