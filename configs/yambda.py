"""Yambda-50M: LightGCN++ with three layers, debiased contrastive and explicit negative losses.

    python launch/download.py --size=50m --output=data/raw
    python launch/train.py --config=configs/yambda.py --workdir=checkpoints/yambda-50m
    python launch/train.py --config=configs/yambda.py --workdir=checkpoints/fast --config.graph.half_life_days=7.0

These are the defaults of the library, each field explained in docs/configuration.md; the other files of this folder
change what differs.
Sources: Yambda, arXiv 2505.22238; LightGCN++, RecSys 2024; debiased contrastive loss, NeurIPS 2020.
"""

import dataclasses

from ml_collections import ConfigDict, config_dict

from music_map.run.config import SECTIONS, Config
from music_map.settings import field_types


def get_config() -> ConfigDict:
    config = ConfigDict(dataclasses.asdict(Config()))
    for section, kind in SECTIONS.items():
        for name, (first, *others) in field_types(kind).items():
            if others:  # it may be None, which has no type of its own
                value = config[section][name]
                del config[section][name]
                config[section][name] = config_dict.placeholder(first)
                config[section][name] = value
    return config
