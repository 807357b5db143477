"""The recency score of a run: its head is fitted on past windows of train, with an encoder that knows none of them.

WORKDIR/recency/checkpoints      the encoder that was trained up to the first window, as long as the run's own
WORKDIR/recency/PROTOCOL.json    the head's weights for a protocol
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from launch import app, experiment, stages
from launch.experiment import Experiment
from music_map import processes
from music_map.errors import DamagedFileError, UserError
from music_map.evaluation.protocols import RankingTask, build_task, find_protocol
from music_map.evaluation.ranking import ScoreBlock
from music_map.graph.build import build_graph
from music_map.model.encoder import Params
from music_map.preprocess.dataset import SPLITS, Events
from music_map.recency.fit import Examples, fit_head, gather, join
from music_map.recency.history import Histories, before
from music_map.recency.moment import Moment, observe
from music_map.recency.scores import FEATURES, Embeddings, RecencyScorer, Weights
from music_map.recency.settings import RecencySettings
from music_map.recency.windows import Window, choose_windows
from music_map.storage import fingerprint, read_json, write_json
from music_map.training.loop import fit, steps_per_epoch
from music_map.training.metrics_log import MetricsLog

# Raised when features or fit change their meaning: heads of an older version are then fitted anew.
FORMAT_VERSION = 1
# Protocols whose head ranks for use: with heard songs, and without.
HEARD, UNHEARD = "temporal_repeats", "temporal"


def windows_of(run: Experiment) -> list[Window]:
    """The past windows to fit on; none where recency is off, times are unknown or train is too short."""
    config = run.config
    if not config.recency.enabled or config.data.format == "text":
        return []
    # train_on_val moves val into train; a window is as long as what is held out either way.
    data = config.data
    held_out = 1 - data.train_fraction - data.val_fraction if data.train_on_val else data.val_fraction
    known = data.train_fraction + data.val_fraction * data.train_on_val
    return choose_windows(
        run.dataset.events("train"),
        split=data.split,
        held_out_share=held_out / known,
        enough_users=config.recency.num_users,
    )


def as_of(run: Experiment, now: int) -> Experiment:
    """The experiment as it was at the end of the second `now`: graph and data end there."""
    dataset = run.dataset.as_of(now + 1)
    if processes.count() > 1:
        return experiment.assemble(run.config, dataset, *experiment.graph_of(run.config, dataset, past=True))
    graph, _ = build_graph(dataset, stages.graph_settings(run.config))
    return experiment.assemble(run.config, dataset, graph)


def calibrate(run: Experiment, workdir: Path, *, best_step: int, should_stop: Callable[[], bool]) -> bool:
    """Trains the encoder that the head is fitted with, and fits the head of the configuration's protocol.

    The encoder sees the events before the earliest window alone, for as many epochs as the run's best checkpoint had,
    and at most config.recency.max_epochs: the weights hardly depend on them (docs/benchmarks.md).
    Does nothing where that has been done, or where there is no window.

    Args:
      run: the run.
      workdir: its folder.
      best_step: step of its best checkpoint.
      should_stop: asked between dispatches.

    Returns:
      Whether it came to the end; False after a stop, from which the same call goes on.
    """
    windows = windows_of(run)
    if not windows:
        return True
    past = as_of(run, windows[-1].now)
    batch = run.config.train.batch_size
    epochs = math.ceil(best_step / steps_per_epoch(run.graph.num_edges, batch) - 1e-6)
    epochs = max(1, min(epochs, run.config.recency.max_epochs))
    settings = dataclasses.replace(experiment.loop_settings(run.config), num_epochs=epochs, min_steps=0)
    with experiment.checkpoint_store(workdir / "recency", read_only=False) as store:
        result = fit(
            runner=past.runner,
            settings=settings,
            store=store,
            log=MetricsLog(workdir / "recency" / "metrics.jsonl", writes=processes.first()),
            evaluate=None,
            should_stop=should_stop,
            progress=app.bar,
        )
    if result.reason == "signal":
        return False
    weights_for(run, workdir, run.config.eval.protocol)
    return True


def _examples_of(run: Experiment, windows: list[Window], params: Params, protocol: str) -> list[Examples]:
    """The fit's examples of each window that has a user with targets."""
    dataset, settings = run.dataset, RecencySettings(**run.config.recency)
    train = dataset.events("train")
    found = []
    for number, window in enumerate(windows):
        targets = window.targets(train)
        try:
            task = build_task(
                protocol,
                "val",
                train=before(train, window.now),
                val=targets,
                test=targets,
                num_users=dataset.num_users,
                num_items=dataset.num_items,
                min_played_pct=run.config.eval.min_played_pct,
            )
        except UserError:  # nobody of the window has a target that the protocol counts
            continue
        past = as_of(run, window.now)
        scorer = _scorer(run, experiment.encode(past, params), {}, train, now=window.now)
        found.append(gather(task, scorer, settings, seed=run.config.train.seed + number, progress=app.bar))
    return found


def _scorer(
    run: Experiment, embeddings: tuple[jax.Array, jax.Array], weights: Weights, events: Events, *, now: int
) -> RecencyScorer:
    """The scorer of all users as of the second `now`; later ones of `events` are not read."""
    num_users = run.dataset.num_users
    return RecencyScorer(
        Embeddings(*embeddings),
        weights,
        _moment(run, events, now),
        Histories.of(events, num_users=num_users),
        latest_length=run.config.recency.latest_songs,
        backend=run.settings.model.backend,
    )


# By the data's fingerprint, number of events and time: several protocols share them.
_moments: dict[tuple[str, int, int], Moment] = {}


def _moment(run: Experiment, events: Events, now: int) -> Moment:
    key = run.dataset.fingerprint, len(events.user), now
    if key not in _moments:
        features = run.dataset.item_features()
        sizes = {"num_users": run.dataset.num_users, "num_items": run.dataset.num_items}
        _moments[key] = observe(events, features, now=now, **sizes)
    return _moments[key]


def weights_for(run: Experiment, workdir: Path, protocol: str) -> Weights | None:
    """The head's weights for a protocol, fitted now where that has not been done; None for a run without recency."""
    folder = workdir / "recency"
    windows = windows_of(run)
    # Nothing recent is known of held-out songs.
    cold = find_protocol(protocol).candidates == "held_out"
    if cold or not windows or not (folder / "checkpoints").is_dir():
        return None
    past = as_of(run, windows[-1].now)
    step, params = experiment.best_params(past, folder)
    identity = fingerprint(
        {
            "version": FORMAT_VERSION,
            "dataset": run.dataset.fingerprint,
            "step": step,
            "settings": dataclasses.asdict(RecencySettings(**run.config.recency)),
            "protocol": dataclasses.asdict(find_protocol(protocol)),
            "min_played_pct": run.config.eval.min_played_pct,
            "features": FEATURES,
        }
    )
    path = folder / f"{protocol}.json"
    if kept := processes.from_first(_kept_weights(path, identity)):
        return kept
    examples = _examples_of(run, windows, params, protocol)
    if not examples:
        app.warn(f"no past window has a target of protocol {protocol!r}; the encoder's own score is used")
        return None
    joined = join(examples)
    weights = fit_weights(run, joined)
    app.note(f"recency: fitted for protocol {protocol} on {len(joined.target)} users of {len(examples)} past windows")
    if processes.first():
        write_json(
            path,
            {
                "fingerprint": identity,
                "protocol": protocol,
                "num_users": len(joined.target),
                "windows": [dataclasses.asdict(window) for window in windows],
                "weights": weights,
            },
        )
    return weights


def _kept_weights(path: Path, identity: str) -> Weights | None:
    """The weights in a file of `weights_for`; None where it is missing, damaged or another model's."""
    if not path.exists():
        return None
    try:
        stored = read_json(path)
        if stored["fingerprint"] == identity:
            return {name: float(stored["weights"][name]) for name in FEATURES}
    except (DamagedFileError, KeyError, TypeError, ValueError):
        app.warn(f"{path}: is damaged; fitted anew")
    return None


def fit_weights(run: Experiment, examples: Examples, *, used: Sequence[str] = FEATURES) -> Weights:
    """The weights of the features in `used`, drawn to the score that the encoder was trained for."""
    loss = run.settings.loss
    prior = {"user": 1.0 if loss.name in ("bpr", "sampled_bpr") else 1.0 / loss.temperature}
    return fit_head(examples, strength=run.config.recency.strength, prior=prior, used=used)


def ablations(
    run: Experiment, workdir: Path, params: Params, task: RankingTask, parts: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, ScoreBlock]]:
    """The scores of heads that were fitted on some of the features only.

    Args:
      run, workdir: of a run with recency.
      params: its parameters.
      task: whose users are scored.
      parts: features by name.
    """
    windows = windows_of(run)
    _, past_params = experiment.best_params(as_of(run, windows[-1].now), workdir / "recency")
    examples = join(_examples_of(run, windows, past_params, task.protocol.name))
    dataset = run.dataset
    scorer = _scorer(run, experiment.encode(run, params), {}, dataset.events("train"), now=dataset.train_end)
    for name, used in parts.items():
        yield name, scorer.at(weights=fit_weights(run, examples, used=used))


def scores_for(run: Experiment, workdir: Path, params: Params, task: RankingTask) -> ScoreBlock | None:
    """The model's scores with recency for the users of a task, as of the end of train; None without recency."""
    weights = weights_for(run, workdir, task.protocol.name)
    if weights is None:
        return None
    dataset = run.dataset
    return _scorer(run, experiment.encode(run, params), weights, dataset.events("train"), now=dataset.train_end)


def present_scores(opened: experiment.Run, workdir: Path, *, heard: bool) -> RecencyScorer | None:
    """The recency score of all songs at the end of all logs, for use and not for measuring.

    Args:
      opened: the run.
      workdir: its folder.
      heard: whether heard songs may be recommended: then the head is that of a protocol that masks none.

    Returns:
      from user indices int32 [B] to scores [B, I]; None without recency.
    """
    if not opened.config.recency.enabled or not (workdir / "recency" / "checkpoints").is_dir():
        return None
    run = experiment.load(opened.config, trained_on=opened.dataset, quiet=True)
    weights = weights_for(run, workdir, HEARD if heard else UNHEARD)
    if weights is None:
        return None
    splits = [run.dataset.events(split) for split in SPLITS]
    events = Events(*(np.concatenate(columns) for columns in zip(*splits, strict=True)))
    # The splits follow each other in time: a stable sort by user keeps each user's events in order.
    order = np.argsort(events.user, kind="stable")
    events = Events(*(column[order] for column in events))
    _, params = experiment.best_params(run, workdir)
    return _scorer(run, experiment.encode(run, params), weights, events, now=int(events.timestamp.max()))
