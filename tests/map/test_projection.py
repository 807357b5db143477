"""Projection: deterministic, faithful to neighbours, and close to an older map."""

import numpy as np
import pytest

from music_map.errors import UserError
from music_map.map.projection import installed, kept_neighbours, nearest_songs, principal_plane, project

RNG = np.random.default_rng(1)


def groups(count=300, num_groups=6, dim=16):
    centre = RNG.normal(size=(num_groups, dim))
    rows = np.repeat(centre, count // num_groups, axis=0) + RNG.normal(0, 0.3, (count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_nearest_songs_are_those_of_brute_force_and_the_song_itself_first():
    vectors = groups(60)
    vectors[7] = vectors[3]  # a copy must not take the song's own place
    songs, distances = nearest_songs(vectors, 5)
    assert songs[:, 0].tolist() == list(range(60)) and (distances[:, 0] == 0).all()
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    np.testing.assert_allclose(1 - distances[:, 1:], np.sort(scores, axis=1)[:, ::-1][:, :4], atol=1e-5)


def test_many_copies_of_a_song():
    vectors = np.repeat(groups(60)[:1], 40, axis=0)
    songs, _ = nearest_songs(vectors, 5)
    assert songs[:, 0].tolist() == list(range(40))


def test_principal_plane_is_that_of_svd():
    vectors = groups(60)
    centred = vectors - vectors.mean(axis=0)
    wanted = np.abs(np.linalg.svd(centred, full_matrices=False)[0] * np.linalg.svd(centred, full_matrices=False)[1])
    np.testing.assert_allclose(np.abs(principal_plane(vectors)), wanted[:, :2], atol=1e-4)


@pytest.mark.skipif(not installed(), reason="umap-learn is not installed")
def test_umap_is_reproducible_faithful_and_stays_where_it_was():
    vectors = groups()
    first = project(vectors, seed=3)
    np.testing.assert_array_equal(first, project(vectors, seed=3))
    assert first.shape == (300, 2) and np.abs(first).max() == pytest.approx(1.0)
    assert kept_neighbours(first, vectors) > 0.8
    # Retrained: the space is turned and disturbed; 30 songs are new.
    turn = np.linalg.qr(RNG.normal(size=(16, 16)))[0]
    later = (vectors @ turn + RNG.normal(0, 0.02, vectors.shape)).astype(np.float32)
    later /= np.linalg.norm(later, axis=1, keepdims=True)
    previous = first.copy()
    previous[::10] = np.nan
    second = project(later, previous=previous, seed=3)
    moved = np.linalg.norm(second - first, axis=1)
    fresh = np.linalg.norm(project(later, seed=3) - first, axis=1)
    assert np.median(moved) < 0.2 and np.median(moved) < np.median(fresh) / 2
    assert np.median(moved[::10]) < 0.3  # the new ones lie among their neighbours
    assert kept_neighbours(second, later) > 0.8


def test_an_old_map_fixes_turn_scale_and_place():
    vectors = groups()
    old = project(vectors, method="pca")
    angle = 0.7
    turned = old @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32) * 0.5 + 2.0
    np.testing.assert_allclose(project(vectors, method="pca", previous=turned), turned, atol=1e-4)


def test_songs_of_which_nothing_is_known_lie_apart():
    vectors = groups()
    vectors[:5] = 0
    position = project(vectors, method="pca")
    assert np.isfinite(position).all() and len(np.unique(position[:5], axis=0)) == 5
    assert position[:5, 1].max() < position[5:, 1].min()


def test_few_songs_and_unknown_methods():
    for count in (1, 2, 5):
        assert np.isfinite(project(groups(60)[:count])).all()
    assert project(np.zeros((3, 4), np.float32)).shape == (3, 2)
    with pytest.raises(UserError, match="--method=tsne"):
        project(groups(60), method="tsne")
