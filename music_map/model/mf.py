"""Matrix factorisation: the embedding of a node is its e^(0), from its id and, for songs, from their features.

Reference: Koren, Bell, Volinsky: "Matrix Factorization Techniques for Recommender Systems", Computer 2009.
"""

from __future__ import annotations

from music_map.model.encoder import Embeddings, Encoder, EncoderInputs, Params, Wanted, register
from music_map.model.settings import ModelSettings


@register("mf")
class MatrixFactorisation(Encoder):
    """No message passes along the edges: a song learns from its listeners through the loss alone."""

    def apply(
        self, params: Params, inputs: EncoderInputs, settings: ModelSettings, base: Embeddings, wanted: Wanted
    ) -> Embeddings:
        del params, inputs, settings, base
        return wanted.base
