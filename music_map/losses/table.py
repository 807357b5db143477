"""The table of losses: what a loss is given, and what it declares."""

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
      negative: float32, of the same users with other songs. [B] where a loss declares one negative a row; [B, N] where
        a batch shares N; [B, I] where it wants all songs, the pair's own among them.
      where: bool like `negative`, False for what is no negative, or None where all are. Of shared negatives the
        pair's own song is left out. The user's other songs are left out with LossSettings.mask_observed.
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
      cost: Scores, LossSettings -> float32 [B], what each row costs.
      negatives: what it is scored against: "one" song a row that the user has not played, drawn uniformly; songs
        "shared" by the batch, see LossSettings.negatives; "all" songs.
      cross_entropy: whether the cost is that of a distribution over songs, which popularity can smooth.
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
    """Decorates a function that is a loss: `config.loss.name` can then be its name. See `Loss` for the arguments."""

    def add(cost: Callable[[Scores, Any], jax.Array]) -> Callable[[Scores, Any], jax.Array]:
        LOSSES.register(name, Loss(cost, negatives, cross_entropy, settings))
        return cost

    return add
