"""Music Map: song recommendations from listening logs with a graph neural network, in JAX.

Each folder is a stage of the pipeline, and imports run one way, from later stages to earlier ones:

    raw         the schema of the Parquet logs, their download and their streaming reader
    convert     own logs, in whatever columns, to that schema
    synthetic   generated logs of the same schema
    preprocess  logs -> NumPy shards: filter, ids, temporal split, item features
    graph       shards -> bipartite graph of users and songs, with negative edges
    model       LightGCN++ encoder: fusion of item features and propagation
    losses      contrastive, BPR, softmax and explicit negative losses
    training    sampling, optimizer, training step, checkpoints, loop
    evaluation  metrics, protocols, baselines
    retrieval   playlist query, index, filters, recommendations
"""
