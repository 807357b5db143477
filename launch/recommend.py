"""Recommends songs for one song, a playlist or a user, with the reasons.

python launch/recommend.py --workdir=checkpoints/demo --songs=123,456 --k=10 --format=table
python launch/recommend.py --workdir=checkpoints/demo --songs=123 --user=42 --format=json
python launch/recommend.py --workdir=checkpoints/demo --user=42 --heard=false

A user without songs is recommended what fits now: the latest songs, familiar songs and trends of all logs count.
"""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

from absl import flags

from launch import app, experiment, recency, stages
from music_map.errors import UserError
from music_map.retrieval.recommender import Answer, Recommender

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_SONGS = flags.DEFINE_list("songs", [], "Song ids of the data set, separated by commas.")
_USER = flags.DEFINE_string("user", None, "User id of the data set: its taste is mixed in, its dislikes are left out.")
_K = flags.DEFINE_integer("k", 10, "Songs to recommend.")
_FORMAT = flags.DEFINE_enum("format", "table", ["json", "table"], "What to print.")
_HEARD = flags.DEFINE_bool("heard", True, "Whether songs that the user has heard may be recommended.")


def _id(text: str, flag: str) -> int:
    try:
        value = int(text)
    except ValueError as e:
        raise UserError(f"--{flag}: {text!r} is no id; ids are whole numbers") from e
    if not 0 <= value < 2**32:
        raise UserError(f"--{flag}: {text} is no id; ids are 0 to 4294967295")
    return value


def _table(answer: Answer) -> str:
    lines = [
        f"{'rank':>4} {'item_id':>10} {'score':>7}  {'artists':<20} {'albums':<20} why (song: weight x similarity)"
    ]
    for r in answer.recommendations:
        why = ", ".join(f"{x.item_id}: {x.weight:.2f} x {x.similarity:.2f}" for x in r.why[:3])
        artists, albums = (" ".join(map(str, ids[:3])) for ids in (r.artist_ids, r.album_ids))
        lines.append(f"{r.rank:>4} {r.item_id:>10} {r.score:>7.4f}  {artists:<20} {albums:<20} {why}")
    return "\n".join(lines)


def _answer(workdir: Path, songs: list[int], user: int | None) -> Answer:
    run = experiment.open_workdir(workdir)
    retrieval = run.config.retrieval
    recommender = Recommender(
        experiment.load_model_export(workdir),
        index=retrieval.index,
        attention_temperature=retrieval.attention_temperature,
    )
    exclude, scores = [], None
    if user is not None:
        dataset = stages.dataset_of_run(run.config, run.dataset)
        exclude = stages.barred_songs(dataset, user, heard=not _HEARD.value)
        if not songs:
            scores = recency.present_scores(run, workdir, user, heard=_HEARD.value)
    return recommender.recommend(songs=songs, user=user, k=_K.value, exclude=exclude, user_scores=scores)


def main() -> int:
    workdir = app.path_of(_WORKDIR.value, "workdir")
    songs = [_id(text.strip(), "songs") for text in _SONGS.value if text.strip()]
    user = None if _USER.value is None else _id(_USER.value, "user")
    # Only the answer goes to stdout: what stages say on the way goes to stderr.
    with contextlib.redirect_stdout(sys.stderr):
        answer = _answer(workdir, songs, user)
    for text in answer.warnings:
        app.warn(text)
    if _FORMAT.value == "json":
        query = {"songs": songs, "user": user, "k": _K.value}
        app.say(json.dumps({"query": query, **dataclasses.asdict(answer)}, indent=2))
    else:
        app.say(_table(answer))
    return 0


if __name__ == "__main__":
    app.run(main)
