"""Scores with songs cut over devices, and fits on them, are those of one device."""

import jax
import numpy as np
import pytest

from music_map.evaluation.cut import CutEmbeddingScores
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.playlist import Sessions
from music_map.evaluation.protocols import build_task
from music_map.evaluation.ranking import embedding_scores, rank
from music_map.mesh import make_mesh
from music_map.playlist.fit import examples_of, fit_heads
from music_map.preprocess.dataset import LISTEN
from music_map.recency.cut import CutScorer
from music_map.recency.fit import fit_head, gather
from music_map.recency.history import Histories
from music_map.recency.moment import observe
from music_map.recency.scores import FEATURES, Embeddings, RecencyScorer
from music_map.recency.settings import RecencySettings
from tests.recency.logs import NOW, item_features, make_events, random_rows

RNG = np.random.default_rng(0)
# Songs that no number of devices divides, and small integers: scores are exact, and many are equal.
NUM_USERS, NUM_ITEMS = 61, 203
EMBEDDINGS = Embeddings(*(RNG.integers(-2, 3, (n, 8)).astype(np.float32) for n in (NUM_USERS, NUM_ITEMS)))
EVENTS = make_events(random_rows(np.random.default_rng(1), 2_000, users=NUM_USERS, items=NUM_ITEMS))
NAMES = [[i % 17] if i % 5 else [] for i in range(NUM_ITEMS)], [[i // 4] for i in range(NUM_ITEMS)]
MOMENT = observe(EVENTS, item_features(*NAMES), now=NOW, num_users=NUM_USERS, num_items=NUM_ITEMS)
WEIGHTS = dict(zip(FEATURES, RNG.normal(size=len(FEATURES)).tolist(), strict=True))
USERS = RNG.permutation(NUM_USERS)[:50].astype(np.int32)
CANDIDATES = RNG.random(NUM_ITEMS) < 0.9
_ROWS, _ITEMS = np.nonzero(RNG.random((50, NUM_ITEMS)) < 0.1)
MASKED = Pairs.of(_ROWS, _ITEMS, num_rows=50, num_items=NUM_ITEMS)


def mesh_of(devices):
    return make_mesh(jax.devices()[:devices])


def scorer(devices=None, weights=WEIGHTS):
    given = EMBEDDINGS, weights, MOMENT, Histories.of(EVENTS, num_users=NUM_USERS)
    if devices is None:
        return RecencyScorer(*given, latest_length=5)
    return CutScorer(*given, latest_length=5, mesh=mesh_of(devices))


def lists(scores, k=20, **options):
    return rank(scores, USERS, num_items=NUM_ITEMS, k=k, **options)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_ranking_with_songs_on_many_devices(devices):
    cut = CutEmbeddingScores(*EMBEDDINGS, mesh_of(devices))
    options = {"candidates": CANDIDATES, "masked": MASKED}
    np.testing.assert_array_equal(lists(cut, block_size=7, **options), lists(embedding_scores(*EMBEDDINGS), **options))
    # More songs than a device has.
    np.testing.assert_array_equal(lists(cut, k=203), lists(embedding_scores(*EMBEDDINGS), k=203))
    np.testing.assert_array_equal(cut(USERS), np.asarray(embedding_scores(*EMBEDDINGS)(USERS)))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("weights", [WEIGHTS, {"user": 1.0, "heard": 0.5}])
def test_recency_with_songs_on_many_devices(devices, weights):
    options = {"candidates": CANDIDATES, "masked": MASKED}
    one = lists(scorer(weights=weights), **options)
    many = lists(scorer(devices, weights), block_size=16, **options)
    assert (one == many).mean() > 0.995  # near ties may swap


@pytest.mark.parametrize("devices", [2, 8])
def test_fit_of_recency_on_many_devices(devices):
    targets = make_events([(u, (u * 7) % NUM_ITEMS, NOW + 9, LISTEN, 90) for u in range(0, NUM_USERS, 2)])
    sizes = {"num_users": NUM_USERS, "num_items": NUM_ITEMS}
    task = build_task("temporal_repeats", "val", train=EVENTS, val=targets, test=targets, **sizes)
    settings = RecencySettings(num_users=20, num_top=4, num_random=9, num_familiar=5)
    one, many = (gather(task, s, settings, seed=3) for s in (scorer(), scorer(devices)))
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    fitted = [fit_head(one, strength=1.0, prior={"user": 1.0}, mesh=m) for m in (None, mesh_of(devices))]
    np.testing.assert_allclose(*(list(w.values()) for w in fitted), atol=2e-3)


@pytest.mark.parametrize("devices", [8])
def test_fit_of_the_playlist_query_on_many_devices(devices):
    items = np.random.default_rng(5).normal(size=(120, 8)).astype(np.float32)
    lists = np.random.default_rng(6).integers(0, 120, (37, 6)).astype(np.int32)
    sessions = Sessions(np.zeros(37, np.int32), np.arange(38) * 6, lists.ravel())
    known = np.ones(120, bool)
    made = examples_of(sessions, items, np.zeros(120, np.float32), known, most=37, seed=0)
    one, many = (fit_heads([made], strengths=(), mesh=mesh) for mesh in (None, mesh_of(devices)))
    assert one[1] == many[1]
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(many[0]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
