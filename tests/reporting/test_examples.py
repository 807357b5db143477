"""Reasons of a report's examples without a recency head: the nearest song that the user heard."""

import numpy as np

from music_map.preprocess.dataset import ItemFeatures
from music_map.reporting.examples import _reasons
from music_map.retrieval.export import make_export
from music_map.retrieval.recommender import Recommender


def test_without_a_recency_head_the_nearest_heard_song_is_named():
    none = np.zeros(0, np.int32)
    songs = np.array([[1, 0], [0, 2], [0.6, 0.8], [-1, 0.1]], np.float32)
    export = make_export(
        user_ids=np.array([7], np.uint32),
        item_ids=np.array([10, 20, 30, 40], np.uint32),
        user_embeddings=np.array([[0.5, 1.0]], np.float32),
        item_embeddings=songs,
        listeners=np.ones(4, np.int32),
        features=ItemFeatures(
            audio=np.zeros((0, 4), np.float32), audio_row=np.full(4, -1, np.int32),
            artist_offsets=np.zeros(5, np.int64), artists=none, artist_ids=none.astype(np.uint32),
            album_offsets=np.zeros(5, np.int64), albums=none, album_ids=none.astype(np.uint32),
            track_seconds=np.zeros(4, np.float32),
        ),
    )  # fmt: skip
    found = _reasons(Recommender(export, index="exact"), lambda users: songs, 0, np.array([2, 3]), np.array([1, 0, 0]))
    # 0.8 to song 20 and 0.6 to song 10; the last is nearer to song 20 than to its opposite, song 10.
    assert [[reason["part"] for reason in one] for one in found] == [["embedding"], ["embedding"]]
    assert ["20" in one[0]["text"] for one in found] == [True, True]
    # The score is the dot product with the user's embedding.
    np.testing.assert_allclose([one[0]["gain"] for one in found], [0.3 + 0.8, -0.5 + 0.1], rtol=1e-6)
