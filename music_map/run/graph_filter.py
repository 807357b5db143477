"""The graph filter of a run: chosen on validation, beside the encoder of the best checkpoint.

WORKDIR/graph_filter/PROTOCOL.json    the choice for a protocol
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from music_map import processes
from music_map.errors import UserError
from music_map.evaluation.protocols import find_protocol
from music_map.graph_filter.choose import Choice, Tried, choose, groups_of, sample_of, search, try_shares
from music_map.graph_filter.scores import MixedScorer
from music_map.graph_filter.settings import KINDS
from music_map.reporter import Stoppable
from music_map.run.run import Run, keep, read_kept
from music_map.storage import fingerprint

# Raise it when filters or the rule of the choice change: filters are then chosen anew.
FORMAT_VERSION = 3
FOLDER = "graph_filter"


def filter_for(run: Run, protocol: str, *, should_stop: Callable[[], bool] = lambda: False) -> Choice | None:
    """The filter and its share for a protocol, chosen now unless they are stored; None: the encoder's own score.

    Args:
      run: trained.
      protocol: by name.
      should_stop: see `music_map.reporter.Stoppable`.
    """
    settings, found = run.config.graph_filter, find_protocol(protocol)
    if not settings.enabled or found.candidates == "held_out" or found.queries != "users":
        return None
    if settings.share is not None:
        exponent = KINDS.find(settings.kinds[0]).exponents[0] if settings.exponent is None else settings.exponent
        return Choice(settings.kinds[0], exponent, settings.share) if settings.share else None
    if run.config.data.train_on_val:
        run.reporter.note(
            "graph filter: none, as validation is in train; give config.graph_filter.share and kinds of a run before"
        )
        return None
    identity = fingerprint(
        {
            "version": FORMAT_VERSION,
            "dataset": run.dataset.fingerprint,
            "step": run.trained.step,
            "settings": dataclasses.asdict(settings),
            "protocol": found.described(),
            "min_played_pct": run.config.eval.min_played_pct,
            "metric": run.config.eval.metric,
            "seed": run.config.train.seed,
        }
    )
    name = f"{FOLDER}/{protocol}.json"
    stored = processes.from_first(_kept(run, name, identity))
    choice = _chosen(run, protocol, name, identity, should_stop) if stored is None else Choice(*stored)
    return choice if choice.share > 0 else None


def _kept(run: Run, name: str, identity: str) -> Choice | None:
    """The choice in a file of `filter_for`; None if it is missing, damaged or another model's."""
    form = {"fingerprint": str, "kind": str, "exponent": float, "share": float}
    stored = read_kept(run, name, form)
    if not stored or stored["fingerprint"] != identity or stored["kind"] not in KINDS:
        return None
    return Choice(stored["kind"], stored["exponent"], stored["share"])


def _chosen(run: Run, protocol: str, name: str, identity: str, should_stop: Callable[[], bool]) -> Choice:
    settings, config = run.config.graph_filter, run.config
    reporter = Stoppable(run.reporter, should_stop) if processes.count() == 1 else run.reporter
    alone = Choice(settings.kinds[0], 0.0, 0.0)
    try:
        task = sample_of(run.task(protocol, "val"), settings.num_users, seed=config.train.seed)
    except UserError:  # no user has a target there
        return alone
    groups = groups_of(mixed_scores(run, Choice("linear", 0.0, 0.0)), task)

    def trial(kind: str, exponent: float) -> Tried:
        scorer, options = mixed_scores(run, Choice(kind, exponent, 0.0)), {"progress": reporter.bar}
        return try_shares(scorer, kind, exponent, task, groups, metric=config.eval.metric, **options)

    exponents = {
        kind: KINDS.find(kind).exponents if settings.exponent is None else (settings.exponent,)
        for kind in settings.kinds
    }
    tried = search(exponents, trial)
    choice, values = choose(tried)
    run.reporter.note(
        f"graph filter: {choice.kind}, exponent {choice.exponent:g}, share {choice.share:g}: validation "
        f"{config.eval.metric} at least {dict(values)[choice]:.3f} times that of the encoder alone in each group of "
        f"targets, of {len(task.users)} users"
    )
    if processes.first():
        trials = [{**candidate._asdict(), "value": value} for candidate, value in values]
        keep(run, name, {"fingerprint": identity, "protocol": protocol, **choice._asdict(), "trials": trials})
    return choice


def mixed_scores(run: Run, choice: Choice) -> MixedScorer:
    """The encoder of the best checkpoint mixed with a filter of the run's graph."""
    graph = run.filtered_graph
    operator = graph.operator(choice.kind, choice.exponent)
    return MixedScorer(*run.embeddings, graph.rows, operator, choice.share, backend=graph.backend)
