"""Compares two runs on the same task: metrics side by side, paired differences, and whether they may be chance.

    python launch/compare.py checkpoints/new checkpoints/old
    python launch/compare.py checkpoints/new checkpoints/old --protocol=playlist --split=val --output=compare.json

Evaluates the best checkpoint of RUN_A and of RUN_B, which must have been trained on the same data. A difference is that
of A less B; its interval is the 95 % bootstrap interval over users, its p-value that of a paired randomization test
over users (two-sided, 10,000 random assignments of signs, not corrected for the number of metrics).
"""

from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from launch import app, attention, experiment, playlist, recency
from music_map.evaluation.evaluate import Evaluation, compare, evaluate_scores, intervals
from music_map.evaluation.playlist import default_seeds
from music_map.evaluation.protocols import PROTOCOLS, find_protocol
from music_map.evaluation.uncertainty import NUM_PERMUTATIONS
from music_map.storage import write_json

_PROTOCOL = flags.DEFINE_string("protocol", None, f"One of {', '.join(PROTOCOLS)}; by default RUN_A's eval.protocol.")
_SPLIT = flags.DEFINE_string("split", "test", "Split to evaluate on: val or test.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_SESSIONS = flags.DEFINE_integer("max_sessions", 10_000, "Protocol playlist: sessions drawn of a number of seeds.", 1)

TEST = f"paired randomization test over users, two-sided, {NUM_PERMUTATIONS:,} random assignments of signs"


class _Task(NamedTuple):
    """The task that both runs answer: `sessions` is None where it is one over users."""

    ranking: Any
    sessions: Any


def main(run_a: str, run_b: str) -> int:
    workdirs = [app.path_of(run_a, "RUN_A"), app.path_of(run_b, "RUN_B")]
    output = None if _OUTPUT.value is None else app.file_to_write(_OUTPUT.value, "output")
    app.check_split(_SPLIT.value)
    opened = [experiment.open_workdir(workdir) for workdir in workdirs]
    experiment.check_same_data(workdirs, opened)
    config = opened[0].config
    protocol = _PROTOCOL.value if _PROTOCOL.value is not None else config.eval.protocol
    experiment.check_protocol(config, protocol, "--protocol")

    task, found, steps = None, [], []
    for workdir, run in zip(workdirs, opened, strict=True):
        step, task, evaluation = _evaluate(workdir, run, protocol, task, ks=tuple(config.eval.ks))
        steps.append(step)
        found.append(evaluation)
    options = {"ks": tuple(config.eval.ks), "groups": None if task.sessions is None else task.sessions.users}
    spread = intervals({"model": found[0]}, {"b": found[1]}, task.ranking, **options)
    differences = compare(*found, task.ranking, **options)
    bounds = (spread["model"], spread["baselines"]["b"])
    users = task.ranking.users if task.sessions is None else set(task.sessions.users.tolist())
    result = {
        "protocol": protocol,
        "split": _SPLIT.value,
        **{
            key: {"workdir": str(workdir), "step": step, "metrics": each.metrics, "intervals": of_run}
            for key, workdir, step, each, of_run in zip("ab", workdirs, steps, found, bounds, strict=True)
        },
        "differences": differences,
        "test": TEST,
        "num_users": len(users),
        **(
            {}
            if task.sessions is None
            else {"num_seeds": task.sessions.num_seeds, "num_queries": len(task.sessions.users)}
        ),
    }
    app.say(_table(result))
    if output is not None:
        write_json(output, result)
        app.say(f"all metrics in {output}")
    return 0


def _evaluate(
    workdir: Path, opened: experiment.Run, protocol: str, task: _Task | None, *, ks: tuple[int, ...]
) -> tuple[int, _Task, Evaluation]:
    """Step, task and lists of a run's best checkpoint; the task is made where there is none yet."""
    run = experiment.load(opened.config, trained_on=opened.dataset)
    step, params = experiment.best_params(run, workdir)
    if find_protocol(protocol).queries == "sessions":
        if task is None:
            tasks = playlist.tasks_for(run, _SPLIT.value, max_sessions=_SESSIONS.value)
            sessions = tasks[default_seeds(tasks)]
            task = _Task(sessions.ranking, sessions)
        scores = playlist.model_scores(run, params, task.sessions, attention.heads_for(run, workdir))
    else:
        task = task or _Task(experiment.task_for(run, protocol, _SPLIT.value), None)
        scores = recency.scores_for(run, workdir, params, task.ranking) or experiment.model_scores(run, params)
    return step, task, evaluate_scores(scores, task.ranking, ks=ks, progress=app.bar)


def _table(result: dict[str, Any]) -> str:
    """Metrics of both runs, differences, intervals and p-values: a row a metric."""
    lines = [f"{key.upper()}: {result[key]['workdir']}, checkpoint of step {result[key]['step']}" for key in "ab"]
    seeds = f", {result['num_seeds']} seeds" if "num_seeds" in result else ""
    lines.append(f"protocol {result['protocol']}{seeds}, split {result['split']}, {result['num_users']} users:")
    lines.append(f"{'':<16}{'A':>10}{'B':>10}{'A - B':>10}{'95 % interval':>22}{'p':>10}")
    for key in experiment.columns(result["protocol"]):
        values = [result[name]["metrics"].get(key) for name in "ab"]
        if None in values:
            continue
        line = f"{key:<16}{values[0]:>10.4f}{values[1]:>10.4f}{values[0] - values[1]:>+10.4f}"
        if key in result["differences"]:
            each = result["differences"][key]
            line += "[{:+.4f}, {:+.4f}]".format(*each["interval"]).rjust(22) + f"{each['p_value']:>10.4f}"
        lines.append(line)
    lines.append(f"p: {result['test']}")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main, arguments=("RUN_A", "RUN_B"))
