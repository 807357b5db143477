"""A training of a few steps on a small graph, with every part of the loss."""

import jax.numpy as jnp
from graphs import random_graph

from music_map.losses.settings import LossSettings
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import adjacency
from music_map.model.settings import ModelSettings
from music_map.training.checkpoint import CheckpointStore
from music_map.training.loop import LoopSettings, fit
from music_map.training.metrics_log import MetricsLog
from music_map.training.optimizer import OptimizerSettings
from music_map.training.runner import OneDevice
from music_map.training.sampling import sample_data
from music_map.training.step import StepSettings, create_state

GRAPH, DENSE = random_graph(0, num_users=20, num_items=15, negatives=[(0, 3, 3.0), (2, 5, 3.0)])
STEP = StepSettings(
    model=ModelSettings(
        num_layers=2,
        embedding_dim=8,
        gamma=0.2,
        adaptive=True,
        audio=False,
        metadata=False,
        id_dropout=0.0,
        backend="csr",
    ),
    loss=LossSettings(negatives="mixed", num_negatives=8, mask_observed=True, popularity_smoothing=0.05, l2=1e-4),
    optimizer=OptimizerSettings(
        name="adamw",
        learning_rate=1e-2,
        schedule="cosine",
        warmup_steps=3,
        weight_decay=1e-3,
        clip_norm=1.0,
        total_steps=40,
    ),
    batch_size=16,
)
LOOP = LoopSettings(
    num_epochs=5, seed=0, eval_every_epochs=1, patience=0, log_every_steps=4, steps_per_dispatch=3,
    checkpoint_every_seconds=0.0, metric="ndcg@20",
)  # fmt: skip


def inputs_and_data():
    return EncoderInputs(adjacency(GRAPH, degree="weighted"), None), sample_data(GRAPH, users="uniform", items="weight")


def score(params):
    """Any deterministic function of the parameters will do for a validation metric."""
    return {"ndcg@20": float(jnp.mean(jnp.tanh(params["user"])))}


def run(workdir, *, step=STEP, loop=LOOP, evaluate=score, should_stop=lambda: False, warnings=None):
    inputs, data = inputs_and_data()
    store = CheckpointStore(workdir / "checkpoints", warn=(warnings if warnings is not None else []).append)
    try:
        result = fit(
            runner=OneDevice(inputs, data, step), settings=loop, store=store,
            log=MetricsLog(workdir / "metrics.jsonl"), evaluate=evaluate, should_stop=should_stop,
        )  # fmt: skip
        like = create_state(step, inputs, seed=0)
        return result, store.restore(like), store.restore(like, best=True), store.steps()
    finally:
        store.close()


def stop_after(n):
    calls = iter(range(10**6))
    return lambda: next(calls) >= n
