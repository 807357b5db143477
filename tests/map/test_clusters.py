"""Clusters: found where they are, numbered like an older map's, coloured unlike their neighbours."""

import numpy as np

from music_map.map.clusters import centres_of, cluster, colours_of, num_clusters_for, renumber_like

RNG = np.random.default_rng(0)


def blobs(sizes):
    """Songs in groups about the axes: vectors, and the group of each."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.eye(len(sizes), 8, dtype=np.float32)[group] + RNG.normal(0, 0.05, (len(group), 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), group


def test_groups_are_found_and_the_largest_comes_first():
    vectors, group = blobs([20, 50, 30])
    found = cluster(vectors, 3)
    assert [np.unique(found[group == g]).tolist() for g in (1, 2, 0)] == [[0], [1], [2]]
    np.testing.assert_array_equal(found, cluster(vectors, 3))


def test_more_clusters_than_songs():
    vectors, _ = blobs([2, 1])
    found = cluster(vectors, 9)
    assert found.shape == (3,) and set(found) == set(range(found.max() + 1))


def test_numbers_follow_the_older_map():
    clusters = np.array([0, 0, 0, 1, 1, 2, 2, 2], np.int32)
    previous = np.array([4, 4, 1, 1, 1, -1, -1, -1], np.int32)
    # 0 was 4, 1 was 1; 2 has no songs of the older map and comes after its last.
    assert renumber_like(clusters, previous).tolist() == [4, 4, 4, 1, 1, 5, 5, 5]


def test_neighbours_differ_in_colour_and_old_colours_stay():
    x, y = np.meshgrid(np.arange(30), np.arange(30))
    position = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    clusters = (x.ravel() // 10 + 3 * (y.ravel() // 10)).astype(np.int32)
    colours = colours_of(position, clusters)
    for row in range(3):
        for at in range(3):
            here = 3 * row + at
            assert at == 2 or colours[here] != colours[here + 1]
            assert row == 2 or colours[here] != colours[here + 3]
    kept = colours_of(position, clusters, previous={0: 5, 4: 2})
    assert kept[0] == 5 and kept[4] == 2 and kept[1] not in (5, 2)


def test_names_stand_in_the_middle():
    position = np.array([[0, 0], [1, 0], [2, 0], [50, 50]], np.float32)
    assert centres_of(position, np.array([0, 0, 0, 1])) == {0: 1, 1: 3}


def test_number_of_clusters():
    assert [num_clusters_for(n) for n in (1, 4, 100, 3_622, 250_000)] == [1, 4, 6, 15, 40]
