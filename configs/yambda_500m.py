"""Yambda-500M: the settings of configs/yambda.py on ten times the users; wants a GPU or TPU with 40 GB or more.

python launch/download.py --size=500m --output=data/raw
python launch/train.py --config=configs/yambda_500m.py --workdir=checkpoints/yambda-500m
"""

from ml_collections import ConfigDict

from configs import yambda


def get_config() -> ConfigDict:
    config = yambda.get_config()
    config.data.size = "500m"
    config.data.chunk_size = 8_000_000
    config.train.batch_size = 65_536
    config.train.num_epochs = 5
    return config
