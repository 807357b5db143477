"""Recommendations against brute force; filters, explanations, unknown ids; the exported arrays."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import DamagedFileError, UserError
from music_map.preprocess.dataset import ItemFeatures
from music_map.retrieval.export import load_export, make_export, save_export
from music_map.retrieval.index import ExactIndex, ScannIndex, build_index, search_allowed
from music_map.retrieval.recommender import Recommender

RNG = np.random.default_rng(0)
ITEM_IDS = np.array([5, 17, 100, 1000, 2**31, 2**32 - 1], np.uint32)
USER_IDS = np.array([7, 900], np.uint32)
FEATURES = ItemFeatures(
    audio=np.zeros((0, 128), np.float32),
    audio_row=np.full(6, -1, np.int32),
    artist_offsets=np.array([0, 1, 3, 3, 3, 3, 3]),
    artists=np.array([0, 0, 1], np.int32),
    artist_ids=np.array([40, 41], np.uint32),
    album_offsets=np.zeros(7, np.int64),
    albums=np.zeros(0, np.int32),
    album_ids=np.zeros(0, np.uint32),
    track_seconds=np.zeros(6, np.float32),
)


@pytest.fixture
def export():
    return make_export(
        user_ids=USER_IDS,
        item_ids=ITEM_IDS,
        user_embeddings=RNG.normal(size=(2, 8)),
        item_embeddings=RNG.normal(size=(6, 8)),
        item_degree=np.array([1, 1, 1, 1, 1, 0]),
        features=FEATURES,
    )


@pytest.fixture
def recommender(export):
    return Recommender(export, index="exact", attention_temperature=0.1)


def test_one_song_equals_brute_force(recommender, export):
    answer = recommender.recommend(songs=[100], k=4)
    e = export.item_embeddings / np.linalg.norm(export.item_embeddings, axis=1, keepdims=True)
    scores = e @ e[2]
    order = [i for i in np.argsort(-scores) if i not in (2, 5)]
    assert [r.item_id for r in answer.recommendations] == [int(ITEM_IDS[i]) for i in order]
    np.testing.assert_allclose([r.score for r in answer.recommendations], scores[order], rtol=1e-5)
    assert [r.rank for r in answer.recommendations] == [1, 2, 3, 4]


def test_reasons_weigh_the_query_songs(recommender):
    answer = recommender.recommend(songs=[5, 17, 5], k=1)
    (only,) = answer.recommendations
    assert {r.item_id for r in only.why} == {5, 17}
    np.testing.assert_allclose(sum(r.weight for r in only.why), 1.0, rtol=1e-5)
    strengths = [r.weight * r.similarity for r in only.why]
    assert strengths == sorted(strengths, reverse=True)


def test_metadata_of_recommendations(recommender):
    by_id = {r.item_id: r for r in recommender.recommend(songs=[1000], k=5).recommendations}
    assert by_id[17].artist_ids == [40, 41] and by_id[5].artist_ids == [40] and by_id[100].artist_ids == []


def test_a_song_that_nothing_is_known_of_is_not_recommended(recommender):
    found = recommender.recommend(songs=[5], k=6)
    assert 2**32 - 1 not in [r.item_id for r in found.recommendations]
    assert len(found.recommendations) == 4 and "only 4 of 6" in found.warnings[0]


def test_excluded_songs(recommender):
    answer = recommender.recommend(songs=[5], k=2, exclude=[17, 1000, 424242])
    assert {r.item_id for r in answer.recommendations} == {100, 2**31}


def test_scores_given_for_a_user_rank_in_place_of_the_embedding(recommender, export):
    scores = np.random.default_rng(3).normal(size=len(export.item_ids)).astype(np.float32)
    best = [i for i in np.argsort(-scores) if export.recommendable[i]]
    found = recommender.recommend(user=900, k=3, user_scores=scores, exclude=[int(export.item_ids[best[0]])])
    assert [r.item_id for r in found.recommendations] == export.item_ids[best[1:4]].tolist()
    songs = [int(export.item_ids[0])]
    assert recommender.recommend(songs=songs, user=900, user_scores=scores) == recommender.recommend(
        songs=songs, user=900
    )


def test_user_alone_and_user_with_songs(recommender, export):
    alone = recommender.recommend(user=900, k=5)
    e = export.item_embeddings / np.linalg.norm(export.item_embeddings, axis=1, keepdims=True)
    order = [i for i in np.argsort(-(e @ export.user_embeddings[1])) if i != 5]
    assert [r.item_id for r in alone.recommendations] == [int(ITEM_IDS[i]) for i in order]
    mixed = recommender.recommend(songs=[5], user=900, k=5, user_share=0.0)
    assert [r.item_id for r in mixed.recommendations] == [
        r.item_id for r in recommender.recommend(songs=[5], k=5).recommendations
    ]


def test_unknown_ids(recommender):
    answer = recommender.recommend(songs=[5, 18], k=1)
    assert len(answer.recommendations) == 1 and answer.warnings[0].startswith("unknown song 18:")
    with pytest.raises(UserError, match="unknown songs 18, 19"):
        recommender.recommend(songs=[18, 19])
    with pytest.raises(UserError, match="unknown user 8"):
        recommender.recommend(songs=[5], user=8)


def test_nothing_to_start_from(recommender):
    with pytest.raises(UserError, match="empty playlist"):
        recommender.recommend()
    with pytest.raises(UserError, match="k=0"):
        recommender.recommend(songs=[5], k=0)


def test_export_survives_a_round_trip_and_names_damage(export, tmp_path):
    folder = tmp_path / "embeddings"
    save_export(export, folder, fingerprint="f", step=3)
    loaded, identity = load_export(folder)
    assert identity == "f"
    for a, b in zip(export, loaded, strict=True):
        np.testing.assert_array_equal(a, b)
    victim = folder / "item_embeddings.npy"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match=str(victim)):
        load_export(folder)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 60), st.integers(0, 2**31))
def test_search_never_gives_fewer_than_there_are(num_items, k, num_allowed, seed):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(num_items, 4)).astype(np.float32)
    allowed = np.zeros(num_items, bool)
    allowed[rng.permutation(num_items)[:num_allowed]] = True
    query = rng.normal(size=4).astype(np.float32)
    items, scores = search_allowed(ExactIndex(embeddings), embeddings, query, k, allowed)
    wanted = [i for i in np.argsort(-(embeddings @ query), kind="stable") if allowed[i]][:k]
    np.testing.assert_allclose(scores, (embeddings @ query)[wanted], rtol=1e-4, atol=1e-5)
    assert len(items) == len(wanted) and allowed[items].all()


@pytest.mark.skipif(importlib.util.find_spec("scann") is None, reason="ScaNN has no wheel for this platform")
def test_scann_finds_nearly_what_exact_search_finds():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 16))
    x = centres[rng.integers(0, 50, 3000)] + 0.5 * rng.normal(size=(3000, 16))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    exact, approximate = ExactIndex(x), ScannIndex(x)
    wanted, _ = exact.search(x[:20], 50)
    found, scores = approximate.search(x[:20], 50)
    recall = np.mean([len(set(a) & set(b)) / 50 for a, b in zip(wanted, found, strict=True)])
    assert recall > 0.9
    np.testing.assert_allclose(scores, np.einsum("bkd,bd->bk", x[found], x[:20]), rtol=1e-3, atol=1e-3)
    # A filter that leaves 5 songs: answered in full, whatever the index returns.
    allowed = np.zeros(3000, bool)
    allowed[:5] = True
    items, _ = search_allowed(approximate, x, x[100], 10, allowed)
    assert sorted(items) == [0, 1, 2, 3, 4]


def test_index_names_what_is_wrong():
    with pytest.raises(UserError, match=r"retrieval\.index='annoy'"):
        build_index(np.zeros((2, 2), np.float32), backend="annoy")
    with pytest.raises(UserError, match="song index 1 is not finite"):
        build_index(np.array([[1.0, 0.0], [np.nan, 0.0]]), backend="exact")
