"""Where sessions go on: the maps against a plain least squares, the arrays on disk, and the choice of strengths."""

import numpy as np
import pytest

from music_map.errors import DamagedFileError
from music_map.evaluation.playlist import Sessions
from music_map.playlist import onward
from music_map.playlist.attention import attend
from music_map.playlist.fit import examples_at, examples_of
from music_map.playlist.heads import PLAIN_MIXTURE, from_json, to_json, untrained
from music_map.playlist.mixture import Evidence, fit_mixture
from music_map.playlist.onward import RIDGE, Onward, go_on, onward_of
from music_map.storage import ArrayFolder, ArrayWriter

RNG = np.random.default_rng(0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def sessions(lists):
    offsets = np.cumsum([0, *map(len, lists)])
    return Sessions(np.zeros(len(lists), np.int32), offsets, np.concatenate(lists).astype(np.int32))


def by_hand(lists, z, single):
    """Least squares over the pairs, one row each, with rows that pull towards 0."""
    pairs = [
        (unit(z[songs[:n]].sum(axis=0)), z[song])
        for songs in lists
        for n in range(1, len(songs))
        for song in songs[n:]
        if (n == 1) == single
    ]
    x, y = map(np.array, zip(*pairs, strict=True))
    pull = np.sqrt(RIDGE * (x**2).sum() / x.shape[1]) * np.eye(x.shape[1])
    return np.linalg.lstsq(np.vstack([x, pull]), np.vstack([y, 0 * pull]), rcond=None)[0]


def test_maps_are_those_of_least_squares(monkeypatch):
    z = unit(RNG.normal(size=(30, 5))).astype(np.float32)
    lists = [RNG.permutation(30)[: RNG.integers(1, 9)] for _ in range(40)]
    found = onward_of(sessions(lists), z)
    for array, single in zip(found, (True, False), strict=True):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, by_hand(lists, z, single), rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(onward, "MOST_PLAYS", 60)
    few = onward_of(sessions(lists), z, seed=1)
    assert not np.allclose(few.several, found.several)
    np.testing.assert_array_equal(few.several, onward_of(sessions(lists), z, seed=1).several)
    assert not np.any(onward_of(sessions([[1], [2]]), z))  # no song comes after another


def test_a_single_song_and_several_have_their_own_maps():
    z, w = unit(RNG.normal(size=(4, 5))), RNG.normal(size=(2, 5, 5))
    q, strengths = unit(RNG.normal(size=(3, 5))), (0.5, 2.0)
    totals, counts = np.stack([z[0], z[1:].sum(axis=0), 0 * z[0]]), np.array([1, 3, 0])
    found = go_on(q, totals, counts, Onward(*w), strengths)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[2], q[2], rtol=1e-5)  # of no songs
    for row in range(2):
        wanted = q[row] + strengths[row] * unit(unit(totals[row]) @ w[row])
        np.testing.assert_allclose(found[row], unit(wanted), rtol=1e-5)


def test_arrays_on_disk(tmp_path):
    found = Onward(*RNG.normal(size=(2, 3, 3)).astype(np.float32))
    writer = ArrayWriter(tmp_path)
    found.save(writer)
    writer.finish(fingerprint="f", meta={})
    read = Onward.load(ArrayFolder.open(tmp_path), dim=3)
    np.testing.assert_array_equal(read, found)
    with pytest.raises(DamagedFileError, match=r"onward/one.npy: needs 4 x 4"):
        Onward.load(ArrayFolder.open(tmp_path), dim=4)


@pytest.mark.parametrize("turned", [True, False])
def test_sessions_that_move_on_turn_the_query(turned):
    """Sessions go from one group of songs to the group after it, or stay in one: the map helps the former alone."""
    z = unit(np.repeat(np.eye(16)[:6], 10, axis=0) + 0.3 * RNG.normal(size=(60, 16))).astype(np.float32)

    def log(number):
        groups = RNG.integers(0, 6, number)
        after = (groups + 1) % 6 if turned else groups
        return sessions([
            np.concatenate([10 * a + (own := RNG.permutation(10))[:3], 10 * b + own[3:6]])
            for a, b in zip(groups, after, strict=True)
        ])  # fmt: skip

    before, window, heads = log(300), log(150), untrained(np.inf)
    given = (window, z, np.zeros(60, np.float32), np.ones(60, bool))
    examples = examples_of(*given, most=150, seed=0)
    first, later = (examples_at(cuts, *given, most=150, seed=0) for cuts in ((1,), (2, 4, 9)))
    assert first[0].where.all() and first[0].songs.shape == (150, 1)
    assert (
        later[0].where.sum(axis=1).tolist() == [2, 4] * 150 and later[1].tolist() == np.arange(150).repeat(2).tolist()
    )
    assert examples_at((9,), *given, most=150, seed=0) is None
    mixture = fit_mixture(heads, [Evidence(examples, None, before, first, later)], mixed_share=0.0)
    assert mixture.together == 0
    if turned:
        assert mixture.several > 0
        query = np.asarray(attend(z[:3], np.ones(3, bool), np.zeros(3, np.float32), heads.ordered)[0])
        strengths, total = (mixture.one, mixture.several), z[:3].sum(axis=0, keepdims=True)
        after = z @ go_on(query[None], total, np.array([3]), onward_of(before, z), strengths)[0]
        assert after[10:20].mean() > (z @ query)[10:20].mean() + 0.2
    assert fit_mixture(heads, [Evidence(examples, first=first, later=later)], mixed_share=0.0) == PLAIN_MIXTURE


def test_queries_stored_before_there_were_strengths_stay_as_they_were():
    heads = untrained(0.3)._replace(mixture=PLAIN_MIXTURE._replace(several=np.float32(2.0)))
    assert float(from_json(to_json(heads), source="f").mixture.several) == 2.0
    old = to_json(heads)
    old["mixture"] = {name: value for name, value in old["mixture"].items() if name in ("together", "cohesion")}
    assert from_json(old, source="f").mixture == PLAIN_MIXTURE
