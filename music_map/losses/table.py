"""The table of losses, with the inputs of a loss and its declarations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from music_map.losses.settings import LOSSES, LossSettings

if TYPE_CHECKING:
    import jax


class Scores(NamedTuple):
    """The scores of a batch of B observed pairs (user, song): dot products of embeddings.

    Attributes:
      positive: float32 [B], of the pairs.
      negative: float32, of the same users with other songs: [B] if the loss declares one negative a row, [B, N] if the
        batch shares N, [B, I] if the loss declares all songs, including the pair's own.
      where: bool like `negative`, True for negatives, or None if all are. Among shared negatives the pair's own song is
        False; with LossSettings.mask_observed the user's other songs are False too.
      log_correction: float32 [N], log(I q_j) of shared negatives, each drawn with probability q_j; 0 for uniform draws.
      num_items: I.
    """

    positive: jax.Array
    negative: jax.Array
    where: jax.Array | None = None
    log_correction: jax.Array | None = None
    num_items: int = 0


@dataclasses.dataclass(frozen=True)
class Loss:
    """An entry of the table.

    Attributes:
      cost: Scores, LossSettings -> float32 [B], the cost of each row.
      negatives: the songs to score against: "one": for each row a song that the user has not played, drawn uniformly;
        "shared": songs that the batch shares, see LossSettings.negatives; "all": all songs.
      cross_entropy: whether the cost is a cross-entropy over songs, to which popularity smoothing can be applied.
      settings: its settings, LossSettings or a subclass with fields of its own.
    """

    cost: Callable[[Scores, Any], jax.Array]
    negatives: Literal["one", "shared", "all"]
    cross_entropy: bool = False
    settings: type[LossSettings] = LossSettings


def register(
    name: str,
    *,
    negatives: Literal["one", "shared", "all"],
    cross_entropy: bool = False,
    settings: type[LossSettings] = LossSettings,
) -> Callable[[Callable[[Scores, Any], jax.Array]], Callable[[Scores, Any], jax.Array]]:
    """Decorator that adds a function to the losses, as a choice of `config.loss.name`. See `Loss` for the arguments."""

    def add(cost: Callable[[Scores, Any], jax.Array]) -> Callable[[Scores, Any], jax.Array]:
        LOSSES.register(name, Loss(cost, negatives, cross_entropy, settings))
        return cost

    return add
