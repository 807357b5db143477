"""The settings of the encoder, with their checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from music_map.registry import Registry
from music_map.settings import Settings, setting
from music_map.sizes import OPEN

if TYPE_CHECKING:
    from music_map.model.encoder import Entry

ENCODERS: Registry[Entry] = Registry(
    "config.model.name", "music_map.model.lightgcnpp", "music_map.model.lightgcn", "music_map.model.mf"
)


@dataclasses.dataclass(frozen=True)
class ModelSettings(Settings):
    """The encoder: the configuration's `model`; hashable, so that jit can take it as a static argument.

    An encoder with fields of its own has a subclass with these fields, see `music_map.model.encoder.register`.
    """

    section = "config.model"
    name: str = setting("lightgcnpp", 'the encoder: "lightgcnpp", "lightgcn" or "mf" (matrix factorisation)')
    num_layers: int = setting(3, "K, propagation steps", at_least=0, at_most=256)
    embedding_dim: int = setting(64, f"d, dimensions of the embeddings; {OPEN}", at_least=0, at_most=65_536)
    alpha: float = setting(0.6, "lightgcnpp: power of the receiver's degree", at_least=-10, at_most=10)
    beta: float = setting(-0.1, "lightgcnpp: power of the neighbour's degree", at_least=-10, at_most=10)
    gamma: float = setting(0.35, "lightgcnpp: share of e^(0) in the final embedding", at_least=0, at_most=1)
    adaptive: bool = setting(False, "lightgcnpp: learn gamma (from `gamma`) and the layers' weights (from equal ones)")
    degree: str = setting(
        "weighted",
        'a node\'s degree: "weighted": the sum of its edge weights; "count": the number of its edges',
        choices=("weighted", "count"),
    )
    score: str = setting(
        "cosine",
        '"cosine": embeddings of unit length; "dot": as they are; scores are dot products either way',
        choices=("cosine", "dot"),
    )
    init_std: float = setting(0.1, "standard deviation of the initial id embeddings", at_least=1e-6, at_most=1_000_000)
    audio: bool = setting(True, "fuse the songs' audio embeddings into e^(0)")
    metadata: bool = setting(True, "fuse artists, albums and track length into e^(0)")
    id_dropout: float = setting(
        0.3,
        "share of songs that a training step treats as never listened to: no id embedding, no track length, no message "
        "to or from them, so that audio, artists and albums alone must place them",
        at_least=0,
        below=1,
    )
    cold_neighbours: int = setting(
        5,
        "played songs, nearest in sound, that place a song without train edges; 0: content alone",
        at_least=0,
        at_most=65_536,
    )
    backend: str = setting(
        "auto",
        'sparse product: "auto", "segment" (jraph), "csr" (XLA\'s own on CPU, cuSPARSE on GPU) or "pallas" (GPU)',
        free=True,
    )
    storage: str = setting(
        "float32",
        'of the rows that a layer gathers: "bfloat16" halves the bytes; sums stay float32',
        choices=("float32", "bfloat16"),
    )

    @classmethod
    def kind_of(cls, values: Mapping[str, Any]) -> type[ModelSettings]:
        return ENCODERS.find(values.get("name", cls.name)).settings

    def check(self) -> None:
        ENCODERS.find(self.name)
