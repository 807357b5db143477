"""Recommends songs for one song, a playlist or a user, with the reasons; for a file of queries; for every user.

python launch/recommend.py --workdir=checkpoints/demo --songs=123,456 --k=10 --format=table
python launch/recommend.py --workdir=checkpoints/demo --songs=123 --user=42 --dislikes=7 --format=json
python launch/recommend.py --workdir=checkpoints/demo --user=42 --heard=false --max_per_artist=2 --diversity=0.3
python launch/recommend.py --workdir=checkpoints/demo --batch=queries.jsonl --output=answers.jsonl
python launch/recommend.py --workdir=checkpoints/demo --all_users --k=20 --output=recommendations.parquet

A user without songs is recommended what fits now: the latest songs, familiar songs and trends of all logs count.
A batch is a query a line: song ids separated by commas, or JSON such as {"songs": [1, 2], "user": 3, "dislikes": [4]}.
Every user's songs go to Parquet (uid, rank, item_id, score); the same command goes on after a stop.
With --id_tables, for logs that launch/convert.py has numbered, ids given and printed are those of the logs.
"""

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from launch import app, experiment, recency
from launch.every_user import plan_every_user, write_every_user
from music_map.convert.ids import IdTable
from music_map.errors import UserError
from music_map.ids import index_of
from music_map.raw.schema import ID_TABLES
from music_map.retrieval.filters import Filters, filters_of
from music_map.retrieval.recommender import Answer, Query, Recommender
from music_map.storage import write_text

SONGS, USERS = ID_TABLES["item"], ID_TABLES["user"]

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_SONGS = flags.DEFINE_list("songs", [], "Song ids of the data set, separated by commas, the latest last.")
_USER = flags.DEFINE_string("user", None, "User id of the data set: its taste is mixed in, its dislikes are left out.")
_DISLIKES = flags.DEFINE_list("dislikes", [], "Song ids to stay away from.")
_ORDERED = flags.DEFINE_bool("ordered", True, "Whether the order of --songs is that of listening.")
_BATCH = flags.DEFINE_string("batch", None, "File of queries, one a line.")
_ALL = flags.DEFINE_bool("all_users", False, "Recommends for every user, into --output.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "With --all_users: only say how many, and what is done already.")
_OUTPUT = flags.DEFINE_string("output", None, "With --batch: JSON lines. With --all_users: a Parquet file.")
_K = flags.DEFINE_integer("k", 10, "Songs to recommend.")
_FORMAT = flags.DEFINE_enum("format", "table", ["json", "table"], "What to print.")
_HEARD = flags.DEFINE_bool("heard", True, "Whether songs that the user has heard may be recommended.")
_ARTIST = flags.DEFINE_integer("max_per_artist", None, "Most songs of one artist; 0: any number.", 0)
_ALBUM = flags.DEFINE_integer("max_per_album", None, "Most songs of one album; 0: any number.", 0)
_LISTENERS = flags.DEFINE_integer("min_listeners", None, "Leave out songs with fewer listeners in train.", 0)
_AUDIO = flags.DEFINE_bool("only_with_audio", None, "Leave out songs without an audio embedding.")
_DIVERSITY = flags.DEFINE_float("diversity", None, "0: by score alone; towards 1: unlike the songs before.", 0.0, 0.999)
_ALLOW = flags.DEFINE_string("allow", None, "File of song ids, one a line: only these are recommended.")
_TABLES = flags.DEFINE_string("id_tables", None, "Folder of launch/convert.py's id tables, e.g. data/own/flat/own.")
_DENY = flags.DEFINE_string("deny", None, "File of song ids, one a line: these are not recommended.")


@functools.cache
def _id_table(name: str) -> IdTable | None:
    """The table of songs or users; None where ids are the numbers themselves."""
    if _TABLES.value is None:
        return None
    folder = app.path_of(_TABLES.value, "id_tables")
    if not any((folder / f"{table}.parquet").is_file() for table in (SONGS, USERS)):
        raise UserError(f"--id_tables={folder}: holds no {SONGS}.parquet or {USERS}.parquet of launch/convert.py")
    path = folder / f"{name}.parquet"
    return IdTable.load(path) if path.is_file() else None


def _id(text: str, flag: str, table: str = SONGS) -> int:
    """The number of an id on the command line or in a file."""
    own = _id_table(table)
    if own is not None:
        if text not in own.number_of:
            raise UserError(f"--{flag}: {text!r} is not in {_TABLES.value}/{table}.parquet")
        return own.number_of[text]
    try:
        value = int(text)
    except ValueError as e:
        raise UserError(f"--{flag}: {text!r} is no id; ids are whole numbers") from e
    if not 0 <= value < 2**32:
        raise UserError(f"--{flag}: {text} is no id; ids are 0 to 4294967295")
    return value


def _own(number: int) -> str:
    """A song's id in the logs."""
    table = _id_table(SONGS)
    return str(number) if table is None else table.id_of.get(number, str(number))


def _told(answer: Answer) -> dict[str, Any]:
    """An answer as JSON-able values; with --id_tables each song has its "id" in the logs."""
    found = dataclasses.asdict(answer)
    if _id_table(SONGS) is not None:
        for recommendation in found["recommendations"]:
            for song in (recommendation, *recommendation["why"]):
                song["id"] = _own(song["item_id"])
    return found


def _lines(path: Path, flag: str) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, with what an error message calls them."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--{flag}: {path}: cannot be read ({e}); give a text file") from e
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield line.strip(), f"{flag}: {path}, line {number}"


def _ids_in(path: str | None, flag: str) -> tuple[int, ...] | None:
    return None if path is None else tuple(_id(line, where) for line, where in _lines(app.path_of(path, flag), flag))


def _parsed(line: str, where: str) -> Query:
    """A query of a batch file."""
    if not line.startswith("{"):
        return Query(tuple(_id(part.strip(), where) for part in line.split(",") if part.strip()))
    try:
        value: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError as e:
        raise UserError(f"--{where}: not valid JSON ({e})") from e
    if unknown := sorted(value.keys() - {f.name for f in dataclasses.fields(Query)}):
        raise UserError(f"--{where}: unknown field {unknown[0]!r}; fields are songs, user, dislikes, ordered")
    lists = {name: value.get(name, []) for name in ("songs", "dislikes")}
    for name, ids in lists.items():
        if not isinstance(ids, list):
            raise UserError(f"--{where}: {name} must be a list of ids")
    if not isinstance(value.get("ordered", True), bool):
        raise UserError(f"--{where}: ordered must be true or false")
    user = value.get("user")
    return Query(
        tuple(_id(str(s), where) for s in lists["songs"]),
        None if user is None else _id(str(user), where, USERS),
        tuple(_id(str(s), where) for s in lists["dislikes"]),
        value.get("ordered", True),
    )


def _filters(settings: Any) -> Filters:
    return filters_of(
        settings,
        heard=_HEARD.value,
        max_per_artist=_ARTIST.value,
        max_per_album=_ALBUM.value,
        min_listeners=_LISTENERS.value,
        only_with_audio=_AUDIO.value,
        diversity=_DIVERSITY.value,
        allow=_ids_in(_ALLOW.value, "allow"),
        deny=_ids_in(_DENY.value, "deny"),
    )


def _table(answer: Answer) -> str:
    ids = [_own(r.item_id) for r in answer.recommendations]
    width = max(10, *map(len, ids)) if ids else 10
    lines = [
        f"{'rank':>4} {'item_id':>{width}} {'score':>7}  {'artists':<20} {'albums':<20} why (song: weight x similarity)"
    ]
    for r, own in zip(answer.recommendations, ids, strict=True):
        why = ", ".join(f"{_own(x.item_id)}: {x.weight:.2f} x {x.similarity:.2f}" for x in r.why[:3])
        artists, albums = (" ".join(map(str, ids[:3])) for ids in (r.artist_ids, r.album_ids))
        lines.append(f"{r.rank:>4} {own:>{width}} {r.score:>7.4f}  {artists:<20} {albums:<20} {why}")
    return "\n".join(lines)


def _user_scores(opened: experiment.Run, workdir: Path, recommender: Recommender, user: int) -> np.ndarray | None:
    """What fits the user now; None where that is unknown."""
    at = index_of(recommender.export.user_ids, np.array([user]))
    if at[0] < 0:
        return None
    scores = recency.present_scores(opened, workdir, heard=_HEARD.value)
    return None if scores is None else np.asarray(scores(at.astype(np.int32)))[0]


def _single(opened: experiment.Run, workdir: Path, recommender: Recommender, query: Query, filters: Filters) -> Answer:
    scores = None
    if query.user is not None and not query.songs:
        scores = _user_scores(opened, workdir, recommender, query.user)
    return recommender.recommend(
        query.songs,
        user=query.user,
        dislikes=query.dislikes,
        ordered=query.ordered,
        k=_K.value,
        filters=filters,
        user_scores=scores,
    )


def _batch(recommender: Recommender, filters: Filters, output: Path) -> str:
    """Writes `output`, an answer a line, and says how many."""
    lines = list(_lines(app.path_of(_BATCH.value, "batch"), "batch"))
    queries = [_parsed(line, where) for line, where in lines]
    answers = recommender.recommend_batch(queries, k=_K.value, filters=filters)
    told = []
    for query, answer in zip(queries, answers, strict=True):
        found = {"error": str(answer)} if isinstance(answer, UserError) else _told(answer)
        told.append(json.dumps({"query": dataclasses.asdict(query), **found}))
    write_text(output, "".join(f"{line}\n" for line in told))
    failed = sum(isinstance(answer, UserError) for answer in answers)
    return f"{len(answers)} answers in {output}" + (f", {failed} of them errors" if failed else "")


def main() -> int:
    workdir = app.path_of(_WORKDIR.value, "workdir")
    ways = {
        "--songs or --user": bool(_SONGS.value) or _USER.value is not None,
        "--batch": _BATCH.value is not None,
        "--all_users": _ALL.value,
    }
    if sum(ways.values()) > 1:
        raise UserError(f"give one of {', '.join(ways)}; {' and '.join(w for w, on in ways.items() if on)} are given")
    many = ways["--batch"] or ways["--all_users"]
    if many != (_OUTPUT.value is not None):
        raise UserError("--output: goes with --batch or --all_users" if not many else "--output missing: give a file")
    if _DRY_RUN.value and not _ALL.value:
        raise UserError("--dry_run: goes with --all_users; the other queries take a moment")
    output = app.file_to_write(_OUTPUT.value, "output") if many else None
    if not any(ways.values()):
        raise UserError("an empty playlist: give at least one song (--songs) or a user (--user)")
    if _K.value < 1:
        raise UserError(f"--k={_K.value}: must be at least 1")
    lists = [tuple(_id(text.strip(), flag) for text in value if text.strip()) for flag, value in
             (("songs", _SONGS.value), ("dislikes", _DISLIKES.value))]  # fmt: skip
    query = Query(lists[0], None if _USER.value is None else _id(_USER.value, "user", USERS), lists[1], _ORDERED.value)
    # Only the answer goes to stdout: what stages say on the way goes to stderr.
    with contextlib.redirect_stdout(sys.stderr):
        opened = experiment.open_workdir(workdir)
        filters = _filters(opened.config.retrieval)
        experiment.load_model_export(workdir)  # made anew where it is missing or damaged
        recommender = Recommender.load(workdir)
        if not many:
            answer = _single(opened, workdir, recommender, query, filters)
        elif _ALL.value and _DRY_RUN.value:
            said = plan_every_user(recommender, output, k=_K.value)
        elif _ALL.value:
            scores = recency.present_scores(opened, workdir, heard=filters.heard)
            said = write_every_user(recommender, output, k=_K.value, filters=filters, scores=scores)
        else:
            said = _batch(recommender, filters, output)
    if many:
        app.say(said)
        return 0
    for text in answer.warnings:
        app.warn(text)
    if _FORMAT.value == "json":
        asked = {"songs": list(query.songs), "user": query.user, "k": _K.value}
        app.say(json.dumps({"query": asked, **_told(answer)}, indent=2))
    else:
        app.say(_table(answer))
    return 0


if __name__ == "__main__":
    app.run(main)
