"""The memory that a training needs at least, by its configuration and the sizes of the data."""

from __future__ import annotations

import jax

from music_map.errors import require_memory
from music_map.losses import LOSSES
from music_map.run.config import Config

_FLOAT = 4  # bytes
_COPIES = 4  # of the parameters: themselves, their gradient, Adam's two moments


def require_room(config: Config, *, num_users: int, num_items: int) -> None:
    """Raises UserError if a device has less memory than the largest arrays of a training step, or its share of them.

    With d dimensions, K layers, a batch of B pairs and M negatives that the rows share:

        parameters   4 (users + songs) d      with gradient and moments
        layers       (K + 1) (users + songs) d
        batch        2 (2 B + M) d            with gradient
        scores       3 B M                    with their exponentials and gradient; 3 B with a negative for each row

    The step needs more than that, so a configuration that passes may still be too large.
    """
    model, loss, train = config.model, config.loss, config.train
    nodes, batch, dim = num_users + num_items, train.batch_size, model.embedding_dim
    shared = batch if loss.negatives == "in_batch" else loss.num_negatives
    negatives = {"one": batch, "shared": shared, "all": num_items}[against := LOSSES.find(loss.name).negatives]
    scores = batch * (1 if against == "one" else negatives)
    size, share, free = f"{nodes:,} users and songs", _share(config.parallel), _free()
    for floats, what in (
        (_COPIES * nodes * dim, f"config.model.embedding_dim={dim}: training {size}"),
        ((model.num_layers + 1) * nodes * dim, f"config.model.num_layers={model.num_layers}: the layers of {size}"),
        (4 * batch * dim, f"config.train.batch_size={batch}: a batch"),
        (2 * negatives * dim, f"config.loss.num_negatives={negatives}: the negatives of a batch"),
        (3 * scores, f"config.train.batch_size={batch}: the scores of {negatives:,} negatives"),
    ):
        require_memory(int(_FLOAT * floats * share), what, free=free)


def _on_host() -> bool:
    return jax.default_backend() == "cpu"


def _share(parallel: str) -> float:
    """The share of an array that has to fit: of a device, or of this host's CPU devices together."""
    return (jax.local_device_count() if _on_host() else 1) / jax.device_count() if parallel == "sharded" else 1.0


def _free() -> int | None:
    """Bytes of a device; None: those that are free on this host."""
    stats = None if _on_host() else jax.local_devices()[0].memory_stats()
    return stats.get("bytes_limit") if stats else None
