"""What the tests of several processes train on: few programs, quickly compiled."""

from graphs import random_graph

from music_map.losses.settings import LossSettings
from music_map.model.settings import ModelSettings
from music_map.training.optimizer import OptimizerSettings
from music_map.training.step import StepSettings

# Numbers that no number of parts, devices or processes divides.
GRAPH, _ = random_graph(0, num_users=97, num_items=131, density=0.1, negatives=[(0, 3, 3.0), (2, 5, 1.0)])
STEP = StepSettings(
    model=ModelSettings(
        num_layers=1, embedding_dim=8, gamma=0.2, audio=False, metadata=False, id_dropout=0.0, backend="csr"
    ),
    loss=LossSettings(name="sampled_softmax", num_negatives=24, explicit_negative_weight=0.0),
    optimizer=OptimizerSettings(
        name="adam",
        learning_rate=1e-2,
        schedule="constant",
        warmup_steps=0,
        weight_decay=0.0,
        clip_norm=0.0,
        total_steps=40,
    ),
    batch_size=37,
)
