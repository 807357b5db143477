"""The recency head of a run: fitted on past windows of train, with an encoder trained before them.

WORKDIR/recency/checkpoints      the encoder, trained on the events before the earliest window
WORKDIR/recency/PROTOCOL.json    the head's weights for a protocol
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from music_map import processes
from music_map.errors import UserError
from music_map.evaluation.protocols import RankingTask, build_task, find_protocol
from music_map.evaluation.ranking import ScoreBlock
from music_map.preprocess.dataset import Events
from music_map.recency.cut import CutScorer
from music_map.recency.fit import Examples, fit_head, gather, join
from music_map.recency.history import Histories, before
from music_map.recency.moment import Moment, observe
from music_map.recency.scores import FEATURES, OF_MET, Embeddings, RecencyScorer, Weights, met
from music_map.recency.windows import Window, choose_windows
from music_map.reporter import Stoppable
from music_map.run.run import Run, Trained, best_checkpoint, checkpoint_store, keep, loop_settings, read_kept
from music_map.storage import fingerprint
from music_map.text import counted
from music_map.training.loop import fit
from music_map.training.metrics_log import MetricsLog

# Increase this when features or fit change: heads of an older version are then fitted again.
FORMAT_VERSION = 3
# Earlier versions had these features; a run that was trained then keeps its heads.
_FEATURES_OF_2 = tuple(name for name in FEATURES if name not in met(OF_MET))
_FEATURES_OF_1 = tuple(name for name in _FEATURES_OF_2 if not name.startswith("artist_share"))
# What the fit starts from: a song is played again in proportion to its activation. The encoder's own score was a worse
# prior on logs of few users.
PRIOR = {"activation^1.0": 1.0}
# The protocols of the two heads: one recommends heard songs too, the other only unheard songs.
HEARD, UNHEARD = "temporal_repeats", "temporal"


def folder_of(run: Run) -> Path:
    """The folder of a run's head."""
    return run.workdir / "recency"


class Past:
    """The past windows of a run, with the encoder at each; shared by heads and queries.

    Attributes:
      run: the run.
      should_stop: whether the work should stop.
      reporter: shows slow stages; its bars raise `music_map.reporter.Stopped` if the work should stop.
      windows: the latest first; none if recency is off, times are unknown or train is too short.
    """

    def __init__(self, run: Run, *, should_stop: Callable[[], bool] = lambda: False):
        self.run, self.should_stop = run, should_stop
        # With several processes none may stop alone, because the others would wait for it.
        self.reporter = Stoppable(run.reporter, should_stop) if processes.count() == 1 else run.reporter
        self.windows = windows_of(run)
        self._encoders: dict[int, Run] = {}
        self._moments: dict[tuple[int, int], Moment] = {}

    def __bool__(self) -> bool:
        """Whether there is a window with an encoder trained before it."""
        return bool(self.windows) and (folder_of(self.run) / "checkpoints").is_dir()

    def encoder(self, now: int) -> Run:
        """The run as of the end of the second `now`."""
        if now not in self._encoders:
            self._encoders[now] = self.run.as_of(now)
        return self._encoders[now]

    @functools.cached_property
    def trained(self) -> Trained:
        """The encoder trained before the windows."""
        return best_checkpoint(self.encoder(self.windows[-1].now), folder_of(self.run), self.run.workdir)

    @functools.cache  # noqa: B019  lives as long as the run
    def embeddings(self, now: int) -> Embeddings:
        """Embeddings of that encoder, with the graph as of the end of the second `now`."""
        return self.encoder(now).encode(self.trained.params)

    def moment(self, events: Events, *, now: int) -> Moment:
        """All songs as of the second `now`; cached."""
        key, dataset = (len(events.user), now), self.run.dataset
        if key not in self._moments:
            sizes = {"num_users": dataset.num_users, "num_items": dataset.num_items}
            given = {"now": now, "progress": self.reporter.bar, **sizes}
            self._moments[key] = observe(events, self.run.features, **given)
        return self._moments[key]

    def scorer(self, embeddings: Embeddings, weights: Weights, events: Events, *, now: int) -> RecencyScorer:
        """The scorer of all users as of the second `now`; later events are not read."""
        run = self.run
        cut = {} if run.mesh is None else {"mesh": run.mesh}
        return (CutScorer if cut else RecencyScorer)(
            embeddings,
            weights,
            self.moment(events, now=now),
            Histories.of(events, num_users=run.dataset.num_users),
            latest_length=run.config.recency.latest_songs,
            backend=run.settings.model.backend,
            **cut,
        )


def windows_of(run: Run) -> list[Window]:
    """The past windows to fit on; see Past."""
    config, data = run.config, run.config.data
    if not config.recency.enabled or data.format == "text":
        return []
    # A window is as long as the held-out split: the test split if train_on_val has moved val into train.
    held_out = 1 - data.train_fraction - data.val_fraction if data.train_on_val else data.val_fraction
    known = data.train_fraction + data.val_fraction * data.train_on_val
    return choose_windows(
        run.events("train"),
        split=data.split,
        held_out_share=held_out / known,
        enough_users=config.recency.num_users,
        few_users=config.recency.few_users,
    )


def train_past(past: Past, *, should_stop: Callable[[], bool]) -> bool:
    """Trains the encoder for fitting the head, on the events before the earliest window only.

    It trains for as many epochs as the run's best checkpoint, at most config.recency.max_epochs; the head's weights
    hardly depend on the number (docs/lab-notes.md). Does nothing if it is trained already or there is no window.

    Args:
      past: of the run.
      should_stop: called between dispatches.

    Returns:
      False after a stop, from which the same call continues; else True.
    """
    if not past.windows:
        return True
    run, folder = past.run, folder_of(past.run)
    epochs = math.ceil(run.trained.step / run.steps_per_epoch - 1e-6)
    epochs = max(1, min(epochs, run.config.recency.max_epochs))
    settings = dataclasses.replace(loop_settings(run.config), num_epochs=epochs, min_steps=0)
    with checkpoint_store(folder, run.workdir, read_only=False, reporter=run.reporter) as store:
        result = fit(
            runner=past.encoder(past.windows[-1].now).runner,
            settings=settings,
            store=store,
            log=MetricsLog(folder / "metrics.jsonl", writes=processes.first()),
            evaluate=None,
            should_stop=should_stop,
            progress=run.reporter.bar,
        )
    return result.reason != "signal"


def examples_of(past: Past, protocol: str) -> list[Examples]:
    """The examples of the fit, for each window in which a user has targets."""
    run = past.run
    dataset, train = run.dataset, run.events("train")
    found = []
    for number, window in enumerate(past.windows):
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
        except UserError:  # no user of the window has a target
            continue
        scorer = past.scorer(past.embeddings(window.now), {}, train, now=window.now)
        seed = run.config.train.seed + number
        found.append(gather(task, scorer, run.config.recency, seed=seed, progress=past.reporter.bar))
    return found


def weights_for(past: Past, protocol: str) -> Weights | None:
    """The head's weights for a protocol, fitted now unless they are stored; None for a run without recency."""
    # Held-out songs have no recent events.
    if find_protocol(protocol).candidates == "held_out" or not past:
        return None
    run = past.run
    settings = dataclasses.asdict(run.config.recency)
    described = {
        "version": FORMAT_VERSION,
        "dataset": run.dataset.fingerprint,
        "step": past.trained.step,
        "settings": settings,
        "protocol": find_protocol(protocol).described(),
        "min_played_pct": run.config.eval.min_played_pct,
        "features": FEATURES,
    }
    identity, name = fingerprint(described), f"{folder_of(run).name}/{protocol}.json"
    settings_of_1 = {field: value for field, value in settings.items() if field != "few_users"}
    earlier = (
        {"version": 2, "features": _FEATURES_OF_2},
        {"version": 1, "features": _FEATURES_OF_1, "settings": settings_of_1},
    )
    identities = {identity: FEATURES} | {fingerprint(described | one): one["features"] for one in earlier}
    if kept := processes.from_first(_kept_weights(run, name, identities)):
        return kept
    examples = examples_of(past, protocol)
    if not examples:
        run.reporter.warn(f"no past window has a target of protocol {protocol!r}; the encoder's own score is used")
        return None
    joined = join(examples)
    weights = fit_weights(run, joined)
    num_users = len(joined.target) if run.mesh is None else int(processes.sum_of(np.float64(len(joined.target))))
    run.reporter.note(
        f"recency: fitted for protocol {protocol} on {num_users} users of {counted(len(examples), 'past window')}"
    )
    if processes.first():
        found = {
            "fingerprint": identity,
            "protocol": protocol,
            "num_users": num_users,
            "windows": [dataclasses.asdict(window) for window in past.windows],
            "weights": weights,
        }
        keep(run, name, found)
    return weights


def _kept_weights(run: Run, name: str, identities: Mapping[str, Sequence[str]]) -> Weights | None:
    """The weights in a file of `weights_for`; None if it is missing, damaged or another model's.

    Args:
      run: of the file.
      name: of the file.
      identities: the features of a head by its fingerprint.
    """
    stored = read_kept(run, name, {"fingerprint": str, "weights": dict.fromkeys(_FEATURES_OF_1, float)})
    features = identities.get(stored["fingerprint"]) if stored else None
    return stored["weights"] if features is not None and set(features) == set(stored["weights"]) else None


def fit_weights(run: Run, examples: Examples, *, used: Sequence[str] = FEATURES) -> Weights:
    """The weights of the features in `used`."""
    return fit_head(examples, strength=run.config.recency.strength, prior=PRIOR, used=used, mesh=run.mesh)


def ablations(past: Past, task: RankingTask, parts: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, ScoreBlock]]:
    """Scores of heads fitted on some of the features.

    Args:
      past: of a run with recency.
      task: of the users to score.
      parts: features by name.
    """
    run = past.run
    examples = join(examples_of(past, task.protocol.name))
    scorer = past.scorer(run.embeddings, {}, run.events("train"), now=run.dataset.train_end)
    for name, used in parts.items():
        yield name, scorer.at(weights=fit_weights(run, examples, used=used))


def scores_for(past: Past, weights: Weights) -> ScoreBlock:
    """The model's scores with recency, at the end of train."""
    run = past.run
    return past.scorer(run.embeddings, weights, run.events("train"), now=run.dataset.train_end)


def heads_for_use(past: Past) -> dict[str, Weights] | None:
    """The weights in use, by HEARD and UNHEARD; None for a run without recency."""
    heard = weights_for(past, HEARD)
    # If no past window has new songs as targets, the other head is used for both.
    return None if heard is None else {HEARD: heard, UNHEARD: weights_for(past, UNHEARD) or heard}
