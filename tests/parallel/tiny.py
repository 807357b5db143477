"""What the tests of several processes train on: few programs, quickly compiled."""

from graphs import random_graph

from music_map.losses.settings import LossSettings
from music_map.model.lightgcn import ModelSettings
from music_map.training.optimizer import OptimizerSettings
from music_map.training.step import StepSettings

# Numbers that no number of parts, devices or processes divides.
GRAPH, _ = random_graph(0, num_users=97, num_items=131, density=0.1, negatives=[(0, 3, 3.0), (2, 5, 1.0)])
STEP = StepSettings(
    ModelSettings(1, 8, 0.6, -0.1, 0.2, False, "weighted", "cosine", 0.1, False, False, 0.0, 0, "csr"),
    LossSettings("sampled_softmax", 0.2, "uniform", 24, False, 0.0, 0.01, 0.0, 0.0, 0.0),
    OptimizerSettings("adam", 1e-2, "constant", 0, 0.0, 0.0, 40),
    37,
)
