"""A trained run beside the baselines, by any protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from music_map.evaluation.baselines import check_names, settings_to_json
from music_map.evaluation.baselines.settings import Settings
from music_map.evaluation.protocols import find_protocol
from music_map.run import evaluation, sessions
from music_map.run.config import Config
from music_map.run.playlist import heads_for
from music_map.run.recency import Past
from music_map.run.run import Run, check_protocol


def evaluate(
    run: Run,
    protocol: str | None = None,
    split: str = "test",
    *,
    baselines: Sequence[str] | None = None,
    settings: Mapping[str, Settings] | None = None,
    max_sessions: int = 10_000,
) -> dict[str, Any]:
    """The best checkpoint of a run beside baselines, as JSON-able values.

    Args:
      run: see `music_map.run.run.open_run`.
      protocol: by name; None: config.eval.protocol.
      split: "val" or "test".
      baselines: names, or ("all",); None: those of the configuration that apply.
      settings: of the baselines, by name; the defaults where a name is not there.
      max_sessions: protocol playlist: sessions drawn of a number of seeds.

    Returns:
      See `evaluation.report` and, for the protocol playlist, `sessions.report`; with "step" of the checkpoint and
      "baseline_settings" as they were given.

    Raises:
      UserError: a protocol or baseline that is unknown or does not apply, or a run that is not trained.
    """
    protocol = run.config.eval.protocol if protocol is None else protocol
    check_protocol(run.config, protocol)
    names, past = baseline_names(run.config, protocol, baselines), Past(run)
    options = {"baselines": names, "settings": settings}
    if find_protocol(protocol).queries == "sessions":
        tasks = sessions.tasks_for(run, split, max_sessions=max_sessions)
        result = sessions.report(run, tasks, heads=heads_for(past), **options)
    else:
        result = evaluation.report(past, run.task(protocol, split), **options)
    used = settings_to_json({name: found for name, found in (settings or {}).items() if name in names})
    return result | {"baseline_settings": used, "step": run.trained.step}


def baseline_names(config: Config, protocol: str, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """The baselines to put beside a model: those given, all for ("all",), or those of the configuration that apply.

    Raises:
      UserError: one is unknown, not installed, or needs what the protocol does not have.
    """
    if find_protocol(protocol).queries == "sessions":
        return sessions.baseline_names(config, given)
    names = evaluation.baseline_names(config, protocol, given)
    check_names(names)
    return names


def report_table(result: dict[str, Any], *, metric: str) -> str:
    """What `evaluate` gave, as text."""
    return (sessions if "seeds" in result else evaluation).report_table(result, metric=metric)
