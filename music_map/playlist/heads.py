"""The trained parts of the playlist query, and their form on disk."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from music_map.errors import DamagedFileError
from music_map.playlist.attention import POSITIONS, Head
from music_map.playlist.space import PLAIN, Space


class Mixture(NamedTuple):
    """What the query knows beside the attention; all float32 [].

    Attributes:
      together: weight of the songs that are listened to together, see `music_map.playlist.companions`.
      cohesion: a playlist below it has several tastes, see `music_map.playlist.tastes`.
      one: weight of where sessions go on from a single song, see `music_map.playlist.onward`.
      several: the same from several songs.
    """

    together: np.ndarray
    cohesion: np.ndarray
    one: np.ndarray = np.float32(0.0)
    several: np.ndarray = np.float32(0.0)


# One query of embeddings alone; no playlist has a cohesion below -1.
PLAIN_MIXTURE = Mixture(np.float32(0.0), np.float32(-1.0))


class Heads(NamedTuple):
    """The playlist query.

    Attributes:
      space: where songs and queries are compared.
      ordered: attention for playlists whose order is that of listening.
      unordered: attention for sets of songs: position and latest are 0.
      mixture: songs listened to together, and several tastes.
    """

    space: Space
    ordered: Head
    unordered: Head
    mixture: Mixture = PLAIN_MIXTURE


def untrained(temperature: float) -> Heads:
    """Attention to the centre alone, softmax(e . m / t), as used without sessions to train on."""
    head = Head(np.zeros(POSITIONS, np.float32), *map(np.float32, (1.0 / temperature, 0.0, 0.0)))
    return Heads(PLAIN, head, head)


def to_json(heads: Heads) -> dict[str, dict[str, Any]]:
    """Heads as JSON-able values."""
    return {
        name: {field: np.asarray(value).tolist() for field, value in part._asdict().items()}
        for name, part in heads._asdict().items()
    }


def from_json(value: Any, *, source: str) -> Heads:
    """The inverse of `to_json`. Raises DamagedFileError, which names `source`, for any other content."""
    like = untrained(1.0)
    try:
        # Queries stored before there was one, or before it had all parts.
        value = value | {"mixture": PLAIN_MIXTURE._asdict() | value.get("mixture", {})}
        heads = Heads(
            *(
                type(part)(*(np.asarray(value[name][field], np.float32) for field in part._fields))
                for name, part in like._asdict().items()
            )
        )
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise DamagedFileError(f"{source}: holds no playlist query; delete it and run launch/train.py again") from e
    for part, wanted in zip(heads, like, strict=True):
        for array, good in zip(part, wanted, strict=True):
            if array.shape != np.shape(good) or not np.isfinite(array).all():
                raise DamagedFileError(f"{source}: holds no playlist query; delete it and run launch/train.py again")
    return heads
