"""Recommendations against brute force; filters, explanations, unknown ids; the exported arrays."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

from music_map.errors import DamagedFileError, UserError
from music_map.ids import Texts
from music_map.playlist.attention import POSITIONS, Head
from music_map.playlist.heads import Heads
from music_map.playlist.space import Space
from music_map.preprocess.dataset import ItemFeatures
from music_map.retrieval.export import UserSongs, load_export, load_user_songs, make_export, save_export
from music_map.retrieval.filters import Filters
from music_map.retrieval.playlist_files import Track
from music_map.retrieval.recommender import MAX_SONGS, Query, Recommender

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


# User 7 heard songs 5 and 17; user 900 heard 100 and dislikes 1000.
USER_SONGS = UserSongs(
    np.array([0, 2, 3]), np.array([0, 1, 2], np.int32), np.array([0, 0, 1]), np.array([3], np.int32)
)  # fmt: skip


@pytest.fixture
def export():
    return make_export(
        user_ids=USER_IDS,
        item_ids=ITEM_IDS,
        user_embeddings=RNG.normal(size=(2, 8)),
        item_embeddings=RNG.normal(size=(6, 8)),
        listeners=np.array([1, 1, 1, 1, 1, 0]),
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


class Fixed:
    """A UserScorer with the same scores for every user, float32 [I]; it is its own groups."""

    most, now, head = 8, 0, None  # no head to take reasons from

    def __init__(self, scores):
        self.scores = scores

    def group(self, users, *, heard):
        return self

    def some(self, rows):
        return self

    def rank(self, k, *, allowed, out):
        items, found = np.full((len(out), k), -1, np.int32), np.zeros((len(out), k), np.float32)
        for row, mine in enumerate(out):
            left = allowed.copy()
            left[mine] = False
            best = [i for i in np.argsort(-self.scores, kind="stable") if left[i]][:k]
            items[row, : len(best)], found[row, : len(best)] = best, self.scores[best]
        return items, found


@pytest.mark.parametrize("rules", [{}, {"max_per_artist": 1}, {"diversity": 0.5}, {"heard": False}])
def test_a_user_without_songs_is_ranked_for_by_the_user_scorer(export, rules):
    scores = np.random.default_rng(3).normal(size=len(export.item_ids)).astype(np.float32)
    options = {"index": "exact", "user_songs": USER_SONGS, "filters": Filters(**rules)}
    scored, plain = Recommender(export, user_scorer=Fixed(scores), **options), Recommender(export, **options)
    found = scored.recommend(user=900, k=3)
    uncapped = plain.recommend(user=900, k=6, filters=Filters(heard=rules.get("heard", True)))
    allowed = {r.item_id for r in uncapped.recommendations}
    best = [int(i) for i in export.item_ids[np.argsort(-scores)] if int(i) in allowed]
    if rules in ({}, {"heard": False}):
        assert [r.item_id for r in found.recommendations] == best[:3]
    assert found.recommendations[0].item_id == best[0]
    # With songs the playlist is what is searched by.
    assert scored.recommend([5], user=900, k=3) == plain.recommend([5], user=900, k=3)
    batch = scored.recommend_batch([Query(user=900), Query((5,)), Query((5,), 900), Query(user=900)], k=3)
    assert batch[0] == batch[3] == found and batch[1] == plain.recommend([5], k=3)


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
        recommender.recommend(user=8)
    known, beside = recommender.recommend(songs=[5], k=2), recommender.recommend(songs=[5], user=8, k=2)
    assert beside.recommendations == known.recommendations and beside.warnings[0].startswith("unknown user 8:")
    odd = recommender.recommend(songs=[5, None, True, 1.5, "x", -1, 2**70, [5]], dislikes=["y"], k=2)
    assert [r.item_id for r in odd.recommendations] == [r.item_id for r in known.recommendations]
    assert "None, True, 1.5, 'x', -1" in odd.warnings[0] and odd.warnings[1].startswith("unknown disliked song 'y'")


def test_without_a_recency_head_a_history_is_a_taste(recommender, export):
    # Three listens to song 5 and one to 17: edges of log(1 + 3) and log(1 + 1), twice as much.
    history = [(5, 9), (5, 8), (5, 7), (17, 8), (1000, 8, None, "dislike"), (100, 7, 0.0)]
    found = [r.item_id for r in recommender.recommend(history=history, k=5).recommendations]
    mean = np.array([2, 1]) @ export.item_embeddings[:2]
    mean /= np.linalg.norm(mean)
    pushed = mean - 0.5 * (mean @ recommender.vectors[3]) * recommender.vectors[3]
    order = np.argsort(-(recommender.vectors @ pushed))
    assert found == [int(ITEM_IDS[i]) for i in order if i not in (3, 5)]
    new = recommender.recommend(history=history, k=5, filters=Filters(heard=False)).recommendations
    assert [r.item_id for r in new] == [2**31]


def test_nothing_to_start_from(recommender):
    with pytest.raises(UserError, match="empty playlist"):
        recommender.recommend()
    with pytest.raises(UserError, match="k=0"):
        recommender.recommend(songs=[5], k=0)


def test_export_survives_a_round_trip_and_names_damage(export, tmp_path):
    folder = tmp_path / "embeddings"
    save_export(export, folder, fingerprint="f", step=3, user_songs=USER_SONGS)
    loaded, identity = load_export(folder)
    assert identity == "f"
    for a, b in zip(export, loaded, strict=True):
        np.testing.assert_array_equal(a, b)
    assert load_user_songs(folder).disliked_by(1).tolist() == [3]
    victim = folder / "item_embeddings.npy"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match=str(victim)):
        load_export(folder)


@pytest.mark.parametrize("name", UserSongs._fields)
def test_a_damaged_history_is_named_and_never_answered_from(export, tmp_path, name):
    """Zeroed, disliked songs would come back; one bit is an index out of range."""
    save_export(export, tmp_path / "e", fingerprint="f", step=3, user_songs=USER_SONGS)
    path = tmp_path / "e" / f"{name}.npy"
    whole = path.read_bytes()
    for damaged in (whole[:128] + bytes(len(whole) - 128), whole[:-1] + bytes([whole[-1] ^ 64]), whole[:-1], b""):
        if damaged != whole:
            path.write_bytes(damaged)
            with pytest.raises(DamagedFileError, match=rf"{name}\.npy: damaged"):
                load_user_songs(tmp_path / "e")


@pytest.mark.parametrize(
    "name, value",
    [
        ("disliked", np.array([99], np.int32)),
        ("disliked", np.array([-1], np.int32)),
        ("disliked", np.array([3.0])),
        ("heard_offsets", np.zeros(2, np.int64)),
        ("disliked_offsets", np.array([0, 2, 1])),
        ("item_embeddings", np.zeros((6, 3), np.float32)),
        ("item_embeddings", np.zeros(6, np.float32)),
        ("user_embeddings", np.full((2, 4), np.nan, np.float32)),
        ("listeners", np.zeros(5, np.int32)),
        ("item_ids", np.zeros(5, np.uint32)),
        ("artists", np.full(3, 1000, np.int32)),
    ],
)
def test_arrays_that_do_not_go_together_are_refused_whatever_their_checksums(export, tmp_path, name, value):
    if name in UserSongs._fields:
        user_songs = USER_SONGS._replace(**{name: value})
        changed = export
    else:
        user_songs, changed = USER_SONGS, export._replace(**{name: value})
    save_export(changed, tmp_path / "e", fingerprint="f", step=3, user_songs=user_songs)
    with pytest.raises(DamagedFileError, match=f"{tmp_path}/e"):
        load_export(tmp_path / "e")
        load_user_songs(tmp_path / "e")


def test_a_users_dislikes_and_heard_songs_are_out(export):
    recommender = Recommender(export, index="exact", user_songs=USER_SONGS)
    found = {r.item_id for r in recommender.recommend(user=900, k=6).recommendations}
    assert found == {5, 17, 100, 2**31}
    new = recommender.recommend(user=900, k=6, filters=Filters(heard=False)).recommendations
    assert {r.item_id for r in new} == {5, 17, 2**31}


def test_disliked_songs_are_out_and_push_away(export):
    def towards(push):
        recommender = Recommender(export, index="exact", dislike_push=push)
        answer = recommender.recommend([5, 17], k=2, dislikes=[100, 55])
        assert 100 not in [r.item_id for r in answer.recommendations]
        assert len(answer.warnings) == 1 and answer.warnings[0].startswith("unknown disliked song 55")
        asked = recommender._resolve(Query((5, 17), dislikes=(100,)), Filters(), np.zeros(0, int))
        (wanted,), _ = recommender._query(recommender._asked([asked], 0.3))
        return float(wanted.vectors[0] @ recommender.vectors[2])

    before, after = towards(0.0), towards(1.0)
    assert after <= min(before, 0.0) + 1e-5 or after == pytest.approx(before)


def test_duplicates_count_once_and_at_their_last_place(recommender):
    twice = recommender.recommend([5, 17, 100, 5], k=3)
    once = recommender.recommend([17, 100, 5], k=3)
    assert twice == once


def test_order_counts_only_where_it_means_something(export):
    position = np.zeros(POSITIONS, np.float32)
    position[0] = 3.0
    head = Head(position, *map(np.float32, (0, 0, 0)))
    plain = Head(np.zeros(POSITIONS, np.float32), *map(np.float32, (0, 0, 0)))
    heads = Heads(Space(np.float32(0.0), np.float32(0.0)), head, plain)
    recommender = Recommender(export, index="exact", heads=heads)
    why = {r.item_id: r.weight for r in recommender.recommend([5, 17], k=1).recommendations[0].why}
    assert why[17] > 0.9
    ways = [recommender.recommend(songs, k=3, ordered=False).recommendations for songs in ([5, 17], [17, 5])]
    assert [r.item_id for r in ways[0]] == [r.item_id for r in ways[1]]
    np.testing.assert_allclose([r.score for r in ways[0]], [r.score for r in ways[1]], rtol=1e-5)


def test_a_batch_equals_one_at_a_time_and_keeps_errors_apart(recommender):
    queries = [Query((5, 17)), Query((18,)), Query((100,), user=7), Query((), user=900), Query(())]
    answers = recommender.recommend_batch(queries, k=3)
    assert "unknown song 18" in str(answers[1]) and "empty playlist" in str(answers[4])
    for at in (0, 2, 3):
        one = recommender.recommend(queries[at].songs, user=queries[at].user, k=3)
        assert [r.item_id for r in one.recommendations] == [r.item_id for r in answers[at].recommendations]


def test_filters_and_k_beyond_the_catalogue(recommender):
    one_each = recommender.recommend([2**31], k=5, filters=Filters(max_per_artist=1))
    # 5 and 17 share artist 40.
    assert len(one_each.recommendations) == 3 and "only 3 of 5" in one_each.warnings[0]
    everything = recommender.recommend([2**31], k=500)
    assert len(everything.recommendations) == 4 and "only 4 of 500" in everything.warnings[0]


def test_an_over_long_playlist_is_refused_with_the_limit(recommender):
    with pytest.raises(UserError, match=f"at most {MAX_SONGS}"):
        recommender.recommend(list(range(MAX_SONGS + 1)))


def test_no_program_is_compiled_for_another_playlist_length(export, caplog):
    recommender = Recommender(export, index="exact")
    recommender.recommend([5], k=3)
    with jax.log_compiles():
        for songs in ([5, 17], [5, 17, 100], [17, 100, 1000, 2**31]):
            recommender.recommend(songs, k=3)
    assert not [line for line in caplog.messages if line.startswith("Compiling")]


def test_explain_ranks_any_song(recommender, export):
    best = recommender.recommend([5], k=4, filters=Filters()).recommendations
    found = recommender.explain(best[1].item_id, songs=[5])
    # A product of one row and one of four round differently.
    assert [(w.item_id, w.weight) for w in found.why] == [(w.item_id, w.weight) for w in best[1].why]
    assert found.why[0].similarity == pytest.approx(best[1].why[0].similarity, abs=1e-6)
    assert found.score == pytest.approx(best[1].score) and found.rank == 2
    with pytest.raises(UserError, match="unknown song 6"):
        recommender.explain(6, songs=[5])


def test_embeddings_that_are_not_finite_are_refused(export):
    broken = export.item_embeddings.copy()
    broken[1, 0] = np.nan
    with pytest.raises(UserError, match="song 17 is not finite"):
        make_export(
            user_ids=USER_IDS, item_ids=ITEM_IDS, user_embeddings=export.user_embeddings, item_embeddings=broken,
            listeners=np.ones(6, int), features=FEATURES,
        )  # fmt: skip


def test_loading_what_is_not_trained_says_so(tmp_path):
    with pytest.raises(UserError, match="no export of this version"):
        Recommender.load(tmp_path)


def test_songs_by_name_and_by_playlist_file(recommender):
    count = len(recommender.export.item_ids)
    titles = ["Hello" if at in (3, 5) else f"Title {at}" for at in range(count)]
    fields = {"title": Texts.of(titles), "artist": Texts.of([f"Artist {at}" for at in range(count)])}
    songs = dataclasses.replace(recommender.ids.songs, fields=fields)
    named = copy.copy(recommender)
    named.ids = recommender.ids._replace(songs=songs)
    label = songs.label
    by_id = named.recommend([label(2), label(4)], k=2)
    by_name = named.recommend(["artist 2 - title 2", Track("Title 4", "Artist 4")], k=2)
    assert by_name == by_id and by_name.recommendations[0].name.startswith("Artist ")
    assert by_id.recommendations[0].why[0].name in ("Artist 2 - Title 2", "Artist 4 - Title 4")
    assert "Artist 2 - Title 2: " in str(by_id) or "Artist 4 - Title 4: " in str(by_id)
    with pytest.raises(UserError, match=f"'Hello' is the name of 2 songs: {label(3)} .Artist 3 - Hello., {label(5)} "):
        named.recommend(["Hello"])
    mixed = named.recommend(["Hello", "Artist 2 - Title 2", Track("None", "Nobody")], k=2).warnings
    assert "unknown song 'Nobody - None'" in mixed[0] and "is the name of 2 songs" in mixed[1]
    assert named.explain("Title 1", songs=[label(2)]).item_id == label(1)
    assert [track.title for track in named.tracks(by_id)] == [r.name.split(" - ")[1] for r in by_id.recommendations]
