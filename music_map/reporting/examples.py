"""The examples of a report: some users of a task, what they heard, what a run recommends them, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from music_map.evaluation.evaluate import Evaluation
from music_map.evaluation.metrics import per_user_metric
from music_map.evaluation.protocols import RankingTask, relevant
from music_map.evaluation.ranking import ScoreBlock
from music_map.preprocess.dataset import Dataset
from music_map.recency.scores import RecencyScorer
from music_map.retrieval.reasons import Explainer
from music_map.retrieval.recommender import Recommender
from music_map.unit import unit_rows

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
    scorer: ScoreBlock,
    heard: Callable[[int], np.ndarray],
) -> dict[str, Any]:
    """{"examples", "playlist"} of a run, as JSON-able values; see the template for the fields.

    Args:
      recommender: of the run.
      task: evaluated on.
      found: of the run's model.
      chosen: users.
      listeners: int [I], of each song in train.
      scorer: the one that ranked the songs; its reasons are given.
      heard: the songs of a user in train, int [n].
    """
    users = recommender.ids.users
    examples = []
    for row, title, value, history in zip(*chosen, strict=True):
        targets = set(task.targets.select(np.array([row])).items.tolist())
        user, listed = int(task.users[row]), [song for song in found.topk[row, :_LISTED].tolist() if song >= 0]
        reasons = _reasons(recommender, scorer, user, np.array(listed, np.int32), heard(user))
        examples.append(
            {
                "user": users.label(user),
                "title": title,
                "value": value,
                "num_targets": len(targets),
                "history": [_song(recommender, song) for song in history.tolist()],
                "songs": [
                    _song(recommender, song)
                    | {
                        "hit": song in targets,
                        "listeners": int(listeners[song]),
                        "why": why,
                    }
                    for song, why in zip(listed, reasons, strict=True)
                ],
            }
        )
    typical, names = examples[1], recommender.ids.artists
    playlist = [song["item_id"] for song in typical["history"]]
    answers = recommender.recommend(playlist, k=_LISTED).recommendations
    return {
        "examples": examples,
        "playlist": {
            "user": typical["user"],
            "songs": typical["history"],
            "answers": [
                {
                    "rank": r.rank,
                    "item_id": r.item_id,
                    "score": r.score,
                    "name": r.name,
                    "artists": [names.name(at) or names.label(at) for at in names.indices(r.artist_ids[:3]).tolist()],
                    "why": _why(r.why),
                }
                for r in answers
            ],
        },
    }


def _reasons(
    recommender: Recommender, scorer: ScoreBlock, user: int, songs: np.ndarray, heard: np.ndarray
) -> list[list[dict[str, Any]]]:
    """Why a user's songs are ranked where they are: for each the strongest parts of the score that ranked it."""
    export, ids = recommender.export, recommender.ids
    explainer = Explainer(export)
    if isinstance(scorer, RecencyScorer):
        [found] = explainer.by_head(scorer.reading(np.array([user])), [songs], ids, most=_REASONS)
    else:
        scores = export.item_embeddings[songs] @ export.user_embeddings[user]
        vectors = unit_rows(export.item_embeddings)
        found = explainer.by_similarity(vectors, scores, np.unique(heard), songs, ids, most=_REASONS)
    return [[{"part": part.part, "gain": part.gain, "text": part.text} for part in parts] for parts in found]


def _song(recommender: Recommender, song: int) -> dict[str, Any]:
    export, ids = recommender.export, recommender.ids
    artists = export.artists[slice(*export.artist_offsets[song : song + 2])]
    labels = [ids.artists.name(at) or ids.artists.label(at) for at in artists[:3].tolist()]
    return {"item_id": ids.songs.label(song), "artists": labels, "name": ids.songs.name(song)}


def _why(reasons: list) -> list[dict[str, Any]]:
    return [
        {"item_id": r.item_id, "name": r.name, "weight": r.weight, "similarity": r.similarity}
        for r in reasons[:_REASONS]
    ]
