"""Sizes of a training that follow from the logs, where a configuration leaves them open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Sizes(NamedTuple):
    """What follows from the logs; see `sizes_for`.

    Attributes:
      min_interactions: users and songs with fewer interactions are dropped.
      embedding_dim: dimensions of the embeddings.
      batch_size: pairs of a step.
      num_epochs: passes.
      min_steps: least number of steps.
    """

    min_interactions: int
    embedding_dim: int
    batch_size: int
    num_epochs: int
    min_steps: int


# The fields of a configuration that may be open, by the size that they get.
FIELDS = Sizes(
    "data.min_interactions", "model.embedding_dim", "train.batch_size", "train.num_epochs", "train.min_steps"
)
OPEN = "0: follows from the logs"  # in the meaning of a field
# The numbers of interactions that users and songs may be asked for, and the share of the events that must stay.
LEAST, STAY = (10, 5, 3, 2, 1), 0.9


def sizes_for(kept: Sequence[int], num_events: int) -> Sizes:
    """The sizes for some logs of E events (listens, likes and dislikes).

        min interactions  the largest of 10, 5, 3, 2 and 1 that keeps nine tenths of the events
        batch size        the power of two at or below 0.8 K / 128, of the K events that it keeps (128 steps for those
                          of train), 64 to 8192
        epochs            20, and at least 600 steps: an encoder needs some hundred updates for any number of edges
        dimensions        64

    From two million events on, with ten interactions a song, they are those of configs/yambda.py.

    Args:
      kept: for each of LEAST, the events whose user and song have that many interactions.
      num_events: E.
    """
    found = ((least, count) for least, count in zip(LEAST, kept, strict=True) if count >= STAY * num_events)
    least, count = next(found, (LEAST[-1], kept[-1]))
    batch = 1 << max(0, (count * 4 // 5 // 128).bit_length() - 1)
    return Sizes(least, 64, min(max(batch, 64), 8192), 20, 600)
