"""The playlist query against plain NumPy, and its behaviour under permutation, padding and single songs."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import DamagedFileError
from music_map.playlist.attention import POSITIONS, Head, attend, attend_to, push_away
from music_map.playlist.heads import Heads, from_json, to_json, untrained
from music_map.playlist.space import PLAIN, Space, embed, moments_of
from music_map.unit import unit_rows

RNG = np.random.default_rng(0)
HEAD = Head(
    RNG.normal(size=POSITIONS).astype(np.float32), np.float32(3.0), np.float32(-0.7), np.float32(0.4)
)  # order counts
UNORDERED = Head(np.zeros(POSITIONS, np.float32), np.float32(3.0), np.float32(0.0), np.float32(0.4))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


SONGS = unit(RNG.normal(size=(5, 4))).astype(np.float32)
POPULARITY = RNG.uniform(0, 3, 5).astype(np.float32)


def query(songs, head=HEAD, popularity=POPULARITY, padding=(0, 0)):
    before, after = padding
    rows = np.concatenate([np.full((n, songs.shape[1]), 9.0, np.float32) for n in (before,)] + [songs] + [
        np.full((after, songs.shape[1]), 9.0, np.float32)
    ])  # fmt: skip
    at = np.arange(len(rows))
    where = (at >= before) & (at < before + len(songs))
    known = np.concatenate([np.full(before, 7.0), popularity[: len(songs)], np.full(after, 7.0)]).astype(np.float32)
    return tuple(map(np.asarray, attend(*map(jnp.asarray, (rows, where, known)), head)))


def expected(songs, head, popularity):
    centre, n = unit(songs.sum(0)), len(songs)
    bucket = [min(int(np.log2(n - i)), POSITIONS - 1) for i in range(n)]
    logits = head.position[bucket] + head.centre * songs @ centre + head.latest * songs @ songs[-1]
    a = np.exp(logits + head.popularity * popularity)
    a /= a.sum()
    return unit(a @ songs), a


@pytest.mark.parametrize("head", [HEAD, UNORDERED])
def test_formula(head):
    q, weights = query(SONGS, head)
    wanted, a = expected(SONGS, head, POPULARITY)
    np.testing.assert_allclose(weights, a, rtol=1e-4)
    np.testing.assert_allclose(q, wanted, rtol=1e-4, atol=1e-6)


def test_long_playlists_share_the_last_position():
    songs = unit(np.random.default_rng(5).normal(size=(200, 4))).astype(np.float32)
    popularity = np.zeros(200, np.float32)
    np.testing.assert_allclose(query(songs, popularity=popularity)[1], expected(songs, HEAD, popularity)[1], rtol=1e-3)


def test_one_song_is_its_own_query():
    q, weights = query(SONGS[:1])
    np.testing.assert_allclose(q, SONGS[0], rtol=1e-5)
    np.testing.assert_allclose(weights, [1.0])


@given(st.permutations(range(5)))
@settings(max_examples=20, deadline=None)
def test_the_order_does_not_matter_to_a_set(order):
    order = np.array(order)
    q, weights = query(SONGS, UNORDERED)
    q2, weights2 = query(SONGS[order], UNORDERED, POPULARITY[order])
    np.testing.assert_allclose(q, q2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weights[order], weights2, rtol=1e-4)


def test_the_order_matters_to_a_playlist():
    assert np.abs(query(SONGS)[0] - query(SONGS[::-1].copy(), popularity=POPULARITY[::-1])[0]).max() > 0.01


@pytest.mark.parametrize("padding", [(0, 1), (3, 0), (2, 5)])
def test_padding_changes_nothing(padding):
    q, weights = query(SONGS)
    q2, weights2 = query(SONGS, padding=padding)
    np.testing.assert_allclose(q, q2, rtol=1e-5)
    kept = slice(padding[0], padding[0] + 5)
    np.testing.assert_allclose(weights2[kept], weights, rtol=1e-5)
    assert weights2.sum() == pytest.approx(weights2[kept].sum()) == pytest.approx(1.0)


def test_blocks_of_playlists_equal_one_at_a_time():
    rows = np.stack([SONGS, SONGS[::-1]])
    q, weights = attend(jnp.asarray(rows), jnp.ones((2, 5), bool), jnp.asarray(np.stack([POPULARITY] * 2)), HEAD)
    for row in range(2):
        one, weight = query(rows[row])
        np.testing.assert_allclose(q[row], one, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(weights[row], weight, rtol=1e-5)


def test_untrained_attention_goes_from_the_most_central_song_to_the_mean():
    _, hot = query(SONGS, untrained(1e4).ordered)
    np.testing.assert_allclose(hot, 0.2, atol=1e-4)
    _, cold = query(SONGS, untrained(1e-3).unordered)
    assert cold.max() > 0.99


def test_songs_that_cancel_out_stay_finite():
    q, weights = query(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32), UNORDERED, np.zeros(2, np.float32))
    assert np.isfinite(q).all()
    np.testing.assert_allclose(weights, [0.5, 0.5])


@pytest.mark.parametrize("count", [1, 2, 7, 200])
def test_one_playlist_in_numpy_is_the_same(count):
    rng = np.random.default_rng(count)
    rows, popularity = unit_rows(rng.normal(size=(count, 5))).astype(np.float32), rng.random(count).astype(np.float32)
    for head in (HEAD, UNORDERED):
        wanted = attend(jnp.asarray(rows), np.ones(count, bool), popularity, head)
        for found, one in zip(attend_to(rows, popularity, head), wanted, strict=True):
            np.testing.assert_allclose(found, one, rtol=1e-4, atol=1e-6)
    assert not attend_to(rows[:0], popularity[:0], HEAD)[0].any()


def test_a_disliked_song_loses_its_part_of_the_query():
    q, d = SONGS[:1], unit_rows(SONGS[:1] + 0.5 * SONGS[1:2])
    before = (q @ d.T).item()
    pushed = [(push_away(q, d, s) @ d.T).item() for s in (0.0, 0.5, 1.0)]
    assert pushed[0] == pytest.approx(before, rel=1e-5) and before > pushed[1] > pushed[2]
    assert pushed[2] == pytest.approx(0.0, abs=1e-5)


def test_disliked_songs_that_point_elsewhere_change_nothing():
    q = SONGS[:2]
    np.testing.assert_allclose(push_away(q[:1], -q[:1], 1.0), q[:1], rtol=1e-5)
    np.testing.assert_array_equal(push_away(q, q[:0], 1.0), q)
    # The nearer of two weighs more: w = softmax(4 d . q).
    near = SONGS[2:4] @ q[0]
    odds = np.exp(4 * near) / np.exp(4 * near).sum()
    wanted = q[0] - 0.5 * (odds * np.maximum(near, 0)) @ SONGS[2:4]
    np.testing.assert_allclose(push_away(q, SONGS[2:4], 0.5)[0], wanted / np.linalg.norm(wanted), rtol=1e-5)


def test_the_plain_space_is_the_embeddings():
    items = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    moments = moments_of(items, np.ones(30, bool))
    np.testing.assert_allclose(embed(jnp.asarray(items), moments, PLAIN), unit(items), rtol=1e-4, atol=1e-5)


def test_space_against_numpy_and_under_rotation():
    rng = np.random.default_rng(2)
    items = (rng.normal(size=(50, 4)) + np.array([2.0, 0, 0, 0])).astype(np.float32)
    known = np.arange(50) < 40
    space = Space(np.float32(0.8), np.float32(0.3))
    found = np.asarray(embed(jnp.asarray(items), moments_of(items, known), space))
    u = unit(items.astype(np.float64))
    mu = u[known].mean(0)
    spread, directions = np.linalg.eigh(np.cov(u[known].T, bias=True))
    z = unit((u - 0.8 * mu) @ directions @ np.diag((spread / spread.mean()) ** -0.3) @ directions.T)
    np.testing.assert_allclose(found, z, rtol=1e-3, atol=1e-4)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0].astype(np.float32)
    turned = np.asarray(embed(jnp.asarray(items @ turn), moments_of(items @ turn, known), space))
    np.testing.assert_allclose(turned, found @ turn, rtol=1e-3, atol=1e-4)


def test_a_song_without_an_embedding_stays_without():
    items = np.zeros((3, 4), np.float32)
    items[1:] = SONGS[:2]
    space = Space(np.float32(1.0), np.float32(0.0))
    assert not np.asarray(embed(jnp.asarray(items), moments_of(items, np.ones(3, bool)), space))[0].any()


def test_heads_survive_a_round_trip_and_damage_is_named():
    heads = Heads(Space(np.float32(0.5), np.float32(0.1)), HEAD, UNORDERED)
    again = from_json(to_json(heads), source="x")
    for a, b in zip(np.concatenate([np.ravel(x) for p in heads for x in p]),
                    np.concatenate([np.ravel(x) for p in again for x in p]), strict=True):  # fmt: skip
        assert a == pytest.approx(b)
    for bad in ({}, [], {"space": {}}, to_json(heads) | {"ordered": {"position": [1.0]}}):
        with pytest.raises(DamagedFileError, match=r"playlist\.json"):
            from_json(bad, source="playlist.json")
