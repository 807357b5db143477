"""How a model is measured, checked."""

from __future__ import annotations

import dataclasses

from music_map.errors import require
from music_map.evaluation.metrics import METRICS
from music_map.settings import Settings, setting

MOST_K = 65_536  # songs of a list that is measured


@dataclasses.dataclass(frozen=True)
class EvalSettings(Settings):
    """Protocol, metrics and baselines: the configuration's `eval`."""

    section = "config.eval"
    protocol: str = setting("temporal", "the protocol: which events are targets and which songs are masked")
    metric: str = setting("ndcg@20", "chooses the best checkpoint, on the validation split")
    ks: tuple[int, ...] = setting((10, 20, 50, 100), "lengths of the lists that are measured", free=True)
    baselines: tuple[str, ...] = setting(
        ("most_pop", "decay_pop", "item_knn"),
        "shown beside the model; besides these, which take longer on large logs (sasrec and esasrec the longest, half "
        "an hour and more for Yambda-50M's size on two cores): random, own_plays, item_knn_decay, ials, bpr_mf, "
        "sasrec, esasrec",
        free=True,
    )
    min_played_pct: int = setting(
        50, "a listen of at least this share, in per cent, counts as relevant", at_least=0, at_most=100
    )

    def check(self) -> None:
        good = bool(self.ks) and all(type(k) is int and 1 <= k <= MOST_K for k in self.ks)
        require(good, "config.eval.ks", self.ks, f"whole numbers from 1 to {MOST_K:,}")
        name, _, k = self.metric.partition("@")
        good = k in map(str, self.ks) and name in METRICS
        rule = "" if good else f"NAME@K with NAME one of {', '.join(METRICS.all())} and K in config.eval.ks"
        require(good, "config.eval.metric", self.metric, rule)
