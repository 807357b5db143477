"""The examples of a report: some users of a task, what they heard, what a run recommends them, and why."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from music_map.evaluation.evaluate import Evaluation
from music_map.evaluation.metrics import per_user_metric
from music_map.evaluation.protocols import RankingTask, relevant
from music_map.preprocess.dataset import Dataset
from music_map.retrieval.recommender import Recommender

_HISTORY, _LISTED, _REASONS = 5, 10, 3
_PERCENTILES = {"well served": 90, "above the middle": 70, "poorly served": 10}


class Chosen(NamedTuple):
    """The users of the examples.

    Attributes:
      rows: positions among the task's users.
      titles: what each is an example of.
      values: the metric of each.
      history: the latest distinct songs of each, song indices, the latest last.
    """

    rows: list[int]
    titles: list[str]
    values: list[float]
    history: list[np.ndarray]


def choose(dataset: Dataset, task: RankingTask, found: Evaluation, *, metric: str) -> Chosen:
    """The users nearest to the 90th, 70th and 10th percentile of the metric; of equal ones, that with most targets."""
    values = per_user_metric(metric, found.topk, task.targets)
    sizes = task.targets.sizes
    rows: list[int] = []
    for percentile in _PERCENTILES.values():
        distance = np.abs(values - np.percentile(values, percentile))
        distance[rows] = np.inf
        rows.append(int(np.lexsort((-sizes, distance))[0]))
    latest = [_latest(dataset, task, int(task.users[row])) for row in rows]
    return Chosen(rows, list(_PERCENTILES), values[rows].tolist(), latest)


def _latest(dataset: Dataset, task: RankingTask, user: int) -> np.ndarray:
    events = dataset.user_events("train", user)
    songs = events.item[relevant(events, task.protocol.history)][::-1]
    _, first = np.unique(songs, return_index=True)
    return songs[np.sort(first)][:_HISTORY][::-1]


def of_run(
    recommender: Recommender,
    task: RankingTask,
    found: Evaluation,
    chosen: Chosen,
    listeners: np.ndarray,
) -> dict[str, Any]:
    """{"examples", "playlist"} of a run, as JSON-able values; see the template for the fields."""
    users, label = recommender.ids.users, recommender.ids.songs.label
    examples = []
    for row, title, value, history in zip(*chosen, strict=True):
        targets = set(task.targets.select(np.array([row])).items.tolist())
        songs = [label(song) for song in history]
        listed = [song for song in found.topk[row, :_LISTED].tolist() if song >= 0]
        examples.append(
            {
                "user": users.label(task.users[row]),
                "title": title,
                "value": value,
                "num_targets": len(targets),
                "history": [_song(recommender, song) for song in history.tolist()],
                "songs": [
                    _song(recommender, song)
                    | {
                        "hit": song in targets,
                        "listeners": int(listeners[song]),
                        "why": _why(recommender.explain(label(song), songs=songs).why),
                    }
                    for song in listed
                ],
            }
        )
    typical = examples[1]
    playlist = [song["item_id"] for song in typical["history"]]
    answers = recommender.recommend(playlist, k=_LISTED).recommendations
    return {
        "examples": examples,
        "playlist": {
            "user": typical["user"],
            "songs": playlist,
            "answers": [
                {
                    "rank": r.rank,
                    "item_id": r.item_id,
                    "score": r.score,
                    "artists": r.artist_ids[:3],
                    "why": _why(r.why),
                }
                for r in answers
            ],
        },
    }


def _song(recommender: Recommender, song: int) -> dict[str, Any]:
    export, ids = recommender.export, recommender.ids
    artists = export.artists[slice(*export.artist_offsets[song : song + 2])]
    labels = ids.artists.labels(artists[:3].tolist())
    return {"item_id": ids.songs.label(song), "artists": labels, "name": ids.songs.name(song)}


def _why(reasons: list) -> list[dict[str, Any]]:
    return [{"item_id": r.item_id, "weight": r.weight, "similarity": r.similarity} for r in reasons[:_REASONS]]
