"""Listeners whom the model has never seen, beside the same listeners trained on: the protocol "fold_in".

A tenth of the users, drawn by a hash of their ids, is taken out of all data, and what a run trains is trained again
without them: the encoder for as many epochs as the run's best checkpoint, the encoder of the past, the head, the
playlist query. Then they come, each alone: what they played in train is given, what they play in the split asked for.
The state of the songs, trends and walks over users, is that of the logs, as it is for a listener who comes alone. The
graph filter, which trains nothing, is left out on both sides: a run without a recency head is measured by its encoder.

WORKDIR/fold_in/    the run without these users
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from music_map import processes
from music_map.errors import UserError
from music_map.evaluation.baselines.fit import fit
from music_map.evaluation.baselines.history import History, binary_matrix, recent_songs
from music_map.evaluation.baselines.item_knn import neighbours, neighbours_of
from music_map.evaluation.baselines.matrix_factorization import ials_new_users
from music_map.evaluation.baselines.settings import SETTINGS, Settings
from music_map.evaluation.evaluate import Evaluation, compare, evaluate_scores, summary
from music_map.evaluation.metrics import user_sums
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import RankingTask
from music_map.evaluation.ranking import ScoreBlock, embedding_scores
from music_map.evaluation.uncertainty import interval, resample
from music_map.graph.bipartite import listeners_of
from music_map.graph.weights import chunk_edges
from music_map.playlist.attention import attend
from music_map.playlist.space import embed, moments_of
from music_map.preprocess.cold import new_users
from music_map.preprocess.dataset import Events, Withdrawals
from music_map.recency.guests import Guests, no_events
from music_map.recency.history import Histories
from music_map.recency.scores import Embeddings
from music_map.retrieval.export import popularity_of
from music_map.rows import offsets_of_sorted
from music_map.run.evaluation import history_of
from music_map.run.evaluation import report_table as table_of_rows
from music_map.run.fold_in import fold_in_of
from music_map.run.folder import claim
from music_map.run.playlist import heads_for
from music_map.run.recency import UNHEARD, Past, scores_for, train_past, weights_for
from music_map.run.run import Run, checkpoint_store, loop_settings
from music_map.training.loop import fit as train
from music_map.training.metrics_log import MetricsLog
from music_map.unit import unit_rows

SHARE = 0.1
# Baselines that rank for users who were not fitted.
BASELINES = ("most_pop", "item_knn", "ials")
# Latest songs of a listener that the playlist query gets.
_PLAYLIST = 100


def baseline_names(given: Sequence[str] | None) -> tuple[str, ...]:
    """The baselines to compare with: those given, or all that are installed.

    Raises:
      UserError: a given one cannot rank for new users.
    """
    if given is None or tuple(given) == ("all",):
        return tuple(name for name in BASELINES if name != "ials" or importlib.util.find_spec("implicit"))
    for name in given:
        if name not in BASELINES:
            raise UserError(
                f"baseline {name!r} ranks only for users that it was fitted on; for the protocol fold_in choose from "
                f"{', '.join(BASELINES)}"
            )
    return tuple(given)


def without_users(past: Past, users: np.ndarray) -> Past:
    """The run without some users, bool [U], trained now unless it is there. Raises UserError for several processes."""
    run = past.run
    if processes.count() > 1 or run.config.parallel == "sharded":
        raise UserError(
            f"protocol 'fold_in' trains a second model in one process, with its songs on one device; the run has "
            f"config.parallel={run.config.parallel!r} and {processes.count()} processes: use a run without"
        )
    apart = run.without(users, run.workdir / "fold_in")
    claim(run.config, apart.dataset.fingerprint, apart.workdir)
    epochs = max(1, math.ceil(run.trained.step / run.steps_per_epoch - 1e-6))
    settings = dataclasses.replace(loop_settings(run.config), num_epochs=epochs, min_steps=0)
    with (
        processes.writing(apart.workdir, "evaluate"),
        checkpoint_store(apart.workdir, apart.workdir, read_only=False, reporter=run.reporter) as store,
    ):
        train(
            runner=apart.runner,
            settings=settings,
            store=store,
            log=MetricsLog(apart.workdir / "metrics.jsonl"),
            evaluate=None,
            should_stop=lambda: False,
            progress=run.reporter.bar,
        )
        found = Past(apart)
        train_past(found, should_stop=lambda: False)
    return found


def report(
    past: Past,
    split: str,
    *,
    baselines: Sequence[str],
    settings: Mapping[str, Settings] | None = None,
) -> dict[str, Any]:
    """Evaluates folded-in users beside the same users trained on, and beside baselines; the result is JSON-able.

    Args:
      past: of the run, which has trained on the users.
      split: "val" or "test".
      baselines: names from BASELINES, fitted without the users.
      settings: of the baselines, by name.

    Returns:
      See `evaluate.summary`. "model" is the folded-in user, "model_without_recency" the embedding alone. Among the
      baselines are "trained" and, for a run with recency, "trained_without_recency", the same users in the run itself;
      "all_at_once", the model where the songs' state lacks the plays of the whole tenth; and "playlist_query", the
      playlist query over their latest 100 songs. "of_trained" has by form of the model its share of the trained user's
      metrics, {metric: {"share", "interval", "difference", "p_value"}}; the last is of a paired randomization test.
    """
    run = past.run
    users = new_users(run.dataset.user_ids, fraction=SHARE)
    task = run.task("fold_in", split)
    task = task.select(np.flatnonzero(users[task.users]))
    if not len(task.users):
        raise UserError(f"protocol 'fold_in': none of the users drawn has a target in the {split} split; use more data")
    chosen = {name: kind() for name, kind in SETTINGS.items()} | dict(settings or {})
    models = {"trained": scorer_of(past)}
    if weights_for(past, UNHEARD) is not None:
        models["trained_without_recency"] = run.encoder_scores()
    apart = without_users(past, users)
    models |= _folded_in(apart, past, users)
    models["playlist_query"] = _playlist_scores(apart, run, task)
    models |= {name: _baseline(name, apart.run, run, task, chosen.get(name)) for name in baselines}
    options = {"ks": run.config.eval.ks, "progress": run.reporter.bar}
    found = {name: evaluate_scores(scores, task, **options) for name, scores in models.items()}
    forms = ("model", "model_without_recency")
    result = summary(
        {name: found[name] for name in forms if name in found},
        {name: each for name, each in found.items() if name not in forms},
        task,
        ks=run.config.eval.ks,
        seed=run.config.train.seed,
    )
    pairs = {"model": "trained", "model_without_recency": "trained_without_recency"}
    of_trained = {
        name: _share(found[name], found[trained], task, run) for name, trained in pairs.items() if name in found
    }
    return result | {"of_trained": of_trained}


def _share(model: Evaluation, trained: Evaluation, task: RankingTask, run: Run) -> dict[str, dict[str, Any]]:
    """The share of one scorer in the metrics of another, by metric; see `report`."""
    ks, seed = run.config.eval.ks, run.config.train.seed
    one, other = (user_sums(each.topk, task.targets, ks=ks) for each in (model, trained))
    sums = {"model": one.numerators, "trained": other.numerators}
    drawn = resample(sums, one.denominators, seed=seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.nan_to_num(drawn["model"] / drawn["trained"], posinf=0.0)
    paired = compare(model, trained, task, ks=ks, seed=seed)
    return {
        key: {
            "share": model.metrics[key] / max(trained.metrics[key], 1e-12),
            "interval": bounds,
            "difference": paired[key]["difference"],
            "p_value": paired[key]["p_value"],
        }
        for key, bounds in zip(one.keys, interval(ratios).tolist(), strict=True)
    }


def scorer_of(past: Past) -> ScoreBlock:
    """The scores of a run's users: with the recency head for new music where the run has one."""
    weights = weights_for(past, UNHEARD)
    return past.run.encoder_scores() if weights is None else scores_for(past, weights)


def _folded_in(apart: Past, past: Past, users: np.ndarray) -> dict[str, ScoreBlock]:
    """Scores of the users who come to the run without them; other users have no embedding."""
    run = past.run
    given, withdrawn = _of_users(run.events("train"), users), _of_users(run.dataset.withdrawals("train"), users)
    size = {"now": run.dataset.train_end, "num_items": run.dataset.num_items}
    edges, _, _ = chunk_edges(given, withdrawn, run.config.graph, **size)
    offsets = offsets_of_sorted(edges.user, len(users))
    embeddings = fold_in_of(apart.run)[0].embed(offsets, edges.item, edges.weight)
    alone = embedding_scores(embeddings, apart.run.embeddings.item)
    weights = weights_for(apart, UNHEARD)
    if weights is None:
        return {"model": alone}
    # A guest's score is that of logs that have the guest's plays: for one who comes alone, of the run's own logs.
    placed = Embeddings(embeddings, apart.run.embeddings.item)
    unseen = np.full(len(users), -1, np.int32)
    guests = Guests(embeddings, unseen, no_events(len(users)), Histories.of(given, num_users=len(users)))
    return {
        "model": scores_for(past, weights).at(embeddings=placed),
        "model_without_recency": alone,
        "all_at_once": scores_for(apart, weights).hosting(guests),
    }


def _of_users(rows: Any, users: np.ndarray) -> Any:
    """The events, or withdrawals, of some users."""
    mine = users[rows.user]
    kind: Callable[..., Events | Withdrawals] = type(rows)
    return kind(*(column[mine] for column in rows))


def _playlist_scores(apart: Past, run: Run, task: RankingTask) -> ScoreBlock:
    """The playlist query over each user's latest songs, the latest last."""
    heads, listeners = heads_for(apart), listeners_of(apart.run.graph)
    items = np.asarray(apart.run.embeddings.item)
    placed = np.asarray(embed(jnp.asarray(items), moments_of(items, listeners > 0), heads.space))
    popularity = jnp.asarray(popularity_of(listeners))
    songs = recent_songs(history_of(run, task.protocol), task.users, most=_PLAYLIST)
    where = songs >= 0
    rows = np.maximum(songs, 0)
    queries = np.zeros((run.dataset.num_users, items.shape[1]), np.float32)
    for start in range(0, len(rows), 512):
        block = slice(start, start + 512)
        made = attend(jnp.asarray(placed)[rows[block]], where[block], popularity[rows[block]], heads.ordered)[0]
        queries[task.users[block]] = made
    return embedding_scores(queries, unit_rows(placed))


def _baseline(name: str, apart: Run, run: Run, task: RankingTask, settings: Settings | None) -> ScoreBlock:
    history: History = history_of(apart, task.protocol)
    if name == "most_pop":
        return fit(name, history, settings, seed=run.config.train.seed)
    given: Pairs = history_of(run, task.protocol).pairs
    if name == "ials":
        return ials_new_users(history, given, settings, seed=run.config.train.seed)
    similar = neighbours(history, settings, progress=run.reporter.bar)
    return neighbours_of(binary_matrix(given, run.dataset.num_items), similar)


def report_table(result: dict[str, Any], *, metric: str) -> str:
    """The result of `report` as text."""
    lines = [table_of_rows(result, metric=metric)]
    for name, shares in result["of_trained"].items():
        if metric in shares:
            found = shares[metric]
            low, high = found["interval"]
            lines.append(
                f"{name}: {found['share']:.1%} of the {metric} of the same users trained on, 95 % interval "
                f"[{low:.1%}, {high:.1%}]; difference {found['difference']:+.4f}, p = {found['p_value']:.3g} (paired "
                "randomization test over users)"
            )
    return "\n".join(lines)
