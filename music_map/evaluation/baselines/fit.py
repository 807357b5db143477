"""Baselines by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence

from music_map.errors import UserError
from music_map.evaluation.baselines.content import artist_popularity, audio_knn
from music_map.evaluation.baselines.history import History
from music_map.evaluation.baselines.item_knn import item_knn, item_knn_decay
from music_map.evaluation.baselines.matrix_factorization import bpr_mf, ials, require_implicit
from music_map.evaluation.baselines.popularity import decayed_popularity, most_popular, own_plays, random_scores
from music_map.evaluation.baselines.sasrec import sasrec
from music_map.evaluation.baselines.settings import SETTINGS, Settings
from music_map.evaluation.protocols import MIN_PLAYED_PCT, Protocol
from music_map.evaluation.ranking import ScoreBlock
from music_map.preprocess.dataset import Events, ItemFeatures
from music_map.reporter import Progress, silent

BASELINES = (
    *("random", "most_pop", "decay_pop", "own_plays", "item_knn", "item_knn_decay", "ials", "bpr_mf"),
    *("sasrec", "esasrec"),
)

# Baselines that can rank songs without a train event.
COLD_START = ("random", "artist_pop", "audio_knn")

# Baselines trained by epochs; `training` gives a score block every `every` epochs.
TRAINED = ("ials", "bpr_mf", "sasrec", "esasrec")


def check_names(names: Sequence[str]) -> None:
    """Raises UserError for an unknown baseline, and for one whose library is not installed."""
    known = tuple(dict.fromkeys((*BASELINES, *COLD_START)))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"baseline {name!r} is unknown; {hint}choose from {', '.join(known)}")
        if name in ("ials", "bpr_mf"):
            require_implicit(name)


def fit_baselines(
    names: Sequence[str],
    train: Events,
    protocol: Protocol,
    *,
    num_users: int,
    num_items: int,
    train_end: int,
    seed: int,
    min_played_pct: int = MIN_PLAYED_PCT,
    features: Callable[[], ItemFeatures] | None = None,
    settings: Mapping[str, Settings] | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[str, ScoreBlock]]:
    """Fits baselines by name on the train events that the protocol counts; each when the iterator reaches it.

    Args:
      names: of BASELINES or COLD_START.
      train: train events.
      protocol: its `history` says which of them count.
      num_users, num_items: of the data set.
      train_end: seconds, the last train event.
      seed: of baselines with randomness.
      min_played_pct: share of the track, in percent, from which a listen is relevant.
      features: loads the songs' audio, artists and albums, for the baselines of COLD_START.
      settings: by name, such as those of `tuning.tune_baselines`; a baseline without them has the defaults.
      progress: reports the fit.

    Returns:
      Iterator of (name, score block).

    Raises:
      UserError: a name is unknown, or its library is not installed; at once, before anything is fitted.
    """
    check_names(names)
    history = History.of(
        train,
        protocol.history,
        num_users=num_users,
        num_items=num_items,
        train_end=train_end,
        min_played_pct=min_played_pct,
        features=features,
    )
    chosen = {name: kind() for name, kind in SETTINGS.items()} | dict(settings or {})
    return ((name, fit(name, history, chosen.get(name), seed=seed, progress=progress)) for name in names)


def fit(
    name: str, history: History, settings: Settings | None, *, seed: int, progress: Progress = silent
) -> ScoreBlock:
    """Fits one baseline; `settings` are of its own class, None if it has none."""
    if name == "random":
        return random_scores(history.num_items, seed=seed)
    if name == "most_pop":
        return most_popular(history)
    if name == "decay_pop":
        return decayed_popularity(history, half_life_days=settings.half_life_days)
    if name == "own_plays":
        return own_plays(history, half_life_days=settings.half_life_days)
    if name == "item_knn":
        return item_knn(history, settings, progress=progress)
    if name == "item_knn_decay":
        return item_knn_decay(history, settings)
    if name == "artist_pop":
        return artist_popularity(history)
    if name == "audio_knn":
        return audio_knn(history, settings, progress=progress)
    *_, (_, scores) = training(name, history, settings, seed=seed, every=settings.num_epochs, progress=progress)
    return scores


def training(
    name: str, history: History, settings: Settings, *, seed: int, every: int, progress: Progress = silent
) -> Iterator[tuple[int, ScoreBlock]]:
    """Trains one of TRAINED: (epochs done, score block) every `every` epochs and after the last."""
    if name == "ials":
        return ials(history, settings, seed=seed, every=every)
    if name == "bpr_mf":
        return bpr_mf(history, settings, seed=seed, every=every)
    return sasrec(history, settings, seed=seed, every=every, progress=progress)
