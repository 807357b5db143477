"""Your own logs, of any size: batch, epochs, dimensions and the least number of interactions follow from the events.

python launch/import.py spotify my_spotify_data.zip --output=data/own
python launch/train.py --config=configs/own.py --workdir=checkpoints/own
"""

from ml_collections import ConfigDict

from configs import yambda
from music_map.sizes import FIELDS


def get_config() -> ConfigDict:
    config = yambda.get_config()
    config.data.raw_dir = "data/own"
    config.data.size = "own"
    config.data.processed_dir = "data/own/processed"
    for name in FIELDS:
        section, _, field = name.partition(".")
        config[section][field] = 0  # see music_map.sizes
    return config
