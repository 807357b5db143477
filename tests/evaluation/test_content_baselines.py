"""Baselines that know songs by their features, on worked examples."""

import numpy as np
import pytest
from checkerboard import history

from music_map.errors import UserError
from music_map.evaluation.baselines import COLD_START, fit_baselines
from music_map.evaluation.baselines.content import artist_popularity, audio_knn
from music_map.evaluation.baselines.settings import AudioKnnSettings
from music_map.evaluation.protocols import find_protocol
from music_map.preprocess.dataset import LISTEN, Events, ItemFeatures

DAY = 86_400
# Angles of the songs' audio in a plane, in degrees; song 4 has none.
ANGLES = np.radians([0.0, 90.0, 30.0, 60.0])


def features(num_items=5):
    audio = np.zeros((4, 128), np.float32)
    audio[:, 0], audio[:, 1] = np.cos(ANGLES), np.sin(ANGLES)
    return ItemFeatures(
        audio=audio,
        audio_row=np.array([0, 1, 2, 3, -1], np.int32),
        # Artist 0: songs 0, 1, 2. Artist 1: songs 1 and 3. Song 4 has none. Album 0: songs 0 and 2, album 1: song 3.
        artist_offsets=np.array([0, 1, 3, 4, 5, 5]),
        artists=np.array([0, 0, 1, 0, 1], np.int32),
        artist_ids=np.array([7, 8], np.uint32),
        album_offsets=np.array([0, 1, 1, 2, 3, 3]),
        albums=np.array([0, 0, 1], np.int32),
        album_ids=np.array([5, 6], np.uint32),
        track_seconds=np.zeros(num_items, np.float32),
    )


def played():
    """Song 0 by users 0, 1 and 2 (twice), song 1 by user 1, half a day before that user's last event."""
    users, items = np.array([0, 1, 1, 2, 2]), np.array([0, 1, 0, 0, 0])
    times = np.array([5 * DAY, 3 * DAY, 4 * DAY, DAY, 2 * DAY])
    return history(users, items, times, num_users=4, num_items=5, train_end=5 * DAY)


def with_features(played, made=features):
    return type(played)(**{**played.__dict__, "features": made})


def test_artist_popularity_worked_example():
    # Users: song 0 three, song 1 one. Artist 0: (3 + 1) / 2 = 2, artist 1: 1, album 0: 3, album 1: no played song.
    scores = artist_popularity(with_features(played()))(np.array([3, 0]))
    # Song 2: artist 0 and album 0; song 3: artist 1; song 4: the mean of all played songs.
    np.testing.assert_allclose(scores, [[2.5, 1.5, 2.5, 1.0, 2.0]] * 2)


@pytest.mark.parametrize("num_neighbours", [0, 2])
def test_audio_knn_worked_example(num_neighbours):
    settings = AudioKnnSettings(num_neighbours=num_neighbours, half_life_days=1.0)
    scores = audio_knn(with_features(played()), settings)(np.arange(4))
    cos30, cos60 = np.cos(np.radians([30, 60]))
    # User 1: song 0 counts 1, song 1, a day older, 1/2.
    np.testing.assert_allclose(scores[0, 2:], [cos30, cos60, 0], atol=1e-6)
    np.testing.assert_allclose(scores[1, 2:], [cos30 + cos60 / 2, cos60 + cos30 / 2, 0], atol=1e-6)
    np.testing.assert_allclose(scores[2, 2:], scores[0, 2:], atol=1e-6)
    assert not scores[3].any()


def test_neighbours_are_the_nearest_played_songs():
    scores = audio_knn(with_features(played()), AudioKnnSettings(num_neighbours=1, half_life_days=1e6))(np.array([1]))
    # Song 2 sounds most like song 0, song 3 most like song 1.
    np.testing.assert_allclose(scores[0, 2:], [np.cos(np.radians(30))] * 2 + [0], rtol=1e-5)


def test_they_are_fitted_by_name_and_need_features():
    none = np.zeros(0, np.float32).reshape(0, 128)
    zeros = np.zeros(5, np.uint8)
    train = Events(
        np.arange(5, dtype=np.int32) % 4, np.arange(5, dtype=np.int32), np.arange(5, dtype=np.uint32),
        zeros + LISTEN, zeros, zeros.astype(np.uint16) + 100,
    )  # fmt: skip
    options = {"num_users": 4, "num_items": 5, "train_end": 4, "seed": 0}
    fitted = fit_baselines(COLD_START, train, find_protocol("cold_start"), **options, features=features)
    assert {name: scores(np.arange(2)).shape for name, scores in fitted} == dict.fromkeys(COLD_START, (2, 5))
    silent = lambda: features()._replace(audio=none, audio_row=np.full(5, -1, np.int32))  # noqa: E731
    with pytest.raises(UserError, match="'audio_knn' needs audio embeddings"):
        dict(fit_baselines(["audio_knn"], train, find_protocol("cold_start"), **options, features=silent))
