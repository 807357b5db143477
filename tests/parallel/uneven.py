"""A graph and a batch that no number of devices divides, trained on with every part of the loss."""

from graphs import random_graph

from music_map.losses.settings import LossSettings
from music_map.model.settings import ModelSettings
from music_map.training.optimizer import OptimizerSettings
from music_map.training.step import StepSettings

# 97 users and 131 songs fill no number of parts evenly, and song 0 is a hub.
GRAPH, _ = random_graph(0, num_users=97, num_items=131, density=0.1, negatives=[(0, 3, 3.0), (2, 5, 1.0), (96, 9, 3.0)])
STEP = StepSettings(
    model=ModelSettings(num_layers=2, embedding_dim=8, gamma=0.2, adaptive=True, backend="csr"),
    loss=LossSettings(negatives="mixed", num_negatives=24, mask_observed=True, popularity_smoothing=0.05, l2=1e-3),
    optimizer=OptimizerSettings(
        name="adamw",
        learning_rate=1e-2,
        schedule="cosine",
        warmup_steps=3,
        weight_decay=1e-3,
        clip_norm=0.5,
        total_steps=40,
    ),
    batch_size=37,  # a prime: no number of devices divides it
)
