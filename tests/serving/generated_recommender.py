"""A small recommender over random embeddings."""

import numpy as np

from music_map.ids import Ids, Texts
from music_map.preprocess.dataset import ItemFeatures
from music_map.retrieval.export import id_tables, make_export
from music_map.retrieval.recommender import Recommender


def generated(*, own=False):
    """A recommender over random embeddings; its ids are numbers, or texts."""
    rng = np.random.default_rng(0)
    num_users, num_songs = 20, 300
    unit = rng.normal(size=(num_songs, 16)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    features = ItemFeatures(
        audio=np.zeros((1, 8), np.float32),
        audio_row=np.zeros(num_songs, np.int32),
        artist_offsets=np.arange(num_songs + 1),
        artists=(np.arange(num_songs) // 5).astype(np.int32),
        artist_ids=np.arange(num_songs // 5, dtype=np.uint32),
        album_offsets=np.zeros(num_songs + 1, np.int64),
        albums=np.zeros(0, np.int32),
        album_ids=np.zeros(0, np.uint32),
        track_seconds=np.zeros(num_songs, np.float32),
    )
    export = make_export(
        user_ids=np.arange(num_users, dtype=np.uint32),
        item_ids=np.arange(num_songs, dtype=np.uint32),
        user_embeddings=unit[:num_users],
        item_embeddings=unit,
        listeners=rng.integers(1, 50, num_songs),
        features=features,
    )
    ids = None
    if own:
        plain = id_tables(export)
        ids = plain._replace(
            songs=Ids(export.item_ids, Texts.of(f"song \x1b[2J {n}" for n in range(num_songs))),
            users=Ids(export.user_ids, Texts.of(f"user {n}" for n in range(num_users))),
        )
    return Recommender(export, index="exact", ids=ids)
