"""Clusters: found where they are, numbered like an older map's, coloured unlike each other."""

import numpy as np
import pytest

from music_map.map.clusters import centres_of, cluster, colours_of, islands, num_clusters_for, renumber_like
from music_map.map.colours import distances, palette

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


def test_islands_are_found_with_the_songs_between_them_and_smaller_ones_inside():
    pytest.importorskip("sklearn")
    middles = np.array([[-0.8, 0.5], [0.7, 0.6], [0.0, -0.6]])
    group = np.repeat(np.arange(3), [400, 300, 200])
    position = middles[group] + RNG.normal(0, 0.06, (900, 2))
    # The first island has two peaks.
    position[:200, 0] += 0.4
    strays = np.array([[0.68, 0.3], [0.02, -0.35]])
    position = np.concatenate([position, strays]).astype(np.float32)
    found, finer = islands(position, 4)
    assert found.max() == 3 and len(np.unique(found[:400])) == 2
    assert [found[-2], found[-1]] == [found[500], found[800]]
    few, _ = islands(position, 3)
    assert few.max() <= 2 and finer.max() >= found.max()
    np.testing.assert_array_equal(found, islands(position, 4)[0])
    # One heap has no islands: k-means divides it.
    assert islands(np.zeros((3, 2), np.float32), 2)[0].tolist() == [0, 0, 0]


def contrast(one, other):
    """WCAG's contrast ratio of two colours "#rrggbb"."""
    lights = []
    for text in (one, other):
        rgb = [int(text[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(lights) / min(lights)


def test_colours_can_be_told_apart_and_seen():
    assert round(contrast("#000000", "#ffffff")) == 21
    many = palette(24)
    apart = distances(many) + np.eye(24)
    assert apart.min() > 0.045 and palette(30)[:24] == many
    np.testing.assert_allclose(distances((many[0], many[0])), 0.0)
    black_and_white = [many[0]._replace(dark="#000000"), many[0]._replace(dark="#ffffff")]
    assert distances(black_and_white)[0, 1] == pytest.approx(1.0, abs=1e-4)
    for colour in many:
        assert contrast(colour.dark, "#0d1117") > 3 and contrast(colour.light, "#f7f6f2") > 3


def test_no_two_clusters_have_one_colour_neighbours_differ_most_and_old_colours_stay():
    x, y = np.meshgrid(np.arange(30), np.arange(30))
    position = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    clusters = (x.ravel() // 10 + 3 * (y.ravel() // 10)).astype(np.int32)
    colours = colours_of(position, clusters)
    assert sorted(colours.values()) == list(range(9))
    apart = distances(palette(9))
    touching = [
        apart[colours[c], colours[c + step]]
        for c in range(9)
        for step in (1, 3)
        if c + step < 9 and (step == 3 or c % 3 < 2)
    ]
    assert np.mean(touching) > apart[np.triu_indices(9, 1)].mean()
    kept = colours_of(position, clusters, previous={0: 5, 4: 2, 7: 2})
    assert kept[0] == 5 and kept[4] == 2 and len(set(kept.values())) == 9


def test_names_stand_in_the_middle():
    position = np.array([[0, 0], [1, 0], [2, 0], [50, 50]], np.float32)
    assert centres_of(position, np.array([0, 0, 0, 1])) == {0: 1, 1: 3}


def test_number_of_clusters():
    assert [num_clusters_for(n) for n in (1, 4, 100, 3_622, 250_000)] == [1, 4, 6, 15, 24]
