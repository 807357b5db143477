"""Songs added after training: placed as songs of the data set without plays, found, asked for, played."""

import numpy as np
import pytest
from stored_run import extract_run

import music_map as mm
from music_map.errors import UserError
from music_map.retrieval.export import load_content
from music_map.retrieval.filters import Filters
from music_map.retrieval.index import ExactIndex, build_index, installed
from music_map.retrieval.new_songs import GrownIndex


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = extract_run(tmp_path_factory.mktemp("add"))
    mm.Recommender.load(workdir)
    return workdir


@pytest.fixture
def recommender(workdir):
    return mm.Recommender.load(workdir, index="exact")


def described(run, recommender, song):
    """A song of the data set as one would add it."""
    features, export = run.features, recommender.export
    artists = export.artists[slice(*export.artist_offsets[song : song + 2])].tolist()
    albums = export.albums[slice(*export.album_offsets[song : song + 2])].tolist()
    found = {"artist": recommender.ids.artists.labels(artists), "album": recommender.ids.albums.labels(albums)}
    row = features.audio_row[song]
    return found | ({"audio": features.audio[row].tolist()} if row >= 0 else {})


def test_new_songs_are_placed_as_songs_without_plays_are(workdir, recommender):
    run, content, export = mm.open_run(workdir), load_content(workdir / "embeddings"), recommender.export
    cold = np.flatnonzero((export.listeners == 0) & export.recommendable)
    assert len(cold)
    features = run.features
    has = features.audio_row[cold] >= 0
    audio = np.zeros((len(cold), 128), np.float32)
    audio[has] = features.audio[features.audio_row[cold[has]]]
    artists = [export.artists[slice(*export.artist_offsets[song : song + 2])] for song in cold]
    albums = [export.albums[slice(*export.album_offsets[song : song + 2])] for song in cold]
    placed = content.place(audio, has, artists, albums, export.item_embeddings)
    # float16 of the stored audio changes which songs are nearest now and then.
    close = np.sum(placed * export.item_embeddings[cold], axis=1)
    assert np.median(close) > 0.9999 and np.mean(close > 0.99) > 0.9


def test_a_new_song_is_found_asked_for_and_played(workdir, recommender):
    run, ids = mm.open_run(workdir), recommender.ids
    model = int(np.argmax(recommender.export.listeners * (run.features.audio_row >= 0)))
    new = described(run, recommender, model) | {"id": 4_000_000_001, "name": "Somebody - New"}
    before, songs = len(ids.songs), [ids.songs.label(model)]
    old = recommender.recommend(songs, k=10)
    assert recommender.add_songs([new]) == [] and len(recommender.ids.songs) == before + 1
    found = recommender.recommend(songs, k=500).recommendations
    (there,) = [r for r in found if r.item_id == 4_000_000_001]
    assert there.name == "Somebody - New" and there.artist_ids == new["artist"] and there.album_ids == new["album"]
    # Others keep their scores and order.
    others = [r.item_id for r in found if r.item_id != 4_000_000_001]
    assert others[:9] == [r.item_id for r in old.recommendations][:9]
    # It is a query, a part of a playlist, and a part of a history; one at a time and in a batch.
    queries = [
        mm.Query(("4000000001",)),
        mm.Query((4_000_000_001, songs[0])),
        mm.Query(history=((4_000_000_001, None), (4_000_000_001, 25_000_000))),
        mm.Query(user=216, history=((4_000_000_001, None),)),
        mm.Query(user=216),
    ]
    batch = recommender.recommend_batch(queries, k=10)
    for query, answer in zip(queries, batch, strict=True):
        assert answer.warnings == [] and len(answer.recommendations) == 10
        one = recommender.recommend(query.songs, user=query.user, history=query.history, k=10)
        assert [r.item_id for r in one.recommendations] == [r.item_id for r in answer.recommendations]
    played = recommender.recommend(history=[(4_000_000_001, None)] * 2, k=5).recommendations
    assert played[0].item_id == 4_000_000_001
    assert "played 2 times" not in played[0].reasons[0].text  # the same entry twice counts once
    assert "played before" in [reason.part for reason in played[0].reasons]
    heard = recommender.recommend(history=[(4_000_000_001, None)], k=5, filters=Filters(heard=False))
    assert 4_000_000_001 not in [r.item_id for r in heard.recommendations]
    assert recommender.explain(4_000_000_001, songs=songs).rank >= 1


def test_songs_are_added_again_and_again(workdir, recommender):
    run = mm.open_run(workdir)
    has = np.flatnonzero((run.features.audio_row >= 0) & (recommender.export.listeners > 0))
    rows, start = [described(run, recommender, int(song)) for song in has[:300]], 4_000_000_000
    first = [row | {"id": start + n} for n, row in enumerate(rows[:200])]
    recommender.add_songs(first)
    recommender.add_songs([row | {"id": start + 200 + n} for n, row in enumerate(rows[200:])])
    recommender.add_songs([rows[0] | {"id": start + 300}])
    assert recommender.ids.songs.label(len(recommender.ids.songs) - 1) == start + 300
    at = recommender.ids.songs.indices([start, start + 299, start + 300])
    np.testing.assert_allclose(recommender.vectors[at[0]], recommender.vectors[at[2]], atol=1e-6)
    found = recommender.recommend([start], k=3).recommendations
    assert start + 300 in [r.item_id for r in found] and found[0].score == pytest.approx(1, abs=1e-5)


def test_wrong_songs_are_refused_and_none_is_added(recommender):
    known, count = recommender.ids.songs.label(0), len(recommender.ids.songs)
    audio = np.ones(128).tolist()
    good = {"id": 4_000_000_001, "audio": audio}
    for song, says in (
        ({"id": known, "audio": audio}, "is known already"),
        ({"audio": audio}, "must be an object with an id"),
        (7, "must be an object"),
        (good | {"title": "x"}, "unknown field 'title'"),
        (good, "is there twice"),
        ({"id": "abc", "audio": audio}, "id='abc': must be a whole number"),
        ({"id": True, "audio": audio}, "must be a whole number"),
        ({"id": 4_000_000_002, "audio": audio[1:]}, "audio must be 128 finite numbers"),
        ({"id": 4_000_000_002, "audio": [float("nan")] * 128}, "audio must be 128 finite"),
        ({"id": 4_000_000_002, "audio": [0] * 128}, "not all 0"),
        ({"id": 4_000_000_002, "audio": "loud"}, "audio must be"),
        ({"id": 4_000_000_002}, "nothing to place it by"),
        ({"id": 4_000_000_002, "artist": 4_000_000_001}, "nothing to place it by"),
        (good | {"id": 4_000_000_002, "name": 7}, "name=7: must be a text"),
    ):
        with pytest.raises(UserError, match=says):
            recommender.add_songs([good, song])
    with pytest.raises(UserError, match="must be a list"):
        recommender.add_songs(good)
    assert len(recommender.ids.songs) == count and recommender.add_songs([]) == []
    (warning,) = recommender.add_songs([good | {"artist": [4_000_000_001]}])
    assert warning.startswith("unknown artist 4000000001")


@pytest.mark.skipif(not installed(), reason="ScaNN is not installed")
def test_an_index_with_songs_beside_it_finds_what_an_exact_one_does():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(640, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    grown = GrownIndex(build_index(rows[:600], backend="scann", recall_target=1.0), rows[600:])
    for count in (1, 70):
        queries = rng.normal(size=(count, 16)).astype(np.float32)
        found, wanted = (index.search(queries, 20) for index in (grown, ExactIndex(rows)))
        np.testing.assert_array_equal(found[0], wanted[0])
        np.testing.assert_allclose(found[1], wanted[1], atol=1e-5)
    assert grown.facts["added"] == 40 and np.isneginf(grown.search(queries, 700)[1][0, -1])
