"""The settings of a training, with their checks."""

from __future__ import annotations

import dataclasses

from music_map.errors import require
from music_map.settings import Settings, setting
from music_map.sizes import OPEN


@dataclasses.dataclass(frozen=True)
class TrainSettings(Settings):
    """Settings of loop, sampling and optimizer: the configuration's `train`."""

    section = "config.train"
    mode: str = setting(
        "full",
        '"full": each step propagates through the whole graph; "subgraph": through the edges of some users only',
        choices=("full", "subgraph"),
    )
    partitions: int = setting(
        8,
        "subgraph mode: number of parts; users are assigned to them at random, anew each epoch",
        at_least=1,
        at_most=65_536,
    )
    num_epochs: int = setting(20, f"an epoch draws as many pairs as there are edges; {OPEN}", at_least=0)
    min_steps: int = setting(
        0,
        "least number of steps: num_epochs is raised if it gives fewer; 0 with num_epochs=0: follows from the logs",
        at_least=0,
    )
    batch_size: int = setting(8192, f"pairs of a step, all devices together; {OPEN}", at_least=0, at_most=2**24)
    # JAX's keys use 32 bits of the seed: a larger seed would give the same numbers as a smaller one.
    seed: int = setting(0, "of parameters, batches and dropout", at_least=0, at_most=2**31 - 1)
    optimizer: str = setting("adam", "the optimizer", choices=("adam", "adamw"))
    learning_rate: float = setting(3e-3, "the peak of the schedule", above=0)
    schedule: str = setting(
        "cosine", '"constant", or "cosine" down to 0 at the last step', choices=("constant", "cosine")
    )
    warmup_steps: int = setting(100, "linear from 0 to the peak over the first steps", at_least=0)
    weight_decay: float = setting(0.0, "of adamw", at_least=0, at_most=1_000_000)
    clip_norm: float = setting(
        1.0, "gradients are scaled to this global norm at most; 0: off", at_least=0, at_most=1_000_000
    )
    user_sampling: str = setting(
        "uniform",
        'how a pair\'s user is drawn: "uniform", or by "degree", in proportion to the number of edges',
        choices=("uniform", "degree"),
    )
    item_sampling: str = setting(
        "weight",
        'how the user\'s song is drawn: "uniform", or in proportion to the "weight" of the edge',
        choices=("uniform", "weight"),
    )
    eval_every_epochs: int = setting(1, "epochs between evaluations", at_least=1)
    patience: int = setting(
        5, "evaluations without a better config.eval.metric; 0: never stop early", at_least=0, free=True
    )
    log_every_steps: int = setting(100, "steps between lines of metrics.jsonl", at_least=1)
    steps_per_dispatch: int = setting(50, "most steps before a signal or a NaN is noticed", at_least=1, free=True)
    checkpoint_every_seconds: float = setting(
        300.0,
        "between checkpoints, which are also saved at evaluations; 0: every dispatch",
        at_least=0,
        at_most=1_000_000_000,
        free=True,
    )

    def check(self) -> None:
        rule = "'uniform' with config.train.mode='subgraph'"
        good = self.mode == "full" or self.user_sampling == "uniform"
        require(good, "config.train.user_sampling", self.user_sampling, rule)
