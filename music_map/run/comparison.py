"""Two runs on the same task: metrics, paired differences, and whether these may be chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from music_map.errors import UserError
from music_map.evaluation.evaluate import Evaluation, compare, evaluate_scores, intervals
from music_map.evaluation.playlist import PlaylistTask, default_seeds
from music_map.evaluation.protocols import RankingTask, find_protocol
from music_map.evaluation.uncertainty import NUM_PERMUTATIONS
from music_map.reporter import SILENT, Reporter
from music_map.run import sessions
from music_map.run.evaluation import models_of
from music_map.run.folder import check_same_data, read_record
from music_map.run.playlist import heads_for
from music_map.run.recency import Past
from music_map.run.run import open_run

TEST = f"paired randomization test over users, two-sided, {NUM_PERMUTATIONS:,} random assignments of signs"


class _Task(NamedTuple):
    """The task of both runs; `sessions` is None for a task over users."""

    ranking: RankingTask
    sessions: PlaylistTask | None


def compare_runs(
    run_a: Path, run_b: Path, *, protocol: str, split: str, max_sessions: int, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Evaluates the best checkpoints of two runs that were trained on the same data; a difference is A minus B.

    Args:
      run_a, run_b: folders of the runs.
      protocol: of the task, by name.
      split: "val" or "test".
      max_sessions: protocol playlist: sessions drawn of a number of seeds.
      reporter: shows slow stages.

    Returns:
      {"protocol", "split", "a" and "b": {"workdir", "step", "metrics", "intervals"}, "differences", "test",
      "num_users", and over sessions "num_seeds" and "num_queries"}, JSON-able.

    Raises:
      UserError: a run is not trained, or the two were trained on different data.
    """
    if find_protocol(protocol).queries == "new_users":
        raise UserError(
            f"protocol {protocol!r} compares a run with itself; see launch/evaluate.py --protocol={protocol}"
        )
    workdirs = (run_a, run_b)
    records = [read_record(workdir) for workdir in workdirs]
    check_same_data(workdirs, records)
    task, found, steps, ks = None, [], [], records[0].config.eval.ks
    for workdir in workdirs:
        past = Past(open_run(workdir, reporter=reporter))
        task = task or _task_of(past, protocol, split, max_sessions)
        if task.sessions is None:
            scores = models_of(past, task.ranking)["model"]()
        else:
            scores = sessions.model_scores(past.run, task.sessions, heads_for(past))
        steps.append(past.run.trained.step)
        found.append(evaluate_scores(scores, task.ranking, ks=ks, progress=reporter.bar))
    return {"protocol": protocol, "split": split, **_compared(workdirs, steps, found, task, ks)}


def _task_of(past: Past, protocol: str, split: str, max_sessions: int) -> _Task:
    if find_protocol(protocol).queries != "sessions":
        return _Task(past.run.task(protocol, split), None)
    tasks = sessions.tasks_for(past.run, split, max_sessions=max_sessions)
    chosen = tasks[default_seeds(tasks)]
    return _Task(chosen.ranking, chosen)


def _compared(
    workdirs: tuple[Path, Path], steps: list[int], found: list[Evaluation], task: _Task, ks: tuple[int, ...]
) -> dict[str, Any]:
    options = {"ks": ks, "groups": None if task.sessions is None else task.sessions.users}
    spread = intervals({"model": found[0]}, {"b": found[1]}, task.ranking, **options)
    bounds = (spread["model"], spread["baselines"]["b"])
    result = {
        key: {"workdir": str(workdir), "step": step, "metrics": each.metrics, "intervals": of_run}
        for key, workdir, step, each, of_run in zip("ab", workdirs, steps, found, bounds, strict=True)
    }
    result |= {"differences": compare(*found, task.ranking, **options), "test": TEST}
    if task.sessions is None:
        return result | {"num_users": len(task.ranking.users)}
    queries = {"num_seeds": task.sessions.num_seeds, "num_queries": len(task.sessions.users)}
    return result | {"num_users": len(set(task.sessions.users.tolist()))} | queries
