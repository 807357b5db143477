"""A run beside the baselines: tasks, tuned baselines, reports and their tables."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from music_map import processes
from music_map.evaluation.baselines import (
    BASELINES,
    COLD_START,
    check_names,
    fit_baselines,
    settings_from_json,
    settings_to_json,
    tune_baselines,
)
from music_map.evaluation.baselines.fit import fit
from music_map.evaluation.baselines.history import History
from music_map.evaluation.baselines.settings import SETTINGS, Settings
from music_map.evaluation.evaluate import Evaluation, evaluate_scores, summary
from music_map.evaluation.metrics import ranking_metrics
from music_map.evaluation.protocols import Protocol, RankingTask, find_protocol
from music_map.evaluation.ranking import ScoreBlock
from music_map.graph_filter.choose import Choice
from music_map.model.encoder import Params
from music_map.recency.scores import Weights
from music_map.run.config import Config
from music_map.run.folder import files_of
from music_map.run.graph_filter import filter_for, mixed_scores
from music_map.run.lists import KeptLists
from music_map.run.recency import Past, scores_for, weights_for
from music_map.run.run import Run
from music_map.run.run import keep as keep_file
from music_map.runfiles import read_json
from music_map.storage import write_json


def encoder_metrics(run: Run, task: RankingTask, params: Params) -> dict[str, float]:
    """The metrics of the encoder alone on a task; they choose its checkpoint."""
    scores = run.encoder_scores(params)
    return evaluate_scores(scores, task, ks=run.config.eval.ks, shared=processes.count() > 1).metrics


def models_of(past: Past, task: RankingTask) -> dict[str, Callable[[], ScoreBlock]]:
    """Functions that make the scorer of each form of a run's model.

    "model" is the form that recommends; with recency there is "model_without_recency" too, with a graph filter
    "model_without_filter".
    """
    run, found, alone = past.run, part_beside(past, task.protocol.name), past.run.encoder_scores
    if found is None:
        return {"model": alone}
    if isinstance(found, Choice):
        return {"model": lambda: mixed_scores(run, found), "model_without_filter": alone}
    return {"model": lambda: scores_for(past, found), "model_without_recency": alone}


def part_beside(past: Past, protocol: str) -> Weights | Choice | None:
    """The part of a run's model beside its encoder: weights of the recency head, or else a graph filter, or None."""
    weights = weights_for(past, protocol)
    return filter_for(past.run, protocol, should_stop=past.should_stop) if weights is None else weights


def report(
    past: Past,
    task: RankingTask,
    *,
    baselines: Sequence[str] | None = None,
    settings: Mapping[str, Settings] | None = None,
    keep: bool = False,
) -> dict[str, Any]:
    """Evaluates the model beside the baselines on a task; the result is JSON-able, see `evaluate.summary`.

    Args:
      past: of the run.
      task: to evaluate on.
      baselines: names; None: those of the configuration.
      settings: of the baselines, by name; a baseline without settings gets the defaults.
      keep: store the lists of each scorer in the run's folder, and reuse stored ones.
    """
    run, config = past.run, past.run.config
    names = baseline_names(config, task.protocol.name) if baselines is None else tuple(baselines)
    check_names(names)
    shared = processes.count() > 1
    lists = KeptLists(files_of(run.workdir), _identity(run, task)) if keep and not shared else None
    chosen = {name: kind() for name, kind in SETTINGS.items()} | dict(settings or {})

    def evaluated(name: str, identity: Any, scorer: Callable[[], ScoreBlock]) -> Evaluation:
        def ranked() -> np.ndarray:
            options = {"ks": config.eval.ks, "shared": shared, "progress": past.reporter.bar}
            return evaluate_scores(scorer(), task, **options).topk

        topk = ranked() if lists is None else lists.get(name, identity, ranked)
        metrics = ranking_metrics(topk, task.targets, catalogue=task.catalogue, ks=config.eval.ks)
        return Evaluation(metrics, topk)

    with run.clock("test"):
        of_model = [_digest(run.embeddings), part_beside(past, task.protocol.name)]
        models = {name: evaluated(name, of_model, scorer) for name, scorer in models_of(past, task).items()}
    with run.clock("baselines"):
        history = functools.cache(lambda: history_of(run, task.protocol))
        of_baselines = {
            name: evaluated(
                name,
                settings_to_json({name: chosen[name]} if name in chosen else {}),
                lambda name=name: fit(
                    name, history(), chosen.get(name), seed=config.train.seed, progress=past.reporter.bar
                ),
            )
            for name in names
        }
    with run.clock("test"):
        return summary(models, of_baselines, task, ks=config.eval.ks, seed=config.train.seed)


def _identity(run: Run, task: RankingTask) -> dict[str, Any]:
    """The values that all lists of a task depend on."""
    settings = {name: getattr(run.config.eval, name) for name in ("ks", "min_played_pct")}
    return {
        "dataset": run.dataset.fingerprint,
        "protocol": dataclasses.asdict(task.protocol),
        "split": task.split,
        "seed": run.config.train.seed,
        **settings,
    }


def _digest(arrays: Sequence[jax.Array]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def fitted_baselines(
    run: Run, task: RankingTask, names: Sequence[str], settings: Mapping[str, Settings] | None = None
) -> Iterator[tuple[str, ScoreBlock]]:
    """Fits the baselines of a task on train, one by one; a name without settings gets the defaults."""
    return fit_baselines(
        names,
        run.events("train"),
        task.protocol,
        **baseline_inputs(run),
        settings=settings,
        progress=run.reporter.bar,
    )


def history_of(run: Run, protocol: Protocol) -> History:
    """The train history that baselines of a protocol are fitted on."""
    inputs = {name: value for name, value in baseline_inputs(run).items() if name != "seed"}
    return History.of(run.events("train"), protocol.history, **inputs)


def baseline_names(config: Config, protocol: str, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """The baselines to compare a model with.

    Args:
      config: its eval.baselines are used if none are given.
      protocol: by name. A protocol over held-out songs has its own baselines, which can rank such songs.
      given: names, or ("all",).
    """
    cold = find_protocol(protocol).candidates == "held_out"
    if given is None:
        return COLD_START if cold else tuple(config.eval.baselines)
    return (COLD_START if cold else BASELINES) if tuple(given) == ("all",) else tuple(given)


def baseline_inputs(run: Run) -> dict[str, Any]:
    """The common arguments of fitting and of tuning baselines."""
    return {
        "num_users": run.dataset.num_users,
        "num_items": run.dataset.num_items,
        "train_end": run.dataset.train_end,
        "seed": run.config.train.seed,
        "min_played_pct": run.config.eval.min_played_pct,
        "features": lambda: run.features,
    }


def read_baseline_settings(path: Path) -> dict[str, Settings]:
    """The settings in a file of `tuned_baselines`. Raises UserError if it has none."""
    stored = read_json(path, remedy=_TUNE_AGAIN)
    return settings_from_json(stored.get("settings") if isinstance(stored, dict) else None, source=str(path))


def tuned_baselines(run: Run, validation: RankingTask, path: Path, *, names: Sequence[str]) -> dict[str, Settings]:
    """Tunes baselines by config.eval.metric on the validation split; the chosen settings are kept in a JSON file.

    Args:
      run: baselines are fitted on its train events, and its config.eval.metric chooses.
      validation: the validation task of the protocol.
      path: the file. Baselines with stored settings for this data, protocol and metric are not tuned again.
      names: baselines; those without settings are skipped.
    """
    metric = run.config.eval.metric
    identity = {"dataset": run.dataset.fingerprint, "protocol": validation.protocol.name, "metric": metric}
    kept = {"settings": {}, "trials": {}}
    if path.exists():
        stored = read_json(path, {"settings?": dict, "trials?": dict}, remedy=_TUNE_AGAIN)
        if {key: stored.get(key) for key in identity} == identity:
            kept = {key: stored.get(key, {}) for key in kept}
    found = settings_from_json(kept["settings"], source=str(path))
    missing = [name for name in names if name in SETTINGS and name not in found]
    tuning = tune_baselines(
        missing,
        run.events("train"),
        validation,
        **baseline_inputs(run),
        metric=metric,
        progress=run.reporter.bar,
    )
    for name, tuned in tuning:
        found[name] = tuned.settings
        kept["trials"][name] = [
            settings_to_json({name: settings})[name] | {metric: value} for settings, value in tuned.trials
        ]
        # The file is written after each baseline, as some take minutes: a stop loses one at most.
        value = identity | {"settings": settings_to_json(found), "trials": kept["trials"]}
        if path.parent == run.workdir:
            keep_file(run, path.name, value)
        else:
            write_json(path, value)
        run.reporter.note(f"{name}: validation {metric} {tuned.value:.4f} with {tuned.settings}")
    return found


def verdict(result: Mapping[str, Any], *, metric: str) -> str:
    """One line: whether the model is ahead of the best baseline of `report`, and whether chance could be why."""
    if not result["baselines"]:
        return f"no baseline to compare with: model {metric} {result['model'][metric]:.4f}"
    best = max(result["baselines"], key=lambda name: result["baselines"][name][metric])
    ours, theirs = result["model"][metric], result["baselines"][best][metric]
    low, high = result["intervals"]["model_minus"][best].get(metric, (None, None))
    by = f"{result['split']} {metric} {ours:.4f} against {theirs:.4f} of {best}"
    by += "" if low is None else f", difference [{low:+.4f}, {high:+.4f}]"
    if low is not None and low > 0:
        return f"the model is ahead of every baseline: {by}"
    if high is not None and high < 0:
        return f"NOT AHEAD: {best} is better than the model, beyond chance: {by}"
    return f"NOT AHEAD: the difference between the model and {best} may be chance: {by}"


def report_table(result: dict[str, Any], *, metric: str) -> str:
    """The result of `report` as text, with the intervals of one metric."""
    rows = rows_of(result)
    head = f"protocol {result['protocol']}, split {result['split']}, {result['num_users']} users:"
    shown = columns(result["protocol"])
    lines = [head, metrics_table(rows, shown if metric in shown else (metric, *shown))]
    intervals = result["intervals"]
    if metric in intervals["model"]:
        width = max(map(len, rows))
        lines.append(f"95 % intervals over users of {metric}, and of the difference model - row:")
        for name in rows:
            low, high = (intervals.get(name) or intervals["baselines"][name])[metric]
            line = f"{name:<{width}}" + f"[{low:.4f}, {high:.4f}]".rjust(20)
            if name in intervals["model_minus"]:
                low, high = intervals["model_minus"][name][metric]
                line += f"[{low:+.4f}, {high:+.4f}]".rjust(22)
            lines.append(line)
    return "\n".join(lines)


def rows_of(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The metrics of the model's forms and of the baselines, by name, from the result of `report`."""
    models = ("model", "model_without_recency", "model_without_filter")
    return {name: result[name] for name in models if name in result} | result["baselines"]


def metrics_table(rows: dict[str, dict[str, float]], columns: tuple[str, ...]) -> str:
    """A text table with one row per model and one column per metric; empty columns are left out."""
    shown = [c for c in columns if any(c in row for row in rows.values())]
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{c:>14}" for c in shown)]
    for name, row in rows.items():
        lines.append(f"{name:<{width}}" + "".join(f"{row[c]:>14.4f}" if c in row else " " * 14 for c in shown))
    return "\n".join(lines)


def columns(protocol: str) -> tuple[str, ...]:
    """Metrics of a protocol's printed tables."""
    return YAMBDA_COLUMNS if find_protocol(protocol).needs == "global_temporal" else TABLE_COLUMNS


_TUNE_AGAIN = "delete it and tune again with --tune_baselines"

TABLE_COLUMNS = ("recall@20", "ndcg@20", "hit_rate@20", "mrr@20", "map@20", "coverage@20", "recall@100", "ndcg@100")
# The metrics of the Yambda paper's tables, with pooled NDCG.
YAMBDA_COLUMNS = ("ndcg_pooled@10", "ndcg_pooled@100", "recall@10", "recall@100", "coverage@10", "coverage@100")
