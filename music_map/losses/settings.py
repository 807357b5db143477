"""Which loss, and its constants."""

from __future__ import annotations

import dataclasses

from music_map.errors import require

LOSSES = ("bpr", "sampled_bpr", "softmax", "sampled_softmax", "debiased_contrastive")
NEGATIVES = ("uniform", "in_batch", "mixed")


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """The training objective; hashable, so that jit can take it as a static argument.

    Attributes:
      name: one of LOSSES; "bpr" and "softmax" need none of the sampled negatives below.
      temperature: t of the softmax and contrastive losses.
      negatives: whence sampled negatives come: "uniform" over all songs, "in_batch" (the other rows' songs),
        "mixed" (half of each); their sampling probability is corrected for.
      num_negatives: negatives shared by a batch; "in_batch" takes the whole batch instead.
      mask_observed: whether the user's own other songs are left out of the negatives; not for "bpr", which never draws
        them.
      popularity_smoothing: share of a target that goes to all songs by popularity; by softmax and contrastive losses.
      positive_prior: probability that a random song is one the user would play (debiased_contrastive).
      explicit_negative_weight: weight of the loss over disliked songs; 0 switches it off.
      explicit_negative_margin: score above which a disliked song costs most.
      l2: weight of half the squared norm of the batch's e^(0) rows over the batch size.
      softmax_songs: M, the number of uniformly drawn songs that the sum of sampled_softmax stands for; 0: all songs.
        With fewer, the loss is between softmax and BPR: less of the gradient comes from the highest negatives alone.
    """

    name: str
    temperature: float
    negatives: str
    num_negatives: int
    mask_observed: bool
    popularity_smoothing: float
    positive_prior: float
    explicit_negative_weight: float
    explicit_negative_margin: float
    l2: float
    softmax_songs: int = 0

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("name", self.name in LOSSES, f"one of {', '.join(LOSSES)}"),
            ("temperature", self.temperature > 0, "above 0"),
            ("negatives", self.negatives in NEGATIVES, f"one of {', '.join(NEGATIVES)}"),
            ("num_negatives", self.num_negatives >= 1, "at least 1"),
            ("softmax_songs", self.softmax_songs >= 0, "at least 0"),
            ("popularity_smoothing", 0.0 <= self.popularity_smoothing < 1.0, "at least 0 and below 1"),
            ("positive_prior", 0.0 <= self.positive_prior < 1.0, "at least 0 and below 1"),
            ("explicit_negative_weight", self.explicit_negative_weight >= 0, "at least 0"),
            ("l2", self.l2 >= 0, "at least 0"),
        ):
            require(good, f"config.loss.{name}", getattr(self, name), rule)
