"""Evaluates a trained run and the baselines, by any protocol; the result as text."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from music_map.evaluation.baselines import check_names, settings_to_json
from music_map.evaluation.baselines.settings import Settings
from music_map.evaluation.protocols import find_protocol
from music_map.run import evaluation, new_users, sessions
from music_map.run.config import Config
from music_map.run.playlist import heads_for
from music_map.run.recency import Past
from music_map.run.run import Run, check_protocol
from music_map.text import html_table


class Evaluation(dict):
    """What `evaluate` gives: JSON-able values, printed as a table.

    Attributes:
      metric: whose intervals are printed.
    """

    def __init__(self, values: Mapping[str, Any], *, metric: str):
        super().__init__(values)
        self.metric = metric

    def __repr__(self) -> str:
        return f"{evaluation.verdict(self, metric=self.metric)}\n{report_table(self, metric=self.metric)}"

    def _repr_html_(self) -> str:
        rows, spread = evaluation.rows_of(self), self["intervals"]
        shown = [name for name in evaluation.columns(self["protocol"]) if any(name in row for row in rows.values())]
        head = f"{self['protocol']}, {self['split']}, {self['num_users']:,} users"
        lines = []
        for name, row in rows.items():
            cells = [f"{row[column]:.4f}" if column in row else "" for column in shown]
            low, high = (spread.get(name) or spread["baselines"][name]).get(self.metric, (None, None))
            lines.append((name, *cells, "" if low is None else f"[{low:.4f}, {high:.4f}]"))
        told = html.escape(evaluation.verdict(self, metric=self.metric))
        return f"<p>{told}</p>" + html_table((head, *shown, f"95 % of {self.metric}"), lines)


def evaluate(
    run: Run,
    protocol: str | None = None,
    split: str = "test",
    *,
    baselines: Sequence[str] | None = None,
    settings: Mapping[str, Settings] | None = None,
    max_sessions: int = 10_000,
) -> Evaluation:
    """The best checkpoint of a run beside baselines, as JSON-able values.

    Args:
      run: see `music_map.run.run.open_run`.
      protocol: by name; None: config.eval.protocol.
      split: "val" or "test".
      baselines: names, or ("all",); None: those of the configuration that apply.
      settings: of the baselines, by name; a baseline without them has the defaults.
      max_sessions: protocol playlist: sessions drawn of a number of seeds.

    Returns:
      See `evaluation.report`, for the protocol playlist `sessions.report`, for fold_in `new_users.report`; with "step"
      of the checkpoint and "baseline_settings" as they were given.

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
    elif find_protocol(protocol).queries == "new_users":
        result = new_users.report(past, split, **options)
    else:
        result = evaluation.report(past, run.task(protocol, split), **options)
    used = settings_to_json({name: found for name, found in (settings or {}).items() if name in names})
    found = result | {"baseline_settings": used, "step": run.trained.step}
    return Evaluation(found, metric=run.config.eval.metric)


def baseline_names(config: Config, protocol: str, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """The baselines to put beside a model: those given, all for ("all",), or those of the configuration that apply.

    Raises:
      UserError: one is unknown, not installed, or needs what the protocol does not have.
    """
    if find_protocol(protocol).queries == "sessions":
        return sessions.baseline_names(config, given)
    if find_protocol(protocol).queries == "new_users":
        return new_users.baseline_names(given)
    names = evaluation.baseline_names(config, protocol, given)
    check_names(names)
    return names


def report_table(result: dict[str, Any], *, metric: str) -> str:
    """What `evaluate` gave, as text."""
    kinds = {"seeds": sessions, "of_trained": new_users}
    return next((kinds[key] for key in kinds if key in result), evaluation).report_table(result, metric=metric)
