"""Yambda-5B: a hundred times the users of configs/yambda.py. Its graph does not fit one device today.

python launch/download.py --size=5b --output=data/raw
python launch/preprocess.py --config=configs/yambda_5b.py
"""

from ml_collections import ConfigDict

from configs import yambda_500m


def get_config() -> ConfigDict:
    config = yambda_500m.get_config()
    config.data.size = "5b"
    config.train.batch_size = 262_144
    config.train.num_epochs = 2
    return config
