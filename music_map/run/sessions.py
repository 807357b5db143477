"""The playlist protocol on a run: the query that recommends for a playlist, beside simpler queries and baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from music_map.errors import UserError
from music_map.evaluation.baselines.fit import fit
from music_map.evaluation.baselines.history import History
from music_map.evaluation.baselines.item_knn import neighbours
from music_map.evaluation.baselines.settings import SETTINGS, Settings
from music_map.evaluation.evaluate import evaluate_beside_baselines
from music_map.evaluation.playlist import (
    PlaylistTask,
    Query,
    build_playlist_tasks,
    default_seeds,
    last_query,
    mean_query,
    neighbour_scores,
    query_scores,
)
from music_map.evaluation.protocols import find_protocol
from music_map.evaluation.ranking import ScoreBlock
from music_map.graph.bipartite import listeners_of
from music_map.playlist.attention import Head, attend
from music_map.playlist.heads import PLAIN_MIXTURE, Heads, Mixture, untrained
from music_map.playlist.space import embed, moments_of
from music_map.retrieval.export import popularity_of
from music_map.retrieval.playlist_query import Asked, PlaylistQuery
from music_map.retrieval.search import rank_songs
from music_map.run.config import Config
from music_map.run.evaluation import baseline_inputs, metrics_table
from music_map.run.evaluation import report_table as table_of_one
from music_map.run.playlist import told_by_sessions
from music_map.run.run import Run

# Songs that are ranked for a playlist of several tastes.
LISTED = 1_000
# Baselines that work without a user.
BASELINES = ("random", "most_pop", "decay_pop", "item_knn")


def baseline_names(config: Config, given: Sequence[str] | None) -> tuple[str, ...]:
    """The baselines to compare with: `given`, all for ("all",), or those of the configuration that apply.

    Raises:
      UserError: a given baseline needs a user.
    """
    if given is None:
        return tuple(name for name in config.eval.baselines if name in BASELINES)
    for name in () if tuple(given) == ("all",) else given:
        if name not in BASELINES:
            raise UserError(
                f"baseline {name!r} needs users, not playlists; for the protocol playlist choose from "
                f"{', '.join(BASELINES)}"
            )
    return BASELINES if tuple(given) == ("all",) else tuple(given)


def tasks_for(run: Run, split: str, *, max_sessions: int, parts: int = 1) -> dict[int, PlaylistTask]:
    """The tasks of a split by number of seeds; see `build_playlist_tasks`."""
    dataset = run.dataset
    return build_playlist_tasks(
        split,
        train=run.events("train"),
        held_out=run.events(split),
        num_items=dataset.num_items,
        max_sessions=max_sessions,
        seed=run.config.train.seed,
        min_played_pct=run.config.eval.min_played_pct,
        parts=parts,
    )


def query_of(head: Head) -> Query:
    """The query function of a head, for blocks of playlists."""
    return lambda songs, where, popularity: attend(songs, where, popularity, head)[0]


class QueryScores:
    """Scores of the playlist query, as it recommends: a ScoreBlock.

    Args:
      query: over `vectors`.
      vectors: float32 [I, d].
      task: its seeds.
    """

    def __init__(self, query: PlaylistQuery, vectors: np.ndarray, task: PlaylistTask):
        self._query, self._vectors, self._task = query, vectors, task
        self._device_vectors = jnp.asarray(vectors)

    def __call__(self, queries: np.ndarray) -> np.ndarray:
        """float32 [B, I]; of a playlist of several tastes the first LISTED songs, -inf for the others."""
        nobody = np.zeros(self._vectors.shape[1], np.float32), 0.0, np.zeros(0, np.int64)
        wanted, _ = self._query([Asked(self._task.seeds[row], True, *nobody) for row in queries])
        first = jnp.asarray(np.stack([one.vectors[0] for one in wanted]))
        scores = np.array(jnp.matmul(first, self._device_vectors.T, precision=jax.lax.Precision.HIGHEST))
        for row, (query, one) in enumerate(zip(queries, wanted, strict=True)):
            if len(one.weights) > 1:
                allowed = self._task.ranking.candidates.copy()
                allowed[self._task.seeds[query]] = False
                songs, values = rank_songs(self._vectors, one, allowed=allowed, most=LISTED)
                scores[row] = -np.inf
                scores[row, songs] = values
            else:
                songs, values = one.plus[0]
                scores[row, songs] += values
        return scores


def model_scores(run: Run, task: PlaylistTask, heads: Heads) -> ScoreBlock:
    """The model as a scorer of the task's queries: the trained query in its space."""
    return scores_of(run, heads)(task, heads.mixture)


def scores_of(run: Run, heads: Heads) -> Callable[[PlaylistTask, Mixture], ScoreBlock]:
    """`model_scores` of any task and mixture, with what sessions tell counted once."""
    items, listeners = np.asarray(run.embeddings.item), listeners_of(run.graph)
    placed = np.asarray(embed(items, moments_of(items, listeners > 0), heads.space))
    popularity, (companions, onward) = popularity_of(listeners), told_by_sessions(run, heads, progress=run.reporter.bar)

    def scores(task: PlaylistTask, mixture: Mixture) -> ScoreBlock:
        query = PlaylistQuery(placed, popularity, heads._replace(mixture=mixture), companions=companions, onward=onward)
        return QueryScores(query, placed, task)

    return scores


def report(
    run: Run,
    tasks: Mapping[int, PlaylistTask],
    *,
    heads: Heads,
    baselines: Sequence[str],
    settings: Mapping[str, Settings] | None = None,
) -> dict[str, Any]:
    """Evaluates the model beside the baselines for each number of seeds; the result is JSON-able.

    Args:
      run: of the model.
      tasks: by number of seeds.
      heads: of the playlist attention; the ordered one is "model".
      baselines: names from BASELINES. Simpler queries are always included: "mean_of_seeds", "last_seed" and
        "untrained_attention" over the embeddings, "mean_in_space" and "last_in_space" over them in the learned space,
        and "unordered_attention", which ignores the order of seeds; and the model with a part taken out: "one_taste"
        and "embeddings_alone", which is one taste too.
      settings: of the baselines, by name.

    Returns:
      The report of `evaluate_beside_baselines` for the default number of seeds, with "num_seeds", "num_queries" and
      "num_sessions" (sessions that are long enough). "seeds" has the same for every number of seeds. Intervals are over
      "num_users" users.
    """
    config = run.config
    inputs = baseline_inputs(run)
    history = History.of(
        run.events("train"),
        find_protocol("playlist").history,
        **{key: value for key, value in inputs.items() if key != "seed"},
    )
    chosen = {name: kind() for name, kind in SETTINGS.items()} | dict(settings or {})
    similar = neighbours(history, chosen["item_knn"], progress=run.reporter.bar) if "item_knn" in baselines else None
    items, listeners = np.asarray(run.embeddings.item), listeners_of(run.graph)
    popularity = popularity_of(listeners)
    placed = embed(items, moments_of(items, listeners > 0), heads.space)
    centre = query_of(untrained(config.retrieval.attention_temperature).ordered)
    simple = {
        "mean_of_seeds": (items, mean_query),
        "last_seed": (items, last_query),
        "untrained_attention": (items, centre),
        "mean_in_space": (placed, mean_query),
        "last_in_space": (placed, last_query),
        "unordered_attention": (placed, query_of(heads.unordered)),
    }
    scores, whole = scores_of(run, heads), heads.mixture
    parts = {"one_taste": whole._replace(cohesion=PLAIN_MIXTURE.cohesion), "embeddings_alone": PLAIN_MIXTURE}
    seeds = {}
    for n, task in tasks.items():
        fitted = [(name, scores(task, mixture)) for name, mixture in parts.items()]
        fitted += [
            (name, query_scores(rows, task, query, popularity=popularity)) for name, (rows, query) in simple.items()
        ]
        for name in baselines:
            of_name = (
                neighbour_scores(similar, task)
                if name == "item_knn"
                else fit(name, history, chosen.get(name), seed=config.train.seed)
            )
            fitted.append((name, of_name))
        found = evaluate_beside_baselines(
            scores(task, whole),
            fitted,
            task.ranking,
            ks=tuple(config.eval.ks),
            seed=config.train.seed,
            groups=task.users,
        )
        counts = {
            "num_seeds": n,
            "num_users": len(set(task.users.tolist())),
            "num_queries": len(task.users),
            "num_sessions": task.num_sessions,
        }
        del found["num_dropped_users"]
        seeds[str(n)] = found | counts
    return {**seeds[str(default_seeds(tasks))], "seeds": seeds}


def report_table(result: dict[str, Any], *, metric: str) -> str:
    """The result of `report` as text: the default number of seeds, and one metric for the others."""
    columns = {n: "1 seed" if n == "1" else f"{n} seeds" for n in result["seeds"]}
    rows: dict[str, dict[str, float]] = {}
    for n, found in result["seeds"].items():
        for name, metrics in {"model": found["model"], **found["baselines"]}.items():
            rows.setdefault(name, {})[columns[n]] = metrics[metric]
    queries = ", ".join(f"{found['num_queries']} with {n}" for n, found in result["seeds"].items())
    return (
        f"{result['num_seeds']} seeds, {table_of_one(result, metric=metric)}\n"
        f"{metric} by number of seeds (sessions: {queries}):\n{metrics_table(rows, tuple(columns.values()))}"
    )
