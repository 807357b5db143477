"""The recency score against its formula in NumPy: blocks and single users, later moments, parts, storage."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import DamagedFileError, UserError
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.ranking import rank
from music_map.preprocess.dataset import DISLIKE, LISTEN
from music_map.recency.history import FAMILIARITY, Histories, before
from music_map.recency.moment import TREND, TREND_HALF_LIVES, Moment, observe
from music_map.recency.scores import DENSE, FEATURES, PARTS, QUERIES, WALKS, Embeddings, RecencyScorer, met
from music_map.storage import ArrayFolder, ArrayWriter
from tests.recency import oracle
from tests.recency.logs import ALBUMS, NOW, NUM_ITEMS, NUM_USERS, item_features, make_events, random_rows

RNG = np.random.default_rng(0)
EMBEDDINGS = Embeddings(
    jnp.asarray(RNG.normal(size=(NUM_USERS, 3)), jnp.float32), jnp.asarray(RNG.normal(size=(NUM_ITEMS, 3)), jnp.float32)
)
WEIGHTS = dict(zip(FEATURES, RNG.normal(size=len(FEATURES)).tolist(), strict=True))
VECTOR = np.array([WEIGHTS[name] for name in FEATURES])
ALL = np.arange(NUM_USERS, dtype=np.int32)
SHAPE = {"num_users": NUM_USERS, "num_items": NUM_ITEMS}


def scorer(events, *, features=None, weights=WEIGHTS, backend="csr", now=NOW):
    moment = observe(events, features or item_features(), now=now, **SHAPE)
    histories = Histories.of(events, num_users=NUM_USERS)
    return RecencyScorer(EMBEDDINGS, weights, moment, histories, latest_length=5, backend=backend)


def wanted_features(events, *, features=None, now=NOW):
    return oracle.features_of(events, features or item_features(), EMBEDDINGS, now=now, latest_length=5, **SHAPE)


def contributions(scorer, user, songs):
    """The parts of the scores of songs for one user."""
    parts = scorer.contributions(scorer.reading(np.array([user])), np.array([songs]))
    return {name: values[0] for name, values in parts.items()}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 80), st.sampled_from([NOW, NOW // 2]))
def test_scores_and_features_are_those_of_the_formula(seed, count, now):
    rng = np.random.default_rng(seed)
    events = make_events(random_rows(rng, count))
    found, wanted = scorer(events, now=now), wanted_features(events, now=now)
    users = rng.integers(0, NUM_USERS, 5).astype(np.int32)
    np.testing.assert_allclose(found(users), wanted[users] @ VECTOR, rtol=1e-4, atol=1e-4)
    songs = np.tile(np.arange(NUM_ITEMS, dtype=np.int32), (5, 1))
    np.testing.assert_allclose(found.features(users).at(songs), wanted[users], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["csr", "segment"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_block_of_any_size_ranks_as_all_together(backend, size):
    events = make_events(random_rows(np.random.default_rng(1), 50))
    found, users = scorer(events, backend=backend), np.array([2, 0, 3, 3, 1], np.int32)
    scores = wanted_features(events)[users] @ VECTOR
    wanted = np.argsort(-scores, axis=1, kind="stable")
    ranked = rank(found, users, num_items=NUM_ITEMS, k=NUM_ITEMS, block_size=size)
    np.testing.assert_array_equal(ranked, wanted)
    songs, values = found.rank(users[:size], 3)
    np.testing.assert_array_equal(songs, wanted[:size, :3])
    np.testing.assert_allclose(values, np.take_along_axis(scores, wanted, 1)[:size, :3], rtol=1e-4, atol=1e-4)


def test_the_kernel_of_gpus_gives_the_same_scores(monkeypatch):
    events = make_events(random_rows(np.random.default_rng(1), 50))
    wanted = scorer(events, backend="segment")(ALL)
    monkeypatch.setattr("music_map.recency.scores.choose_backend", lambda name: name)
    np.testing.assert_allclose(scorer(events, backend="pallas")(ALL), wanted, rtol=1e-5, atol=1e-5)


def test_withheld_songs_are_left_out():
    found = scorer(make_events(random_rows(np.random.default_rng(2), 50)))
    out = Pairs.of(np.array([0, 1, 1]), np.array([1, 2, 5]), num_rows=2, num_items=NUM_ITEMS)
    songs, scores = found.rank(np.array([3, 1]), NUM_ITEMS, allowed=np.arange(NUM_ITEMS) != 4, out=out)
    assert set(songs[0]) == {-1, 0, 2, 3, 5} and set(songs[1]) == {-1, 0, 1, 3}
    assert (np.isinf(scores) == (songs < 0)).all()


def test_contributions_add_up_to_the_score():
    found = scorer(make_events(random_rows(np.random.default_rng(3), 50)))
    parts = contributions(found, 2, [5, 0, 3])
    assert list(parts) == list(PARTS)
    np.testing.assert_allclose(
        sum(parts.values()), np.asarray(found(np.array([2])))[0, [5, 0, 3]], rtol=1e-4, atol=1e-4
    )


def test_features_have_their_names_order():
    assert (*QUERIES, *WALKS) == DENSE and (*DENSE, *TREND, *FAMILIARITY, *met(FEATURES)) == FEATURES
    assert met(FEATURES) == tuple(f"met_{name}" for name in (*QUERIES, "users_24h", "users_336h", "log_song_age"))
    assert sorted(name for names in PARTS.values() for name in names) == sorted(FEATURES)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3_000_000))
def test_a_later_moment_is_the_same_events_seen_later(seed, seconds):
    # An event of the last quarter of an hour decays from the end of it.
    events = make_events(random_rows(np.random.default_rng(seed), 40, before=NOW - 900))
    found = scorer(events).at(NOW + seconds)
    wanted = wanted_features(events, now=NOW + seconds)
    np.testing.assert_allclose(found(ALL), wanted @ VECTOR, rtol=1e-3, atol=1e-3)


def test_an_earlier_moment_is_refused():
    with pytest.raises(UserError, match=f"now=7 is earlier than {NOW}"):
        scorer(make_events([(0, 1, 5, LISTEN, 90)])).at(7)


def test_other_weights_and_other_peoples_histories():
    rng = np.random.default_rng(4)
    events, strangers = make_events(random_rows(rng, 40)), make_events(random_rows(rng, 20, users=2))
    found = scorer(events, weights=WEIGHTS | {"met_log_song_age": 0.0})
    alone = found.at(weights={"user": 2.0})
    np.testing.assert_allclose(alone(ALL), 2 * EMBEDDINGS.user @ EMBEDDINGS.item.T, rtol=1e-5)
    none = Embeddings(jnp.zeros((2, 3)), EMBEDDINGS.item)
    theirs = found.at(histories=Histories.of(strangers, num_users=2), embeddings=none)
    parts = contributions(theirs, 1, range(NUM_ITEMS))
    assert (parts["embedding"] == 0).all()
    assert (parts["trend"] == contributions(found, 0, range(NUM_ITEMS))["trend"]).all()
    heard = np.isin(np.arange(NUM_ITEMS), strangers.item[strangers.user == 1])
    np.testing.assert_array_equal(parts["played before"] != 0, heard)


def test_no_events_at_all_leave_the_encoder():
    found = scorer(make_events([]), weights={**dict.fromkeys(FEATURES, 0.0), "user": 2.0, "users_24h": 1.0})
    np.testing.assert_allclose(found(ALL), 2 * EMBEDDINGS.user @ EMBEDDINGS.item.T, rtol=1e-5)


def test_songs_without_artists_and_albums():
    events, none = make_events(random_rows(np.random.default_rng(6), 40)), item_features(artists=[[]] * NUM_ITEMS)
    np.testing.assert_allclose(
        scorer(events, features=none)(ALL), wanted_features(events, features=none) @ VECTOR, rtol=1e-4, atol=1e-4
    )
    assert ALBUMS[0] == [0]


@pytest.mark.parametrize("seed", range(2))
def test_song_trend_by_hand(seed):
    rows = random_rows(np.random.default_rng(seed), 40)
    trend = observe(make_events(rows), item_features(), now=NOW, **SHAPE).trend(NOW)
    hours = [max((NOW - row[2]) / 3600, 0.25) for row in rows]
    strength = [{0: min(max(row[4] / 100, 0.05), 1.0), 1: 1.0, 2: 0.0}[row[3]] for row in rows]
    for song in range(NUM_ITEMS):
        mine = [at for at, row in enumerate(rows) if row[1] == song]
        wanted = [np.log1p(sum(strength[at] * 2 ** (-hours[at] / h) for at in mine)) for h in TREND_HALF_LIVES]
        wanted.append(np.log1p(sum(strength[at] for at in mine)))
        wanted.append(np.log1p(len({rows[at][0] for at in mine if rows[at][3] != DISLIKE})))
        wanted.append(np.log(max([hours[at] for at in mine] + [1.0])))
        np.testing.assert_allclose(trend[song], wanted, rtol=1e-5)
    assert trend.shape == (NUM_ITEMS, len(TREND))


def test_chunks_of_events_and_histories_make_no_difference(monkeypatch):
    events = make_events(random_rows(np.random.default_rng(7), 60))
    whole = scorer(events)(ALL)
    moment = observe(Histories.of(events, num_users=NUM_USERS), item_features(), now=NOW, **SHAPE)
    np.testing.assert_array_equal(moment.user_weights, scorer(events).moment.user_weights)
    monkeypatch.setattr("music_map.recency.moment._CHUNK", 7)
    np.testing.assert_allclose(scorer(events)(ALL), whole, rtol=1e-5, atol=1e-5)


def test_nothing_after_the_moment_reaches_it():
    rng = np.random.default_rng(8)
    rows = random_rows(rng, 30)
    later = [(u, i, NOW + 1 + t, k, p) for u, i, t, k, p in random_rows(rng, 20)]
    known, seen = scorer(make_events(rows)), scorer(make_events(rows + later))
    np.testing.assert_array_equal(known(ALL), seen(ALL))
    assert len(before(make_events(rows + later), NOW).user) == len(rows)


def test_stored_and_loaded_it_scores_the_same(tmp_path):
    events = make_events(random_rows(np.random.default_rng(9), 50))
    found = scorer(events)
    writer = ArrayWriter(tmp_path)
    found.moment.save(writer)
    found.histories.save(writer)
    writer.finish(fingerprint="x", meta={})
    store = ArrayFolder.open(tmp_path)
    histories = Histories.load(store)
    assert isinstance(histories.item, np.memmap)
    again = RecencyScorer(EMBEDDINGS, WEIGHTS, Moment.load(store), histories, latest_length=5, backend="csr")
    np.testing.assert_array_equal(again(ALL), found(ALL))
    (tmp_path / "moment/users.npy").write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"users\.npy"):
        Moment.load(store)
