"""Settings of the baselines, chosen on the validation split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from music_map.evaluation.baselines.fit import TRAINED, check_names, fit, training
from music_map.evaluation.baselines.history import History
from music_map.evaluation.baselines.settings import SETTINGS, Settings
from music_map.evaluation.evaluate import evaluate_scores
from music_map.evaluation.protocols import MIN_PLAYED_PCT, RankingTask
from music_map.evaluation.ranking import ScoreBlock
from music_map.preprocess.dataset import Events, ItemFeatures
from music_map.reporter import Progress, silent

# Values that are tried, field by field in this order, with the other fields at the best value so far. Half-lives range
# from seconds, which suit a stream of listens (Yambda's grid: 0.001 to 24 h x 6.58), to popularity that hardly ages.
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "decay_pop": {"half_life_days": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)},
    "own_plays": {"half_life_days": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)},
    "item_knn": {
        "power": (0.0, 0.25, 0.4, 0.5),
        "shrinkage": (0.0, 3.0, 10.0, 30.0, 100.0),
        "num_neighbours": (25, 50, 100, 200, 400),
    },
    "item_knn_decay": {"half_life_days": (1e-5, 3e-4, 3e-3, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)},
    "audio_knn": {"num_neighbours": (0, 10, 30, 100, 300, 1000), "half_life_days": (3.0, 10.0, 30.0, 100.0, 1000.0)},
    "ials": {
        "alpha": (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
        "regularization": (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
    },
    "bpr_mf": {
        "popularity": (0.0, 0.5, 1.0),
        "learning_rate": (0.003, 0.01, 0.03, 0.1),
        "regularization": (0.001, 0.003, 0.01, 0.03, 0.1),
    },
    "sasrec": {"first_only": (False, True), "dropout": (0.2, 0.5)},
    "esasrec": {"first_only": (False, True), "dropout": (0.2, 0.5)},
}


class _Epochs(NamedTuple):
    """How a baseline trains: evaluated every `every` epochs, up to `most`, until `patience` of these bring no gain."""

    every: int
    most: int
    patience: int


_EPOCHS = {
    "ials": _Epochs(3, 30, 2),
    "bpr_mf": _Epochs(10, 300, 3),
    "sasrec": _Epochs(3, 150, 3),
    "esasrec": _Epochs(3, 150, 3),
}


class Tuned(NamedTuple):
    """The tuning of one baseline.

    Attributes:
      settings: the best on validation.
      value: of the metric with these.
      trials: (settings, value) of all that was tried.
    """

    settings: Settings
    value: float
    trials: list[tuple[Settings, float]]


def tune_baselines(
    names: Sequence[str],
    train: Events,
    validation: RankingTask,
    *,
    num_users: int,
    num_items: int,
    train_end: int,
    seed: int,
    metric: str,
    min_played_pct: int = MIN_PLAYED_PCT,
    features: Callable[[], ItemFeatures] | None = None,
    grids: Mapping[str, Mapping[str, Sequence[Any]]] = GRIDS,
    max_users: int = 5000,
    progress: Progress = silent,
) -> Iterator[tuple[str, Tuned]]:
    """Chooses settings on the validation split, one field after the other; for trained baselines also the epoch.

    Args:
      names: of BASELINES; those without settings are skipped.
      train: train events.
      validation: the task of the validation split under the protocol at hand.
      num_users, num_items, train_end, seed, min_played_pct, features: see fit.fit_baselines.
      metric: to maximise, e.g. "ndcg@20".
      grids: values by field by baseline.
      max_users: settings are compared on a sample of this many users where the task has more.
      progress: reports fits.

    Returns:
      Iterator of (name, Tuned); each is tuned when the iterator reaches it.

    Raises:
      UserError: a name is unknown, or its library is not installed; at once.
    """
    check_names(names)
    history = History.of(
        train,
        validation.protocol.history,
        num_users=num_users,
        num_items=num_items,
        train_end=train_end,
        min_played_pct=min_played_pct,
        features=features,
    )
    k = int(metric.partition("@")[2])
    if len(validation.users) > max_users:
        drawn = np.random.default_rng(seed).choice(len(validation.users), max_users, replace=False)
        validation = validation.select(np.sort(drawn))

    def value_of(scores: ScoreBlock) -> float:
        return evaluate_scores(scores, validation, ks=(k,)).metrics[metric]

    def attempt(name: str, settings: Settings) -> tuple[Settings, float]:
        if name not in TRAINED:
            return settings, value_of(fit(name, history, settings, seed=seed, progress=progress))
        epochs = _EPOCHS[name]
        best, worse = (settings, -1.0), 0
        longest = dataclasses.replace(settings, num_epochs=epochs.most)
        for done, scores in training(name, history, longest, seed=seed, every=epochs.every, progress=progress):
            value = value_of(scores)
            if value > best[1]:
                best, worse = (dataclasses.replace(settings, num_epochs=done), value), 0
            else:
                worse += 1
            if worse == epochs.patience:
                break
        return best

    def tune(name: str) -> Tuned:
        trials: list[tuple[Settings, float]] = []
        tried = set()
        best: tuple[Settings, float] = (SETTINGS[name](), -1.0)
        for field, values in grids[name].items():
            for value in values:
                settings = dataclasses.replace(best[0], **{field: value})
                # The epochs are chosen within each trial.
                key = tuple((f, v) for f, v in dataclasses.asdict(settings).items() if f != "num_epochs")
                if key in tried:
                    continue
                tried.add(key)
                trials.append(attempt(name, settings))
                best = max(best, trials[-1], key=lambda trial: trial[1])
        return Tuned(*best, trials)

    return ((name, tune(name)) for name in names if name in SETTINGS)
