"""Tastes of a playlist, the fusion of their lists, and the choice of the mixture."""

import numpy as np
import pytest

from music_map.evaluation.playlist import Sessions
from music_map.playlist.companions import companions_of
from music_map.playlist.fit import examples_of
from music_map.playlist.heads import PLAIN_MIXTURE, from_json, to_json, untrained
from music_map.playlist.mixture import DEFAULT, WEIGHTS, Evidence, fit_mixture
from music_map.playlist.tastes import DEPTH, KAPPA, MOST_TASTES, cohesion, fuse, tastes_of


def around(centres, count, noise, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.eye(12)[centres], count, axis=0) + noise * rng.normal(size=(len(centres) * count, 12))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_cohesion_is_the_mean_cosine_of_pairs():
    rows = around([0, 1], 3, 0.3)
    pairs = (rows @ rows.T)[np.triu_indices(6, 1)]
    assert cohesion(rows) == pytest.approx(pairs.mean(), abs=1e-6)
    assert cohesion(rows[:1]) == cohesion(rows[:0]) == 1.0


@pytest.mark.parametrize("centres", [[0], [0, 1], [0, 1, 2]])
def test_a_playlist_has_as_many_tastes_as_groups_of_songs(centres):
    rows = around(centres, 4, 0.15)
    order = np.random.default_rng(1).permutation(len(rows))
    tastes = tastes_of(rows[order], 0.5)
    groups = order // 4
    assert len(set(tastes.tolist())) == len(centres) and tastes[0] == 0
    np.testing.assert_array_equal(tastes[:, None] == tastes[None, :], groups[:, None] == groups[None, :])
    assert not tastes_of(rows, -1.0).any()


def test_there_are_at_most_so_many_tastes_and_songs_without_embeddings_are_no_obstacle():
    rows = around(list(range(12)), 1, 0.0)
    assert len(set(tastes_of(rows, 0.9).tolist())) == MOST_TASTES
    assert len(set(tastes_of(np.vstack([rows[:2], 0 * rows[:1]]), 0.9).tolist())) == 3


def joined(lists):
    """Lists of songs and scores as `fuse` takes them."""
    tastes = np.repeat(np.arange(len(lists)), [len(songs) for songs, _ in lists])
    return *(np.concatenate(column) for column in zip(*lists, strict=True)), tastes


def test_fusion_by_hand():
    lists = [
        (np.array([4, 7, 1], np.int32), np.array([0.9, 0.8, 0.1], np.float32)),
        (np.array([2, 7], np.int32), np.array([0.5, 0.4], np.float32)),
    ]
    songs, scores = fuse(*joined(lists), np.array([0.6, 0.4]))
    gain = {4: 0.6 / (KAPPA + 1), 7: 1.0 / (KAPPA + 2), 1: 0.6 / (KAPPA + 3), 2: 0.4 / (KAPPA + 1)}
    assert songs.tolist() == sorted(gain, key=gain.get, reverse=True)
    np.testing.assert_allclose(scores, np.float32([0.9, 0.8, 0.5, 0.1]))


def test_longer_lists_do_not_change_the_order_of_the_first():
    rng = np.random.default_rng(2)
    scores = [-np.sort(-rng.random(400)).astype(np.float32) for _ in range(2)]
    lists = [(rng.permutation(400).astype(np.int32), one) for one in scores]
    whole, _ = fuse(*joined(lists), np.array([0.5, 0.5]))
    first, _ = fuse(*joined([(songs[:DEPTH], s[:DEPTH]) for songs, s in lists]), np.array([0.5, 0.5]))
    np.testing.assert_array_equal(whole[: len(first)], first)


def log(pairs, num):
    rng = np.random.default_rng(0)
    lists = [
        2 * rng.permutation(30)[:3, None] + rng.permuted(np.arange(2)[None].repeat(3, 0), axis=1) for _ in range(num)
    ]
    lists = [songs.ravel() if pairs else rng.permutation(60)[:6] for songs in lists]
    offsets = np.arange(num + 1) * 6
    return Sessions(np.zeros(num, np.int32), offsets, np.concatenate(lists).astype(np.int32))


@pytest.mark.parametrize("pairs", [True, False])
def test_songs_that_are_played_in_pairs_make_companions_count(pairs):
    """Embeddings know nothing here; that songs 2 n and 2 n + 1 are played together only the sessions say."""
    items = np.random.default_rng(3).normal(size=(60, 64)).astype(np.float32)
    past, window = log(pairs, 300), log(pairs, 200)
    window = window.select(np.arange(100, 200))
    examples = examples_of(window, items, np.zeros(60, np.float32), np.ones(60, bool), most=100, seed=0)
    heads = untrained(1.0)
    mixture = fit_mixture(heads, [Evidence(examples, companions=companions_of(past, 60))], mixed_share=0.25)
    assert mixture.together > DEFAULT if pairs else mixture.together in WEIGHTS
    assert -1 < mixture.cohesion < 0.2
    plain = fit_mixture(heads, [Evidence(examples)], mixed_share=0.0)
    assert (float(plain.together), float(plain.cohesion)) == (0.0, -1.0)


def test_queries_stored_before_there_was_a_mixture_stay_as_they_were():
    heads = untrained(0.3)._replace(mixture=PLAIN_MIXTURE._replace(together=np.float32(2.0)))
    assert float(from_json(to_json(heads), source="f").mixture.together) == 2.0
    old = {name: part for name, part in to_json(heads).items() if name != "mixture"}
    assert from_json(old, source="f").mixture == PLAIN_MIXTURE
