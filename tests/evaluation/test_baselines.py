import numpy as np
import pytest
from checkerboard import brings_the_diagonal_first, checkerboard_history, history, history_of, pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.evaluation.baselines import BASELINES, fit_baselines, settings_from_json, settings_to_json
from music_map.evaluation.baselines import item_knn as item_knn_module
from music_map.evaluation.baselines.item_knn import item_knn, item_knn_decay, item_similarity, recent_pairs
from music_map.evaluation.baselines.popularity import decayed_popularity, most_popular, own_plays, random_scores
from music_map.evaluation.baselines.settings import (
    SETTINGS,
    DecayPopSettings,
    ESasRecSettings,
    IalsSettings,
    ItemKnnDecaySettings,
    ItemKnnSettings,
    SasRecSettings,
)
from music_map.evaluation.protocols import PROTOCOLS, find_protocol
from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN, Events

DAY = 86_400


def test_checkerboard_brings_the_withheld_diagonal_first():
    played = checkerboard_history(30)
    for scores in (
        item_knn(played, ItemKnnSettings()),
        item_knn(played, ItemKnnSettings(num_neighbours=20, shrinkage=2.0)),
        item_knn_decay(played, ItemKnnDecaySettings()),
    ):
        assert brings_the_diagonal_first(scores, played)


def test_random_depends_on_user_and_seed_only():
    scores = random_scores(50, seed=3)
    whole = scores(np.arange(6, dtype=np.int32))
    np.testing.assert_array_equal(whole[[4, 1]], scores(np.array([4, 1], np.int32)))
    assert whole.dtype == np.float32 and whole.shape == (6, 50) and whole.min() >= 0 and whole.max() < 1
    assert len(np.unique(whole)) > 290
    assert not np.array_equal(whole, random_scores(50, seed=4)(np.arange(6)))


def test_most_popular_counts_users():
    dense = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0]])
    assert most_popular(history_of(dense))(np.array([2, 0])).tolist() == [[3, 2, 0], [3, 2, 0]]


def test_decayed_popularity_worked_example():
    # Half-life 2 days, now = day 10: ages 0, 2, 4, 6 days count 1, 1/2, 1/4, 1/8.
    times, items = np.array([10, 8, 6, 4]) * DAY, [1, 0, 0, 2]
    played = history([0, 0, 0, 0], items, times, num_users=1, num_items=4, train_end=10 * DAY)
    scores = decayed_popularity(played, half_life_days=2.0)(np.array([0]))
    assert scores.tolist() == [[0.75, 1.0, 0.125, 0.0]] and scores.dtype == np.float32


def test_own_plays_worked_example():
    # Half-life 2 days, now = day 10. Song 3, which user 0 never played, is more popular than song 1.
    users, items = [0, 0, 0, 1, 1, 2], [0, 0, 2, 1, 3, 3]
    played = history(users, items, np.array([6, 8, 10, 1, 1, 1]) * DAY, num_users=3, num_items=5, train_end=10 * DAY)
    scores = own_plays(played, half_life_days=2.0)(np.array([0]))
    np.testing.assert_allclose(scores, [[0.75, -1 / 2, 1.0, -1 / 3, -1.0]])
    # A play that has decayed to nothing is still one.
    assert own_plays(played, half_life_days=1e-3)(np.array([1]))[0].argmax() in (1, 3)


def test_similarity_worked_example():
    # Users of song 0: a b c; of song 1: a b; of song 2: c; of song 3: nobody.
    dense = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]])
    similarity = item_similarity(pairs(dense), 4, shrinkage=0.0).toarray()
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 2 / np.sqrt(6)
    expected[0, 2] = expected[2, 0] = 1 / np.sqrt(3)
    np.testing.assert_allclose(similarity, expected, rtol=1e-6)
    shrunk = item_similarity(pairs(dense), 4, shrinkage=10.0).toarray()
    assert shrunk[0, 1] == pytest.approx(2 / (np.sqrt(6) + 10))
    common = item_similarity(pairs(dense), 4, shrinkage=0.0, power=0.0).toarray()
    assert common.tolist() == [[0, 2, 1, 0], [2, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    # One neighbour a row: song 0 keeps song 1.
    assert item_similarity(pairs(dense), 4, num_neighbours=1, shrinkage=0.0).toarray()[0].nonzero()[0].tolist() == [1]
    # User c knows songs 0 and 2: song 1 by way of song 0, and each of the two by way of the other.
    scores = item_knn(history_of(dense), ItemKnnSettings(shrinkage=0.0))(np.array([2]))
    np.testing.assert_allclose(scores, [[1 / np.sqrt(3), 2 / np.sqrt(6), 1 / np.sqrt(3), 0]], rtol=1e-6)


def test_equal_neighbours_keep_the_lower_index():
    similarity = item_similarity(pairs(np.ones((3, 6))), 6, num_neighbours=2).toarray()
    assert [row.nonzero()[0].tolist() for row in similarity] == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([1, 40, 10**6]))
def test_item_knn_agrees_with_dense_arithmetic_whatever_the_blocks(seed, num_neighbours, block_products):
    dense = np.random.default_rng(seed).random((9, 13)) < 0.35
    keep = item_knn_module._BLOCK_PRODUCTS
    item_knn_module._BLOCK_PRODUCTS = block_products
    try:
        chosen = ItemKnnSettings(num_neighbours=num_neighbours, shrinkage=0.5)
        scores = item_knn(history_of(dense), chosen)(np.arange(9))
    finally:
        item_knn_module._BLOCK_PRODUCTS = keep
    sizes = dense.sum(axis=0)
    # float32 as in the product, so that ties are the same ties.
    norms = (sizes**0.5).astype(np.float32)
    common = dense.T.astype(np.float32) @ dense.astype(np.float32)
    similarity = common / (norms[:, None] * norms[None] + np.float32(0.5))
    np.fill_diagonal(similarity, 0)
    for row in similarity:
        row[np.argsort(-row, kind="stable")[num_neighbours:]] = 0
    np.testing.assert_allclose(scores, dense @ similarity.T, rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_item_knn_decay_agrees_with_loops(seed):
    rng = np.random.default_rng(seed)
    users, items = rng.integers(5, size=40), rng.integers(7, size=40)
    times = rng.integers(0, 10, 40) * DAY
    played = history(users, items, times, num_users=6, num_items=8)
    scores = item_knn_decay(played, ItemKnnDecaySettings(half_life_days=2.5))(np.arange(6))
    counts = np.zeros((6, 8))
    for u, i in zip(users, items, strict=True):
        counts[u, i] += 1
    expected = np.zeros((6, 8))
    for u, i, t in zip(users, items, times.astype(float), strict=True):
        decay = 0.5 ** ((max(times[users == u].astype(float)) - t) / (2.5 * DAY))
        for j in range(8):
            if counts[:, j].any():
                expected[u, j] += decay * counts[:, i] @ counts[:, j] / np.linalg.norm(counts[:, j])
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


def test_item_knn_decay_lets_the_recent_listen_decide():
    # User 0 heard song 0 ten days ago and song 2 now; user 1 pairs songs 0 and 1, user 2 songs 2 and 3.
    times = [0, 10 * DAY, 0, 0, 0, 0]
    played = history([0, 0, 1, 1, 2, 2], [0, 2, 0, 1, 2, 3], times, num_users=3, num_items=4)
    scores = item_knn_decay(played, ItemKnnDecaySettings())(np.array([0]))[0]
    assert scores[3] > 100 * scores[1] > 0


def test_item_knn_decay_of_a_second_is_the_paper_s_hour_zero():
    """Only the songs of the user's last moment count, each by its cosine with the others."""
    played = history([0, 0, 0, 1, 1], [0, 1, 2, 1, 3], [0, 50, 50, 0, 0], num_users=2, num_items=4)
    scores = item_knn_decay(played, ItemKnnDecaySettings(half_life_days=1 / DAY))(np.array([0]))
    # Songs 1 and 2: <c_1 + c_2, c_j> / ||c_j|| with c_0 = c_2 = (1, 0), c_1 = (1, 1), c_3 = (0, 1).
    np.testing.assert_allclose(scores, [[2, 3 / np.sqrt(2), 2, 1]], rtol=1e-6)


def test_recent_pairs_keeps_the_last_distinct_songs():
    played = history([0, 0, 0, 0, 0, 1], [5, 6, 7, 4, 5, 2], [1, 2, 3, 3, 9, 1], num_users=3, num_items=8)
    # User 0, latest first: 5 (at 9), 4 and 7 (at 3), 6.
    kept = recent_pairs(played, max_items=2)
    assert kept.offsets.tolist() == [0, 2, 3, 3] and kept.items.tolist() == [4, 5, 2]
    assert recent_pairs(played, max_items=9).sizes.tolist() == [4, 1, 0]


TRAIN = Events(
    user=np.array([0, 0, 1, 1, 2], np.int32),
    item=np.array([0, 1, 0, 2, 3], np.int32),
    timestamp=np.array([0, DAY, 0, DAY, DAY], np.uint32),
    kind=np.array([LISTEN, LISTEN, LIKE, DISLIKE, LISTEN], np.uint8),
    is_organic=np.ones(5, np.uint8),
    played_pct=np.array([100, 20, 0, 0, 0], np.uint16),
)


def fitted(names, protocol, **options):
    return fit_baselines(
        names, TRAIN, find_protocol(protocol), num_users=3, num_items=4, train_end=2 * DAY, seed=0, **options
    )


def test_fit_uses_the_events_that_the_protocol_counts():
    popular = {name: next(fitted(["most_pop"], name))[1](np.array([0]))[0].tolist() for name in PROTOCOLS.all()}
    assert popular == {
        "temporal": [2, 1, 0, 0],
        "temporal_repeats": [2, 1, 0, 0],
        "cold_start": [2, 1, 0, 0],
        "global_temporal": [1, 0, 0, 0],
        "global_temporal_like": [1, 0, 0, 0],
        "lightgcn": [2, 1, 0, 1],
        "playlist": [2, 1, 0, 0],
        "fold_in": [2, 1, 0, 0],
    }


def test_fit_knows_every_name_and_hands_on_the_settings():
    users = np.arange(3, dtype=np.int32)
    # Without `implicit` the other test files say so.
    names = [name for name in BASELINES if name not in ("ials", "bpr_mf")]
    small = {"dim": 8, "num_blocks": 1, "num_epochs": 1, "batch_size": 2, "max_length": 4}
    quick = {"sasrec": SasRecSettings(**small), "esasrec": ESasRecSettings(**small)}
    tuned = {
        "decay_pop": DecayPopSettings(half_life_days=0.5),
        "item_knn": ItemKnnSettings(num_neighbours=1, shrinkage=1.0, max_history=1),
    }
    default = dict(fitted(names, "temporal_repeats", settings=quick))
    other = dict(fitted(["decay_pop", "item_knn"], "temporal_repeats", settings=tuned))
    assert list(default) == names
    for scores in default.values():
        block = np.asarray(scores(users))
        assert block.shape == (3, 4) and block.dtype == np.float32 and np.isfinite(block).all()
    # Ages 2, 1, 2 days: 2 x 1/4 and 1/2 with a half-life of a day, 2 x 1/16 and 1/4 with half a day.
    assert default["decay_pop"](users)[0].tolist() == [0.5, 0.5, 0, 0]
    assert other["decay_pop"](users)[0].tolist() == [0.125, 0.25, 0, 0]
    # With one song per history no two songs meet.
    assert default["item_knn"](users).any() and not other["item_knn"](users).any()


def test_unknown_baseline_is_refused_at_once():
    with pytest.raises(UserError, match=r"'most_popp' is unknown; did you mean 'most_pop'.*item_knn_decay"):
        fitted(["random", "most_popp"], "temporal_repeats")


def test_settings_survive_json():
    settings = {"ials": IalsSettings(alpha=3.0, num_epochs=4), "decay_pop": DecayPopSettings(half_life_days=2.0)}
    assert settings_from_json(settings_to_json(settings), source="f") == settings
    assert settings_from_json({"sasrec": {"dim": 8}}, source="f") == {"sasrec": SasRecSettings(dim=8)}
    assert settings_from_json({"ials": {"alpha": 3}}, source="f")["ials"].alpha == 3
    assert settings_from_json(settings_to_json({n: kind() for n, kind in SETTINGS.items()}), source="f").keys() == (
        SETTINGS.keys()
    )


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ([], "no settings by baseline"),
        ({"most_pop": {}}, "'most_pop' has no settings.*decay_pop"),
        ({"ials": {"alfa": 1.0}}, "ials.alfa: there is no such field; fields are factors, alpha"),
        ({"ials": {"factors": 1.5}}, "ials.factors=1.5: must be a whole number"),
        ({"sasrec": {"first_only": 1}}, "sasrec.first_only=1: must be true or false"),
        ({"ials": {"alpha": -1.0}}, "alpha=-1.0"),
        ({"ials": 3}, "ials=3: must be an object"),
        ({"sasrec": {"dim": 5}}, "sasrec.dim=5"),
        ({"esasrec": {"dim": 5}}, "esasrec.dim=5"),
        ({"esasrec": {"layers": "post"}}, "esasrec.layers='post': must be one of pre_norm, ligr"),
    ],
)
def test_settings_that_mean_nothing_are_named(stored, says):
    with pytest.raises(UserError, match=f"file.json: .*{says}"):
        settings_from_json(stored, source="file.json")
