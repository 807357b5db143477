"""Tiny generated logs and a tiny model: seconds on one core, for end-to-end tests.

python launch/generate.py --size=tiny --output=data/tiny
python launch/train.py --config=configs/test.py --workdir=checkpoints/test
"""

from ml_collections import ConfigDict

from configs import yambda


def get_config() -> ConfigDict:
    config = yambda.get_config()
    config.data.raw_dir = "data/tiny"
    config.data.size = "tiny"
    config.data.processed_dir = "data/processed/tiny"
    config.data.chunk_size = 5_000
    config.model.num_layers = 2
    config.model.embedding_dim = 16
    config.loss.num_negatives = 64
    config.train.batch_size = 256
    config.train.num_epochs = 3
    config.train.warmup_steps = 5
    config.train.log_every_steps = 7
    config.train.steps_per_dispatch = 5
    config.train.checkpoint_every_seconds = 0.0
    config.recency.enabled = False  # it trains a second encoder
    config.graph_filter.enabled = False  # it ranks the validation split many times
    return config
