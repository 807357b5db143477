"""Training the playlist query: its loss against NumPy, and that it finds what generated sessions hold."""

import numpy as np
import pytest

from music_map.evaluation.playlist import Sessions
from music_map.playlist.attention import POSITIONS
from music_map.playlist.fit import _loss, _placed, examples_of, fit_heads
from music_map.playlist.heads import untrained


def sessions(lists):
    sizes = [len(s) for s in lists]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Sessions(np.zeros(len(lists), np.int32), offsets, np.concatenate(lists).astype(np.int32))


def continuation_loss(heads, sharpness, examples, *, ordered):
    return _loss(heads, sharpness, examples, _placed(heads.space, examples), ordered=ordered)


def clusters(rng, count, size, dims=8):
    centres = np.eye(dims)[:count] * 3
    rows = np.repeat(centres, size, axis=0) + 0.5 * rng.normal(size=(count * size, dims))
    return rows.astype(np.float32)


def test_loss_against_numpy():
    rng = np.random.default_rng(0)
    items = rng.normal(size=(12, 4)).astype(np.float32)
    popularity = rng.uniform(0, 2, 12).astype(np.float32)
    made = examples_of(
        sessions([[0, 1, 2, 3], [4, 5, 6], [7, 8]]), items, popularity, np.ones(12, bool), most=10, seed=1
    )
    assert len(made.songs) == 2  # a session of two songs teaches nothing
    heads = untrained(0.5)
    found = float(continuation_loss(heads, np.float32(2.0), made, ordered=True))
    z = items / np.linalg.norm(items, axis=1, keepdims=True)
    total = 0.0
    for row in range(2):
        own = made.songs[row][made.where[row]]
        centre = z[own].sum(0) / np.linalg.norm(z[own].sum(0))
        a = np.exp(z[own] @ centre / 0.5)
        q = (a / a.sum()) @ z[own]
        score = 2.0 * (q / np.linalg.norm(q)) @ z.T
        weight = np.zeros(12)
        weight[made.candidates] = np.exp(made.log_weight)
        weight[own] = 0
        targets = made.candidates[made.targets[row][made.target_weight[row] > 0]]
        assert not set(targets) & set(own)
        total += np.log(weight @ np.exp(score)) - score[targets].mean()
    assert found == pytest.approx(total, rel=1e-4)


def test_recency_is_learned_where_the_last_song_says_what_comes():
    rng = np.random.default_rng(3)
    items = clusters(rng, 6, 20)
    lists = []
    for _ in range(300):
        old, new = rng.choice(6, 2, replace=False)
        # The listener moves on: what was played a while ago says nothing of what comes.
        lists.append(np.concatenate([old * 20 + rng.permutation(20)[:6], new * 20 + rng.permutation(20)[:8]]))
    made, other = (
        examples_of(sessions(part), items, np.zeros(120, np.float32), np.ones(120, bool), most=200, seed=0)
        for part in (lists[:200], lists[200:])
    )
    heads, strengths = fit_heads([made])
    assert np.isfinite(strengths["ordered"])
    assert heads.ordered.position[0] > heads.ordered.position[3] or heads.ordered.latest > 0.5
    assert not heads.unordered.position.any() and heads.unordered.latest == 0
    assert heads.ordered.position.shape == (POSITIONS,)

    def loss(heads, ordered):
        found = [continuation_loss(heads, np.float32(s), other, ordered=ordered) for s in np.geomspace(2, 50, 15)]
        return min(map(float, found))

    assert loss(heads, True) < 0.98 * min(loss(heads, False), loss(untrained(np.inf), True))


def test_songs_unknown_to_train_and_sessions_too_short_are_left_out():
    items = np.ones((6, 2), np.float32)
    known = np.array([True, True, True, False, False, False])
    assert examples_of(sessions([[0, 3, 4, 5, 1]]), items, np.zeros(6), known, most=5, seed=0) is None
    made = examples_of(sessions([[0, 3, 1, 4, 2]]), items, np.zeros(6), known, most=5, seed=0)
    assert set(made.songs[made.where]) | set(made.candidates) == {0, 1, 2}
