"""Songs listened to together: a case by hand, the whole against a plain count, the arrays on disk."""

import numpy as np
import pytest

from music_map.errors import DamagedFileError
from music_map.evaluation.playlist import Sessions
from music_map.playlist import companions
from music_map.playlist.companions import DECAY, POWER, REACH, SHRINKAGE, Companions, companions_of
from music_map.storage import ArrayFolder, ArrayWriter


def sessions(lists):
    offsets = np.cumsum([0, *map(len, lists)])
    return Sessions(np.zeros(len(lists), np.int32), offsets, np.concatenate([*lists, []]).astype(np.int32))


def by_hand(lists, num_items):
    count, together = np.zeros(num_items), np.zeros((num_items, num_items))
    for songs in lists:
        for at, one in enumerate(songs):
            count[one] += 1
            for place, other in enumerate(songs):
                if 0 < abs(at - place) <= REACH:
                    together[one, other] += DECAY ** (abs(at - place) - 1)
    return together / ((count[:, None] * count[None, :]) ** POWER + SHRINKAGE)


def test_worked_example():
    found = companions_of(sessions([[0, 1, 2], [1, 0]]), 4).matrix.toarray()
    assert found[0, 1] == pytest.approx(2 / (4**0.4 + 10))
    assert found[0, 2] == pytest.approx(0.9 / (2**0.4 + 10)) and not found[3].any()
    np.testing.assert_allclose(found, found.T)


def test_a_plain_count_gives_the_same_in_blocks_of_any_size(monkeypatch):
    rng = np.random.default_rng(0)
    lists = [rng.permutation(40)[: rng.integers(1, 35)] for _ in range(60)]
    monkeypatch.setattr(companions, "_BLOCK_PAIRS", 500)
    found = companions_of(sessions(lists), 42)
    np.testing.assert_allclose(found.matrix.toarray(), by_hand(lists, 42), rtol=1e-4, atol=1e-7)
    assert found.offsets.dtype == np.int64 and found.songs.dtype == np.int32 and found.closeness.dtype == np.float32
    monkeypatch.setattr(companions, "MOST_COMPANIONS", 3)
    few = companions_of(sessions(lists), 42)
    assert (np.diff(few.offsets) <= 3).all()
    for song in range(40):
        kept = few.closeness[few.offsets[song] : few.offsets[song + 1]]
        np.testing.assert_allclose(np.sort(kept), np.sort(by_hand(lists, 42)[song])[-3:], rtol=1e-4)


def test_songs_of_many_plays_are_counted_by_a_sample(monkeypatch):
    lists = [[0, 1 + number % 4] for number in range(400)]
    monkeypatch.setattr(companions, "MOST_PLAYS", 100)
    found = companions_of(sessions(lists), 5)
    np.testing.assert_allclose(found.between(np.array([0]), np.arange(1, 5)), by_hand(lists, 5)[[0], 1:], rtol=0.3)


def test_sums_over_a_playlist_and_single_pairs():
    rng = np.random.default_rng(1)
    found = companions_of(sessions([rng.permutation(30)[:8] for _ in range(40)]), 31)
    playlist, weights = np.array([3, 30, 12]), np.array([0.5, 0.3, 0.2], np.float32)
    ((songs, sums),) = found.among(playlist, weights)
    whole = weights @ found.matrix.toarray()[playlist]
    np.testing.assert_array_equal(songs, np.flatnonzero(whole))
    np.testing.assert_allclose(sums, whole[songs], rtol=1e-5)
    assert [len(x) for x in found.among(np.array([30]), weights[:1])[0]] == [0, 0]
    parts = found.among(playlist, weights, np.array([1, 2, 0]))
    for (songs, sums), song, weight in zip(parts, playlist[[2, 0, 1]], weights[[2, 0, 1]], strict=True):
        row = weight * found.matrix.toarray()[song]
        np.testing.assert_array_equal(songs, np.flatnonzero(row))
        np.testing.assert_allclose(sums, row[songs], rtol=1e-5)
    others = np.array([7, 2, 29, 1])
    np.testing.assert_array_equal(found.between(playlist, others), found.matrix.toarray()[np.ix_(playlist, others)])
    assert found.between(playlist[:0], others).shape == (0, 4)


def test_arrays_on_disk(tmp_path):
    found = companions_of(sessions([[0, 1, 2]]), 3)
    writer = ArrayWriter(tmp_path)
    found.save(writer)
    writer.finish(fingerprint="f", meta={})
    for one, other in zip(Companions.load(ArrayFolder.open(tmp_path), num_items=3), found, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(DamagedFileError, match="companions/songs"):
        Companions.load(ArrayFolder.open(tmp_path), num_items=2)
    ArrayWriter(tmp_path).finish(fingerprint="f", meta={})
    assert Companions.load(ArrayFolder.open(tmp_path), num_items=3) is None


def test_no_session():
    assert companions_of(sessions([]), 3).matrix.nnz == 0
