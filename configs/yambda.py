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
    data.cold_item_fraction = 0.0  # share of the songs held out altogether, for the protocol cold_start
    data.cold_item_seed = 0  # another seed holds out other songs
    data.chunk_size = 1_000_000  # rows per shard

    config.graph = graph = ConfigDict()
    graph.edges = "sum"  # "sum": one edge per (user, song); "events": parallel edges, for published statistics
    graph.half_life_days = config_dict.placeholder(float)  # None: no decay
    graph.half_life_days = 60.0
    graph.organic_factor = 0.5  # weight of what the recommender played; organic events count 1
    graph.like_weight = 5.0
    graph.dislike_weight = -3.0
    graph.log1p = True  # log(1 + weight) in place of the weight

    config.model = model = ConfigDict()
    model.name = "lightgcnpp"  # "lightgcnpp", "lightgcn", "mf" (matrix factorisation)
    model.num_layers = 3
    model.embedding_dim = 64
    model.alpha = 0.6  # power of the receiver's degree
    model.beta = -0.1  # power of the neighbour's degree
    model.gamma = 0.35  # share of e^(0) in the final embedding
    model.adaptive = False  # learn gamma and the layers' weights
    model.degree = "weighted"  # "weighted": sum of edge weights; "count": number of edges
    model.score = "cosine"  # "cosine": unit embeddings; "dot"
    model.init_std = 0.1
    model.audio = True  # fuse audio embeddings into the songs' e^(0)
    model.metadata = True  # fuse artists, albums and track length
    model.id_dropout = 0.3  # share of songs that a step treats as never listened to, as a new song would be
    model.cold_neighbours = 5  # played songs that a new song is placed between, by sound; 0: by its content alone
    model.backend = "auto"  # "auto", "segment" (jraph), "csr" (XLA's on CPU, cuSPARSE on GPU) or "pallas" (GPU)
    model.storage = "float32"  # of the rows that a layer gathers: "bfloat16" halves the bytes; sums stay float32

    config.loss = loss = ConfigDict()
    loss.name = "debiased_contrastive"  # "bpr", "sampled_bpr", "softmax", "sampled_softmax", "debiased_contrastive"
    loss.temperature = 0.2
    loss.negatives = "uniform"  # "uniform", "in_batch", "mixed"
    loss.num_negatives = 1024  # shared by a batch
    loss.mask_observed = False  # True: a user's own songs are no negatives of that user
    loss.softmax_songs = 0  # sampled_softmax: songs that its sum stands for; 0: the catalogue; few: closer to BPR
    loss.popularity_smoothing = 0.0  # share of a target that goes to all songs by popularity
    loss.positive_prior = 0.01  # probability that a random song is one the user would play
    loss.explicit_negative_weight = 0.1  # 0: dislikes are not trained on
    loss.explicit_negative_margin = 0.0
    loss.l2 = 0.0

    config.train = train = ConfigDict()
    train.mode = "full"  # "subgraph": each step propagates through the edges of some users only
    train.partitions = 8  # subgraph mode: parts that the users are dealt to at random, anew each epoch
    train.num_epochs = 20  # an epoch draws as many pairs as there are edges
    train.min_steps = 0  # more epochs where these are fewer steps
    train.batch_size = 8192
    train.seed = 0
    train.optimizer = "adam"  # "adam", "adamw"
    train.learning_rate = 3e-3
    train.schedule = "cosine"  # "constant", "cosine"
    train.warmup_steps = 100
    train.weight_decay = 0.0  # adamw only
    train.clip_norm = 1.0  # 0: off
    train.user_sampling = "uniform"  # how a pair's user is drawn: "uniform", "degree"
    train.item_sampling = "weight"  # how the user's song is drawn: "uniform", "weight" (of the edge)
    train.eval_every_epochs = 1
    train.patience = 5  # evaluations without a better config.eval.metric; 0: never stop early
    train.log_every_steps = 100
    train.steps_per_dispatch = 50  # most steps before a signal or a NaN is noticed
    train.checkpoint_every_seconds = 300.0

    config.eval = evaluation = ConfigDict()
    evaluation.protocol = "temporal"
    evaluation.metric = "ndcg@20"  # chooses the best checkpoint, on the validation split
    evaluation.ks = (10, 20, 50, 100)
    # Besides: "random", "item_knn_decay", "ials", "bpr_mf", "sasrec".
    evaluation.baselines = ("most_pop", "decay_pop", "item_knn")
    evaluation.min_played_pct = 50  # a listen of at least this share counts as relevant

    config.recency = recency = ConfigDict()
    recency.enabled = True  # what a user plays now: latest songs, familiar songs, trends; needs timestamps
    recency.latest_songs = 100  # events of a user that the attention sees
    recency.num_users = 1000  # users of past windows to fit on
    recency.max_epochs = 3  # of the encoder that the fit uses, which knows nothing of those windows
    recency.strength = 1.0  # of the fit's regularization

    config.retrieval = retrieval = ConfigDict()
    retrieval.index = "auto"  # "auto", "scann", "exact"
    retrieval.recall_target = 0.99  # of ScaNN's recall@100 against exact search, measured when the index is built
    retrieval.learned_attention = True  # train the playlist attention on sessions; needs timestamps and recency
    retrieval.num_sessions = 2000  # sessions of past windows to train it on
    retrieval.attention_temperature = 0.1  # of the untrained attention; lower: closer to the most central songs
    retrieval.dislike_push = 0.5  # share of a disliked song's direction taken out of a query: 0 to 1
    retrieval.max_per_artist = 0  # songs of one artist among the recommended; 0: any number
    retrieval.max_per_album = 0
    retrieval.min_listeners = 0  # songs with fewer listeners in train are not recommended
    retrieval.only_with_audio = False
    retrieval.diversity = 0.0  # 0: by score alone; towards 1: unlike the songs before (maximal marginal relevance)

    # "none": one device; "pmap": every device of this host has the graph, and its part of each batch; "sharded": nodes,
    # edges and optimizer state are cut over the devices.
    config.parallel = "none"
    return config
