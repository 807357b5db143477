"""Yambda-50M: LightGCN++ with three layers, debiased contrastive and explicit negative losses.

    python launch/download.py --size=50m --output=data/raw
    python launch/train.py --config=configs/yambda.py --workdir=checkpoints/yambda-50m
    python launch/train.py --config=configs/yambda.py --workdir=checkpoints/fast --config.graph.half_life_days=7.0

Every field with its meaning stands here; the other files of this folder change what differs.
Sources: Yambda, arXiv 2505.22238; LightGCN++, RecSys 2024; debiased contrastive loss, NeurIPS 2020.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    config = ConfigDict()

    config.data = data = ConfigDict()
    data.format = "yambda"  # "yambda": Parquet logs; "text": train.txt, valid.txt, test.txt in data.path
    data.raw_dir = "data/raw"  # the hub's layout: flat/<size>/listens.parquet, ..., embeddings.parquet
    data.size = "50m"
    data.path = ""  # text format only
    data.processed_dir = "data/processed"
    data.min_interactions = 10
    data.filter = "once"  # "once": one count over all rows; "k_core": repeated until nothing changes
    data.split = "temporal"  # "temporal": 80/10/10 by time; "global_temporal": Yambda's 300 days, gap, 1 day
    data.train_fraction = 0.8
    data.val_fraction = 0.1
    data.train_on_val = False  # the final run of a protocol: val joins train, only test is held out
    data.chunk_size = 1_000_000  # rows per shard

    config.graph = graph = ConfigDict()
    graph.edges = "sum"  # "sum": one edge per (user, song); "events": parallel edges, for published statistics
    graph.half_life_days = config_dict.placeholder(float)  # None: no decay
    graph.half_life_days = 60.0
    graph.organic_factor = 0.5  # weight of what the recommender played; organic events count 1
    graph.like_weight = 5.0
    graph.dislike_weight = -3.0
    graph.log1p = False

    return config
