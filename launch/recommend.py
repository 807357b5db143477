"""Recommends songs for one song, a playlist or a user, with the reasons; for a file of queries; for every user.

python launch/recommend.py --workdir=checkpoints/demo --songs=123,456 --k=10 --format=table
python launch/recommend.py --workdir=checkpoints/demo --songs="Artist - Title" --output=more.m3u8
python launch/recommend.py --workdir=checkpoints/demo --playlist=party.m3u8 --k=20 --output=more.jspf
python launch/recommend.py --workdir=checkpoints/demo --songs=123 --user=42 --dislikes=7 --format=json
python launch/recommend.py --workdir=checkpoints/demo --user=42 --heard=false --max_per_artist=2 --diversity=0.3
python launch/recommend.py --workdir=checkpoints/demo --history=plays.csv
python launch/recommend.py --workdir=checkpoints/demo --batch=queries.jsonl --output=answers.jsonl
python launch/recommend.py --workdir=checkpoints/demo --all_users --k=20 --output=recommendations.parquet

A user without songs is recommended what fits now: the latest songs, familiar songs and trends of all logs count.
A history is what somebody played whom the model has never seen or, with --user, since the logs end: a CSV file with the
columns song,time,played,kind, or JSON lines such as {"song": 1, "time": 1700000000, "played": 0.9, "kind": "listen"}.
A batch is a query a line: song ids separated by commas, or JSON such as {"songs": [1, 2], "user": 3, "dislikes": [4]}
or {"history": [{"song": 1, "time": 1700000000}]}.
Every user's songs go to Parquet (uid, rank, item_id, score); the same command goes on after a stop.
Songs are given by their ids in the logs, numbers or texts, or by name ("Artist - Title" or the title), where the logs
have names; unknown ones are named, several songs of one name are listed, and the rest is answered. --playlist reads
.m3u, .m3u8, .jspf, .csv and .txt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from absl import flags

from launch import app
from music_map.errors import UserError
from music_map.retrieval.filters import FILTERS

if TYPE_CHECKING:
    from music_map import Recommender
    from music_map.retrieval.answers import Answer, Query
    from music_map.retrieval.filters import Filters

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_SONGS = flags.DEFINE_string("songs", "", "Ids or names of songs, separated by commas, the latest last.")
_PLAYLIST = flags.DEFINE_string("playlist", None, "A playlist file in place of --songs, or before them.")
_USER = flags.DEFINE_string("user", None, "Id of a user: its taste is mixed in, its dislikes are left out.")
_HISTORY = flags.DEFINE_string("history", None, "File of plays, .csv or .jsonl: song, time, played (0..1), kind.")
_NOW = flags.DEFINE_integer("now", None, "The present, in the logs' seconds; left out: the last play.")
_DISLIKES = flags.DEFINE_string("dislikes", "", "Ids of songs to stay away from.")
_ORDERED = flags.DEFINE_bool("ordered", True, "Whether the order of --songs is that of listening.")
_K = flags.DEFINE_integer("k", 10, "Songs to recommend.")
_FORMAT = flags.DEFINE_enum("format", "table", ["json", "table"], "What to print.")
_TABLES = flags.DEFINE_string(
    "id_tables", None, "Not needed: a run knows its ids. Checks that these tables of launch/convert.py are the run's."
)

app.section("Many queries")
_BATCH = flags.DEFINE_string("batch", None, "File of queries, one a line.")
_ALL = flags.DEFINE_bool("all_users", False, "Recommends for every user, into --output.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "With --all_users: only say how many, and what is done already.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "With --batch: JSON lines. With --all_users: a Parquet file. Else a playlist: .m3u8 or .jspf."
)

app.section("Filters")
_DEFINE = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}
_FILTERS = {
    name: flags.DEFINE_string(name, None, f"File of song ids, one a line: {entry.rule.doc}.")
    if entry.kind == "songs"
    else _DEFINE[entry.type](name, None, f"{entry.rule.doc[0].upper()}{entry.rule.doc[1:]}.")
    for name, entry in FILTERS.all().items()
}


def main() -> int:
    from music_map import Recommender, read_playlist, write_playlist
    from music_map.retrieval.queries import as_known, parse_ids, read_history

    workdir = app.path_of(_WORKDIR.value, "workdir")
    output = _checked_output()
    if _K.value < 1:
        raise UserError(f"--k={_K.value}: must be at least 1")
    with app.naming("playlist"):
        tracks = [] if _PLAYLIST.value is None else read_playlist(app.path_of(_PLAYLIST.value, "playlist"))
    # Only the answer goes to stdout: what stages say on the way goes to stderr.
    with app.notes_on_stderr():
        recommender = Recommender.load(workdir, reporter=app.reporter())
        if _TABLES.value is not None:
            from music_map.retrieval.id_tables import same_conversion

            with app.naming(_TABLES.name):
                recommender.ids = same_conversion(app.path_of(_TABLES.value, "id_tables"), recommender.ids)
        filters = _filters(recommender)
    if _ALL.value:
        return _all_users(recommender, filters, output)
    if _BATCH.value is not None:
        return _batch(recommender, filters, output)
    songs = recommender.ids.songs
    lists = [parse_ids(text.value, songs) for text in (_SONGS, _DISLIKES)]
    user = None if _USER.value is None else as_known(_USER.value, recommender.ids.users) or _USER.value
    query = {"songs": [*tracks, *lists[0]], "user": user, "dislikes": lists[1]}
    query |= {"ordered": _ORDERED.value, "now": _NOW.value}
    if _HISTORY.value is not None:
        path = app.path_of(_HISTORY.value, "history")
        with app.naming("history"):
            query["history"] = read_history(path)
    answer = recommender.recommend(**query, k=_K.value, filters=filters)
    for text in answer.warnings:
        app.warn(text)
    if _FORMAT.value == "json":
        asked = {
            "songs": songs.labels(recommender.find(query["songs"])[0].tolist()),
            "user": _known([user], recommender.ids.users)[0],
        }
        app.say(_json({"query": asked | {"k": _K.value}} | _fields(answer), indent=2))
    else:
        app.say(str(answer))
    if output is not None:
        write_playlist(output, recommender.tracks(answer), title=f"Music Map: {output.stem}")
        app.note(f"playlist of {len(answer.recommendations)} songs: {output}")
    return 0


def _checked_output() -> Any:
    from music_map.retrieval.playlist_files import writer_of

    ways = {
        "--songs, --playlist, --user or --history": bool(
            _SONGS.value.strip(" ,") or _PLAYLIST.value or _USER.value or _HISTORY.value
        ),
        "--batch": _BATCH.value is not None,
        "--all_users": _ALL.value,
    }
    if sum(ways.values()) > 1:
        raise UserError(f"give one of {', '.join(ways)}; {' and '.join(w for w, on in ways.items() if on)} are given")
    many = ways["--batch"] or ways["--all_users"]
    if many and _OUTPUT.value is None:
        raise UserError("--output missing: give a file")
    if _DRY_RUN.value and not _ALL.value:
        raise UserError("--dry_run: goes with --all_users; the other queries take a moment")
    if not any(ways.values()):
        raise UserError(
            "an empty playlist: give at least one song (--songs, --playlist), a user (--user) or a history (--history)"
        )
    output = None if _OUTPUT.value is None else app.file_to_write(_OUTPUT.value, "output")
    if output is not None and not many:
        with app.naming("output"):
            writer_of(output)
    return output


def _filters(recommender: Recommender) -> Filters:
    from music_map.retrieval.queries import read_id_file

    given = {}
    for name, flag in _FILTERS.items():
        if flag.value is None:
            continue
        entry = FILTERS.find(name)
        if entry.kind == "songs":
            path = app.path_of(flag.value, name)
            with app.naming(name):
                given[name] = tuple(read_id_file(path, recommender.ids.songs))
        else:
            given[name] = entry.check(flag.value, f"--{name}")
    return recommender.filters.replace(**given)


def _all_users(recommender: Recommender, filters: Filters, output: Any) -> int:
    from music_map.retrieval.every_user import plan_every_user, write_every_user

    if _DRY_RUN.value:
        app.say(plan_every_user(recommender, output, k=_K.value))
        return 0
    with app.stop_on_signal() as asked:
        options = {"should_stop": asked.is_set, "progress": app.bar}
        app.say(write_every_user(recommender, output, k=_K.value, filters=filters, **options))
    return 0


def _batch(recommender: Recommender, filters: Filters, output: Any) -> int:
    """Writes `output`, an answer or an error a line, and says how many."""
    from music_map.retrieval.answers import Query
    from music_map.retrieval.queries import parse_query_line, read_lines
    from music_map.storage import write_text

    path = app.path_of(_BATCH.value, "batch")
    parsed: list[Query | UserError] = []
    with app.naming("batch"):
        lines_of_file = read_lines(path)
    for number, line in lines_of_file:
        try:
            parsed.append(Query(*parse_query_line(line, recommender.ids.songs)))
        except UserError as e:
            parsed.append(UserError(f"{path}, line {number}: {e}"))
    good = [query for query in parsed if isinstance(query, Query)]
    answers = iter(recommender.recommend_batch(good, k=_K.value, filters=filters))
    lines, failed = [], 0
    for query in parsed:
        answer = query if isinstance(query, UserError) else next(answers)
        failed += isinstance(answer, UserError)
        found = {"error": str(answer)} if isinstance(answer, UserError) else _fields(answer)
        lines.append(_json({"query": _query_fields(query, recommender)} | found))
    write_text(output, "".join(f"{line}\n" for line in lines))
    app.say(f"{len(lines)} answers in {output}" + (f", {failed} of them errors" if failed else ""))
    return 0


def _query_fields(query: Query | UserError, recommender: Recommender) -> dict[str, Any] | None:
    if isinstance(query, UserError):
        return None
    songs, users = recommender.ids.songs, recommender.ids.users
    return {
        "songs": _known(query.songs, songs),
        "user": _known([query.user], users)[0],
        "dislikes": _known(query.dislikes, songs),
        "ordered": query.ordered,
    }


def _known(values: Any, ids: Any) -> list[Any]:
    """Ids as the logs have them ("7" as 7 where they are numbers); unknown ones as they were given."""
    return [value if at < 0 else ids.label(at) for value, at in zip(values, ids.indices(values).tolist(), strict=True)]


def _fields(answer: Answer) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(answer)


def _json(value: Any, **options: Any) -> str:
    import json

    # A lone surrogate, of a query that was given one, is no UTF-8: it stays escaped.
    return json.dumps(value, **options)


if __name__ == "__main__":
    app.run(main)
