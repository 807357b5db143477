"""Neighbours in sound: by hand, against plain NumPy, and kept beside the data set."""

import numpy as np
import pytest

from music_map.model import sound
from music_map.model.sound import Kept, neighbours
from music_map.preprocess.dataset import ItemFeatures


def features(degrees):
    """Songs whose audio points into a direction of the plane, in degrees; None: no audio."""
    row = np.cumsum([d is not None for d in degrees]) - 1
    angles = np.deg2rad([d for d in degrees if d is not None])
    audio = np.zeros((len(angles), 128), np.float32)
    audio[:, 0], audio[:, 1] = np.cos(angles), np.sin(angles)
    row = np.where([d is not None for d in degrees], row, -1).astype(np.int32)
    none, offsets, ids = np.zeros(0, np.int32), np.zeros(len(degrees) + 1, np.int64), np.zeros(0, np.uint32)
    return ItemFeatures(audio, row, offsets, none, ids, offsets, none, ids, np.zeros(len(degrees), np.float32))


DEGREES = [0.0, 10.0, 25.0, None, 90.0]


def test_worked_example():
    found = neighbours(features(DEGREES), np.array([0, 2, 3, 4]), np.array([0, 1, 2, 3]), count=2)
    # Song 4 is among no others, yet has neighbours; song 3 has no audio.
    assert found.songs.tolist() == [[1, 2], [1, 0], [-1, -1], [2, 1]]
    wanted = np.cos(np.deg2rad([[10, 25], [15, 25], [90, 90], [65, 80]]))
    np.testing.assert_allclose(found.cosines, wanted, atol=1e-6)


def test_fewer_others_than_wanted():
    found = neighbours(features(DEGREES), np.array([1, 4]), np.array([0, 1]), count=9)
    assert found.songs.tolist() == [[0, -1], [1, 0]] and found.cosines[0, 1] == 0
    assert neighbours(features(DEGREES), np.array([1]), np.array([3]), count=9).songs.shape == (1, 0)
    assert neighbours(features(DEGREES), np.zeros(0, np.int64), np.array([0]), count=9).songs.shape == (0, 0)


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_equals_a_sort_of_all_cosines(monkeypatch, rows):
    rng = np.random.default_rng(0)
    at = features(rng.uniform(0, 360, 40).tolist())
    monkeypatch.setattr(sound, "rows_at_once", lambda _: rows)
    others = np.sort(rng.choice(40, 30, replace=False))
    found = neighbours(at, np.arange(40), others, count=5)
    for song in range(40):
        mine = others[others != song]
        cosines = at.audio[mine] @ at.audio[song]
        assert found.songs[song].tolist() == mine[np.argsort(-cosines, kind="stable")[:5]].tolist()


def test_kept_beside_the_data_and_mended(tmp_path, monkeypatch):
    at, asked = features(DEGREES), (np.array([0, 2]), np.array([0, 1, 2]))
    found = neighbours(at, *asked, count=2, kept=Kept(tmp_path, "data"))
    (folder,) = tmp_path.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(sound, "_compute", lambda *_: pytest.fail("computed again"))
        again = neighbours(at, *asked, count=2, kept=Kept(tmp_path, "data"))
    np.testing.assert_array_equal(again.songs, found.songs)
    for other in ({"count": 1}, {"count": 2, "kept": Kept(tmp_path, "other data")}):
        neighbours(at, *asked, **{"kept": Kept(tmp_path, "data"), **other})
    assert len(list(tmp_path.iterdir())) == 3
    (folder / "songs.npy").write_bytes(b"damaged")
    again = neighbours(at, *asked, count=2, kept=Kept(tmp_path, "data"))
    np.testing.assert_array_equal(again.songs, found.songs)
    assert (folder / "songs.npy").read_bytes() != b"damaged"


def test_a_place_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").write_text("")
    found = neighbours(features(DEGREES), np.array([0]), np.array([1]), count=2, kept=Kept(tmp_path / "file", "data"))
    assert found.songs.tolist() == [[1]]
