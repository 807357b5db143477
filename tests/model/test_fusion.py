"""Fusion of song features against plain NumPy; cold songs; id dropout."""

import dataclasses

import jax
import numpy as np
from graphs import make_graph
from paper import PAPER

from music_map.model import encoder, fusion
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import adjacency
from music_map.preprocess.dataset import ItemFeatures

# Songs 0..3; song 3 has no train edge. Artist 2 and album 1 have no trained song.
RAW = ItemFeatures(
    audio=np.eye(128, dtype=np.float32)[:3],
    audio_row=np.array([0, -1, 1, 2], np.int32),
    artist_offsets=np.array([0, 2, 3, 3, 5]),
    artists=np.array([0, 1, 1, 1, 2], np.int32),
    artist_ids=np.array([10, 11, 12], np.uint32),
    album_offsets=np.array([0, 1, 1, 1, 2]),
    albums=np.array([0, 1], np.int32),
    album_ids=np.array([20, 21], np.uint32),
    track_seconds=np.array([100.0, 200.0, 0.0, 400.0], np.float32),
)
DEGREE = np.array([1.0, 2.0, 1.0, 0.0])
ALL = np.ones(4, bool)
SETTINGS = dataclasses.replace(PAPER, audio=True, metadata=True, num_layers=1, score="dot")


def made(settings=SETTINGS, seed=0):
    graph = make_graph([0, 0, 1, 1], [0, 1, 1, 2], [1.0, 1.0, 1.0, 1.0], 2, 4)
    features = fusion.features(RAW, DEGREE, audio=True, metadata=True)
    inputs = EncoderInputs(adjacency(graph, degree="weighted"), features)
    params = encoder.init(jax.random.key(seed), settings, inputs)
    # Start values that are not 0, so that each part shows.
    rng = np.random.default_rng(seed)
    params["fusion"] = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params["fusion"])
    return inputs, params


def test_content_is_the_sum_of_its_parts():
    inputs, params = made()
    p = jax.tree.map(np.asarray, params["fusion"])
    kernel, missing = p["audio"]["kernel"], p["audio_missing"][0]
    z = (np.log([100.0, 200.0]) - np.log([100.0, 200.0]).mean()) / np.log([100.0, 200.0]).std()
    z3 = min((np.log(400.0) - np.log([100.0, 200.0]).mean()) / np.log([100.0, 200.0]).std(), 4.0)
    artist, album, track = p["artist"], p["album"], p["track"]
    wanted = np.stack(
        [
            kernel[0] + (artist[0] + artist[1]) / 2 + album[0] + np.array([1, z[0], z[0] ** 2]) @ track,
            missing + artist[1] + np.array([1, z[1], z[1] ** 2]) @ track,
            kernel[1],
            kernel[2] + artist[1] + np.array([1, z3, z3**2]) @ track,
        ]
    )
    for backend in ("csr", "segment"):
        np.testing.assert_allclose(
            fusion.apply(params["fusion"], inputs.features, ALL, backend=backend), wanted, rtol=1e-4, atol=1e-5
        )


def test_a_song_never_trained_has_its_features_and_not_its_id():
    inputs, params = made()
    known = inputs.adjacency.item_degree > 0
    _, item0 = encoder.base_embeddings(params, inputs, SETTINGS, known)
    content = fusion.apply(params["fusion"], inputs.features, ALL, backend="csr")
    # Its length would be known from listens, and it has none.
    lengthless = content[3] - inputs.features.track[3] @ params["fusion"]["track"]
    np.testing.assert_allclose(item0[3], lengthless, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(item0[0], content[0] + params["item"][0], rtol=1e-6)
    moved = {**params, "item": params["item"].at[3].set(7.0)}
    np.testing.assert_array_equal(
        encoder.encode(moved, inputs, SETTINGS)[1][3], encoder.encode(params, inputs, SETTINGS)[1][3]
    )


def test_id_dropout_makes_songs_as_if_never_listened_to():
    """A training step encodes all nodes as the graph without the dropped songs' edges would, degrees of users aside."""
    settings = dataclasses.replace(SETTINGS, id_dropout=0.5, num_layers=2)
    inputs, params = made(settings)
    dropped = np.zeros(3)
    for seed in range(40):
        key = jax.random.key(seed)
        known = np.asarray(encoder.known_songs(inputs, settings, key))
        assert not known[3]
        dropped += ~known[:3]
        without = inputs.adjacency._replace(item_degree=inputs.adjacency.item_degree * known)
        for a, b in zip(
            encoder.encode(params, inputs, settings, key)[:2],
            encoder.encode(params, inputs._replace(adjacency=without), settings)[:2],
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert np.all((dropped > 8) & (dropped < 32))
    np.testing.assert_array_equal(encoder.known_songs(inputs, settings, None), [True, True, True, False])


def test_no_message_reaches_or_leaves_a_dropped_song():
    settings = dataclasses.replace(SETTINGS, id_dropout=0.5, num_layers=2, gamma=0.35)
    inputs, params = made(settings)
    key = next(k for k in map(jax.random.key, range(99)) if not encoder.known_songs(inputs, settings, k)[1])
    moved = params | {"item": params["item"].at[1].add(5.0)}
    for a, b in zip(*(encoder.encode(p, inputs, settings, key)[:2] for p in (params, moved)), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = params | {"user": params["user"] + 5.0}
    songs = [encoder.encode(p, inputs, settings, key)[1] for p in (params, moved)]
    np.testing.assert_array_equal(songs[0][1], songs[1][1])


def test_kinds_can_be_switched_off_and_absent():
    assert fusion.features(RAW, DEGREE, audio=False, metadata=False) is None
    only_audio = fusion.features(RAW, DEGREE, audio=True, metadata=False)
    assert only_audio.artists is None and only_audio.track is None and only_audio.audio is not None
    empty = ItemFeatures(
        np.zeros((0, 128), np.float32), np.full(4, -1, np.int32), np.zeros(5, np.int64), np.zeros(0, np.int32),
        np.zeros(0, np.uint32), np.zeros(5, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint32),
        np.zeros(4, np.float32),
    )  # fmt: skip
    assert fusion.features(empty, DEGREE, audio=True, metadata=True) is None


def test_statistics_come_from_trained_songs_only():
    """The length of song 3, never trained, moves no other song's feature."""
    other = RAW._replace(track_seconds=np.array([100.0, 200.0, 0.0, 9000.0], np.float32))
    a, b = (fusion.features(r, DEGREE, audio=True, metadata=True).track for r in (RAW, other))
    np.testing.assert_array_equal(a[:3], b[:3])
