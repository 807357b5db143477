"""Converts your own logs (CSV, TSV, JSON, Parquet), or an export by name, to the files that training reads.

    python launch/convert.py --input=plays.csv --output=data/own --user=user_id --item=track --time=played_at
    python launch/convert.py --input=plays.parquet --likes=likes.csv --output=data/own --user=u --item=t --time=ts
    python launch/convert.py --input=my.jsonl.gz --output=data/own --item=artist,title --time=at --user_value=me
    python launch/convert.py --preset=spotify --input=my_spotify_data --output=data/own

A column may be nested in another one (track.name). An input may be a pattern ('plays*.json') or a folder of Parquet
parts. Times are numbers (s, ms, us or ns since any moment, from all values of a file) or ISO 8601. Ids are numbers
or strings; strings are numbered, and the numbers are stored beside the events. Rows can be in any order. Errors name
file, column and row (from 0).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from launch import app
from music_map.convert.formats import FORMATS, files_of
from music_map.convert.presets import PRESETS, Import, unpacked
from music_map.convert.settings import (
    BAD_ROWS,
    DURATION_UNITS,
    EVENT_TYPES,
    PLAYED_UNITS,
    SONGS,
    TIME_UNITS,
    ColumnMapping,
)
from music_map.errors import UserError
from music_map.raw.layout import EVENTS
from music_map.text import size_text

_INPUT = flags.DEFINE_list("input", None, "Files of listens (of all events with --type).", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to fill: data.raw_dir of the configurations.", required=True)
_PRESET = flags.DEFINE_enum("preset", None, list(PRESETS.all()), "An export whose files and columns are known.")
_SIZE = flags.DEFINE_string("size", "own", "Name of the log: data.size of the configurations.")
_COLUMNS = {
    "user": flags.DEFINE_string("user", None, "Column of the user."),
    "item": flags.DEFINE_string("item", None, "Column of the song, or several that name it: artist,title."),
    "time": flags.DEFINE_string("time", None, "Column of the time."),
    "user_value": flags.DEFINE_string("user_value", None, "The user of all events, where there is no such column."),
}
_UNTIMED = flags.DEFINE_bool(
    "untimed",
    False,
    "The log has no times: each user's songs are taken in a random order, whose last part is held out.",
)

app.section("Other files")
_LIKES = flags.DEFINE_list("likes", [], "Files of likes: their columns of user, song and time.")
_DISLIKES = flags.DEFINE_list("dislikes", [], "Files of dislikes: the same columns.")
_UNLIKES = flags.DEFINE_list("unlikes", [], "Files of likes taken back: the same columns.")
_UNDISLIKES = flags.DEFINE_list("undislikes", [], "Files of dislikes taken back: the same columns.")
_SONGS = flags.DEFINE_list(
    "songs", [], "Files with one row for each song: --item and columns of names, artist or album."
)

app.section("Columns")
_COLUMNS |= {
    "time_unit": flags.DEFINE_enum(
        "time_unit", None, TIME_UNITS, "Unit of times that are numbers; by default all values tell it."
    ),
    "time_format": flags.DEFINE_string(
        "time_format", None, "strptime format of times, e.g. '%d/%m/%Y %H:%M'; else ISO 8601."
    ),
    "time_zone": flags.DEFINE_string("time_zone", None, "Zone of times without one: Europe/Lisbon; else UTC."),
    "played": flags.DEFINE_string("played", None, "Column of how much was played; without it, all of the song."),
    "played_unit": flags.DEFINE_enum(
        "played_unit", None, PLAYED_UNITS, "Unit of --played, by default percent; a whole song is fraction 1, stars 5."
    ),
    "played_threshold": flags.DEFINE_float(
        "played_threshold", None, "Seconds that count as a whole song where its length is unknown, e.g. 30."
    ),
    "duration": flags.DEFINE_string("duration", None, "Column of the song's length."),
    "duration_unit": flags.DEFINE_enum(
        "duration_unit", None, DURATION_UNITS, "Unit of --duration, by default seconds."
    ),
    "organic": flags.DEFINE_string("organic", None, "Column that is true where the user chose the song; else all did."),
    "type": flags.DEFINE_string("type", None, "Column of the kind of event: listen, like, dislike, unlike, undislike."),
    "artist": flags.DEFINE_string("artist", None, "Column of the song's artist; by default its name."),
    "album": flags.DEFINE_string("album", None, "Column of the song's album; by default its name."),
    "title": flags.DEFINE_string("title", None, "Column of the song's title."),
    "artist_name": flags.DEFINE_string("artist_name", None, "Column of the artist's name."),
    "album_name": flags.DEFINE_string("album_name", None, "Column of the album's name."),
    "genre": flags.DEFINE_string("genre", None, "Column of the song's genre."),
}
_COLUMNS["sittings"] = flags.DEFINE_float(
    "sittings",
    None,
    "Minutes of pause that end a sitting, e.g. 30: each counts as a user, for the log of one listener.",
)
_TYPES = flags.DEFINE_list("types", [], "What other values of --type mean, e.g. heart:like,skip:listen,view:ignore.")
_MISSING = flags.DEFINE_list("missing", None, "Ids that mean that there is none; by default NULL, NaN, None, ...")

app.section("Format of the files")
_FORMAT = flags.DEFINE_enum("format", None, list(FORMATS.all()), "Format of the files; by default told by their names.")
_DELIMITER = flags.DEFINE_string(
    "delimiter", None, "What separates the columns of a CSV; by default a comma, in .tsv a tab."
)
_HEADER = flags.DEFINE_list("header", [], "Names of the columns of a CSV that has no header line.")
_ENCODING = flags.DEFINE_string("encoding", None, "Encoding of text; by default UTF-8, or what a byte order mark says.")

app.section("What to do")
_COLUMNS["bad_rows"] = flags.DEFINE_enum(
    "bad_rows", None, BAD_ROWS, "At a row that cannot be read: stop, as by default, or skip and count it."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier conversion.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only read the first rows of each file, and say what would become of them."
)


def _types() -> dict[str, str]:
    types = {}
    for text in _TYPES.value:
        value, colon, kind = text.rpartition(":")
        if not colon:
            raise UserError(f"--types={text}: write VALUE:KIND, e.g. heart:like")
        types[value.strip().lower()] = EVENT_TYPES.get(kind.strip(), kind.strip())
    return types


def _import(paths: Sequence[Path]) -> Import:
    """The files and columns to read, from the preset, if one is given, and the flags."""
    found = PRESETS.find(_PRESET.value)(paths) if _PRESET.value else Import({"listens": paths}, {})
    columns = found.columns | {name: flag.value for name, flag in _COLUMNS.items() if flag.value is not None}
    if _UNTIMED.value:
        if _COLUMNS["time"].value is not None:
            raise UserError(
                f"--time={_COLUMNS['time'].value}: --untimed says that there are no times; give one of them"
            )
        columns["time"] = None
    if "item" not in columns:
        raise UserError("--item missing; give the name of a column, or --preset")
    if "time" not in columns:
        raise UserError("--time missing; give the name of a column, --untimed where there are no times, or --preset")
    if "user" not in columns and "user_value" not in columns:
        raise UserError("--user missing; give the column of the user, or --user_value=NAME where all events are of one")
    if _TYPES.value and "type" not in columns:
        raise UserError("--types: says what the values of a column mean; give --type=COLUMN")
    if _MISSING.value is not None:
        columns["missing"] = tuple(_MISSING.value)
    source = {
        "file_format": _FORMAT.value,
        "delimiter": _DELIMITER.value,
        "header": _HEADER.value,
        "encoding": _ENCODING.value,
    }
    given = {name: value for name, value in source.items() if value}
    inputs = dict(found.inputs)
    for kind, flag in zip((*EVENTS, SONGS), (None, _LIKES, _DISLIKES, _UNLIKES, _UNDISLIKES, _SONGS), strict=True):
        if flag is not None and flag.value:
            inputs[kind] = inputs.get(kind, []) + [app.path_of(text, kind) for text in flag.value]
    columns["types"] = EVENT_TYPES | columns.get("types", {}) | _types()
    return Import(inputs, {"user": None, **columns}, found.source | given, found.notes, found.words)


def main() -> int:
    paths = [app.path_of(text, "input") for text in _INPUT.value]
    if not _PRESET.value:
        return _convert(_import(paths), str)
    with unpacked(paths) as (files, named):
        return _convert(_import(files), named)


def _convert(found: Import, named: Callable[[str], str]) -> int:
    from music_map.convert.build import convert_logs, preview_logs
    from music_map.convert.summary import renamed

    raw_dir = app.path_of(_OUTPUT.value, "output")
    mapping = ColumnMapping(**found.columns)
    options = {"size": _SIZE.value, "overwrite": _OVERWRITE.value, "source": found.source}
    if _DRY_RUN.value:
        summary = preview_logs(found.inputs, raw_dir, mapping, **options)
        for path in (path for paths in found.inputs.values() for given in paths for path in files_of(given)):
            app.say(f"  {size_text(path.stat().st_size):>10}  {named(str(path))}")
        app.say("Their first rows:")
    else:
        summary = convert_logs(found.inputs, raw_dir, mapping, **options, progress=app.bar)
    notes = [named(note) for note in found.notes]
    summary = renamed(summary, lambda text: named(found.told(text)))
    app.say_conversion(summary, notes, raw_dir, _SIZE.value, dry_run=_DRY_RUN.value)
    return 0


if __name__ == "__main__":
    app.run(main)
