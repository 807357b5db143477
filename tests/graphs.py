"""Small graphs for tests, built without the code under test."""

import numpy as np

from music_map.graph.bipartite import BipartiteGraph


def make_graph(user, item, weight, num_users, num_items, negatives=()):
    """A BipartiteGraph from edges in any order, and negatives as (user, item, weight) triples."""
    user, item = np.asarray(user, np.int32), np.asarray(item, np.int32)
    order = np.lexsort((item, user))
    user, item, weight = user[order], item[order], np.asarray(weight, np.float32)[order]
    by_item = np.lexsort((user, item))
    triples = sorted(negatives)
    return BipartiteGraph(
        user_offsets=np.searchsorted(user, np.arange(num_users + 1)).astype(np.int64),
        user=user,
        item=item,
        weight=weight,
        item_offsets=np.searchsorted(item[by_item], np.arange(num_items + 1)).astype(np.int64),
        item_order=by_item,
        negative_user=np.array([t[0] for t in triples], np.int32),
        negative_item=np.array([t[1] for t in triples], np.int32),
        negative_weight=np.array([t[2] for t in triples], np.float32),
    )


def random_graph(seed, num_users=7, num_items=9, density=0.3, hub=True, negatives=()):
    """A random weighted graph whose last user and last song have no edges; song 0 is a hub."""
    rng = np.random.default_rng(seed)
    dense = (rng.random((num_users, num_items)) < density) * rng.uniform(0.1, 5.0, (num_users, num_items))
    if hub:
        dense[:, 0] = rng.uniform(0.1, 5.0, num_users)
    dense[-1, :] = 0.0
    dense[:, -1] = 0.0
    user, item = np.nonzero(dense)
    graph = make_graph(user, item, dense[user, item], num_users, num_items, negatives)
    return graph, dense
