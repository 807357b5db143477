"""A small model and its map, without training."""

import numpy as np

from music_map.map.clusters import colours_of, islands
from music_map.map.page import render
from music_map.map.payload import map_payload, pack
from music_map.map.projection import project
from music_map.map.quantise import quantise
from music_map.playlist.attention import POSITIONS, Head
from music_map.playlist.heads import Heads, Mixture
from music_map.playlist.space import PLAIN
from music_map.retrieval.export import Export
from music_map.retrieval.filters import Filters

DIM = 16


def heads():
    rng = np.random.default_rng(5)
    ordered = Head(rng.normal(size=POSITIONS).astype(np.float32), *map(np.float32, (-0.6, 0.4, -0.1)))
    unordered = Head(np.zeros(POSITIONS, np.float32), *map(np.float32, (0.7, 0.0, 0.2)))
    # Companions are not on the page; of playlists of songs at random most have several tastes.
    return Heads(PLAIN, ordered, unordered, Mixture(np.float32(2.0), np.float32(0.15)))


def songs(count=240, seed=0):
    """An export of songs in six groups, two artists or one or none each; some never heard, some known nothing of."""
    rng = np.random.default_rng(seed)
    group = rng.integers(6, size=count)
    rows = rng.normal(size=(6, DIM))[group] + 0.6 * rng.normal(size=(count, DIM))
    number = rng.integers(3, size=count)
    listeners = rng.geometric(0.02, count).astype(np.int32)
    listeners[::9] = 0
    artists = np.concatenate([np.sort(rng.permutation(4)[:n]) + 4 * g for n, g in zip(number, group, strict=True)])
    recommendable = np.ones(count, bool)
    recommendable[::27] = False
    return Export(
        user_ids=np.zeros(0, np.uint32),
        item_ids=np.sort(rng.permutation(10**6)[:count]).astype(np.uint32),
        user_embeddings=np.zeros((0, DIM), np.float32),
        item_embeddings=rows.astype(np.float32),
        recommendable=recommendable,
        listeners=listeners,
        has_audio=rng.random(count) < 0.5,
        artist_offsets=np.concatenate([[0], np.cumsum(number)]),
        artists=artists.astype(np.int32),
        artist_ids=np.arange(100, 124).astype(np.uint32),
        album_offsets=np.zeros(count + 1, np.int64),
        albums=np.zeros(0, np.int32),
        album_ids=np.zeros(0, np.uint32),
    )


FACTS = {
    "title": "test", "workdir": "checkpoints/test", "step": 7, "num_catalogue": 240, "method": "pca", "bits": 8,
    "kept_neighbours": 0.5, "num_queries": 10, "same_top_10": 0.99, "worst_score_error": 0.001,
    "worst_vector_error": 0.01,
}  # fmt: skip


def payload(export=None, *, metadata=None, filters=None, bits=8, ids=None):
    export = export or songs()
    vectors = export.item_embeddings / np.linalg.norm(export.item_embeddings, axis=1, keepdims=True)
    position = project(vectors, method="pca")
    clusters, finer = islands(position, 6)
    return map_payload(
        export=export,
        codes=quantise(vectors, bits=bits),
        position=position,
        clusters=clusters,
        finer=finer,
        colours=colours_of(position, clusters),
        heads=heads(),
        filters=filters or Filters(),
        dislike_push=0.5,
        metadata=metadata,
        ids=ids,
        facts=FACTS,
    )


def write_page(path, **kwargs):
    path.write_text(render(pack(*payload(**kwargs)), title="Music Map: test"), encoding="utf-8")
    return path
