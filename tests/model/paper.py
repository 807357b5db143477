"""The encoder of the LightGCN++ paper, small."""

from music_map.model.settings import ModelSettings

PAPER = ModelSettings(
    num_layers=2, embedding_dim=6, gamma=0.2, score="dot", audio=False, metadata=False, id_dropout=0.0,
    cold_neighbours=0, backend="csr",
)  # fmt: skip
