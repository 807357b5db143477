"""The settings of the loss, with their checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from music_map.registry import Registry
from music_map.settings import Settings, setting

if TYPE_CHECKING:
    from music_map.losses.table import Loss

LOSSES: Registry[Loss] = Registry("config.loss.name", "music_map.losses.ranking")
NEGATIVES = ("uniform", "in_batch", "mixed")


@dataclasses.dataclass(frozen=True)
class LossSettings(Settings):
    """The training objective: the configuration's `loss`; hashable, so that jit can take it as a static argument.

    A loss with fields of its own has a subclass with these fields, see `music_map.losses.register`.
    """

    section = "config.loss"
    name: str = setting("debiased_contrastive", "the ranking loss, one of `music_map.losses.LOSSES`")
    temperature: float = setting(0.2, "t of the softmax and contrastive losses", at_least=1e-4, at_most=10_000)
    negatives: str = setting(
        "uniform",
        'the source of sampled negatives: "uniform": all songs; "in_batch": the other rows\' songs; "mixed": half of '
        "each; the loss corrects for the probability of each draw",
        choices=NEGATIVES,
    )
    num_negatives: int = setting(
        1024,
        'number of negatives that the rows of a batch share; "in_batch" takes the whole batch',
        at_least=1,
        at_most=2**24,
    )
    mask_observed: bool = setting(False, "leave the user's own other songs out of the negatives (bpr never draws them)")
    popularity_smoothing: float = setting(
        0.0,
        "share of a target that goes to all songs by popularity (softmax and contrastive losses)",
        at_least=0,
        below=1,
    )
    positive_prior: float = setting(
        0.01, "probability that a random song is one the user would play (debiased_contrastive)", at_least=0, below=1
    )
    explicit_negative_weight: float = setting(
        0.1, "weight of the loss over disliked songs; 0: dislikes are not trained on", at_least=0, at_most=1_000_000
    )
    explicit_negative_margin: float = setting(
        0.0, "score above which a disliked song costs most", at_least=-1_000_000, at_most=1_000_000
    )
    l2: float = setting(
        0.0,
        "weight of half the squared norm of the batch's e^(0) rows over the batch size",
        at_least=0,
        at_most=1_000_000,
    )
    softmax_songs: int = setting(
        0,
        "M, the number of uniformly drawn songs whose sum sampled_softmax estimates; 0: all songs. A smaller M gives "
        "the highest negatives less weight: a loss between softmax and BPR",
        at_least=0,
    )

    @classmethod
    def kind_of(cls, values: Mapping[str, Any]) -> type[LossSettings]:
        return LOSSES.find(values.get("name", cls.name)).settings

    def check(self) -> None:
        LOSSES.find(self.name)
