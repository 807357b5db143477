"""The demo: generated Yambda-shaped logs, minutes on two CPU cores. `make demo` runs it.

python launch/generate.py --size=demo --output=data/demo
python launch/train.py --config=configs/demo.py --workdir=checkpoints/demo
"""

from ml_collections import ConfigDict

from configs import yambda


def get_config() -> ConfigDict:
    config = yambda.get_config()
    config.data.raw_dir = "data/demo"
    config.data.size = "demo"
    config.data.processed_dir = "data/processed/demo"
    config.train.batch_size = 2048
    config.train.num_epochs = 10
    config.train.patience = 3
    return config
