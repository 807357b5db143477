"""The memory that a training needs at least, by its configuration and the sizes of the data."""

from __future__ import annotations

import jax

from music_map.errors import require_memory
from music_map.run.config import Config

_FLOAT = 4  # bytes
_COPIES = 4  # of the parameters: themselves, their gradient, Adam's two moments


def require_room(config: Config, *, num_users: int, num_items: int) -> None:
    """Raises UserError if the devices have less memory than the largest arrays of a training step.

    With d dimensions, K layers, a batch of B pairs and M negatives that the rows share:

        parameters   4 (users + songs) d      with gradient and moments
        layers       (K + 1) (users + songs) d
        batch        2 (2 B + M) d            with gradient
        scores       3 B M                    with their exponentials and gradient

    The step needs more than that, so a configuration that passes may still be too large.
    """
    model, loss, train = config.model, config.loss, config.train
    nodes, batch, dim = num_users + num_items, train.batch_size, model.embedding_dim
    negatives = batch if loss.negatives == "in_batch" else loss.num_negatives
    size, free = f"{nodes:,} users and songs", _free()
    for floats, what in (
        (_COPIES * nodes * dim, f"config.model.embedding_dim={dim}: training {size}"),
        ((model.num_layers + 1) * nodes * dim, f"config.model.num_layers={model.num_layers}: the layers of {size}"),
        (4 * batch * dim, f"config.train.batch_size={batch}: a batch"),
        (2 * negatives * dim, f"config.loss.num_negatives={negatives}: the negatives of a batch"),
        (3 * batch * negatives, f"config.train.batch_size={batch}: the scores of {negatives:,} negatives"),
    ):
        require_memory(_FLOAT * floats, what, free=free)


def _free() -> int | None:
    """Bytes of the devices together; None: those of the host, which CPU devices share."""
    stats = [device.memory_stats() for device in jax.devices()] if jax.default_backend() != "cpu" else []
    limits = [one.get("bytes_limit") for one in stats if one]
    return sum(limits) if limits and None not in limits else None
