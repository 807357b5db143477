"""Lists and searches of many devices are those of one."""

import jax
import numpy as np
import pytest

from music_map.evaluation.pairs import Pairs
from music_map.evaluation.ranking import embedding_scores, rank
from music_map.retrieval.index import ExactIndex

RNG = np.random.default_rng(0)
# Small integers: scores are exact on any number of devices, and many are equal.
USERS, ITEMS = (RNG.integers(-2, 3, (n, 8)).astype(np.float32) for n in (61, 203))


@pytest.mark.parametrize("devices", [2, 8])
def test_ranking_users_on_many_devices(devices):
    rows, items = np.nonzero(RNG.random((50, len(ITEMS))) < 0.1)
    masked = Pairs.of(rows, items, num_rows=50, num_items=len(ITEMS))
    candidates = RNG.random(len(ITEMS)) < 0.9
    users = RNG.permutation(61)[:50].astype(np.int32)

    def lists(chosen, block_size):
        scores = embedding_scores(USERS, ITEMS, devices=chosen)
        options = {"candidates": candidates, "masked": masked, "block_size": block_size}
        return rank(scores, users, num_items=len(ITEMS), k=20, **options)

    # Neither 50 users nor blocks of 7 divide by the devices.
    np.testing.assert_array_equal(lists(jax.devices()[:devices], 7), lists(None, 50))


@pytest.mark.parametrize("devices", [2, 8])
def test_exact_search_on_many_devices(devices):
    one, many = ExactIndex(ITEMS), ExactIndex(ITEMS, devices=jax.devices()[:devices])
    allowed = RNG.random(len(ITEMS)) < 0.3
    for k, mask in ((5, None), (60, allowed), (203, allowed)):
        for a, b in zip(one.search(USERS, k, allowed=mask), many.search(USERS, k, allowed=mask), strict=True):
            np.testing.assert_array_equal(a, b)
