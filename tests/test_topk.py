"""Top-k in rounds, what GPUs run, against jax.lax.top_k."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.topk import top_k, top_k_in_rounds


def assert_equal_to_lax(scores, k):
    wanted, at = jax.lax.top_k(scores, k)
    for rounds in (1, 2, 3, 4):
        found, index = top_k_in_rounds(jnp.asarray(scores), k=k, rounds=rounds)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(index, at)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from([(16, 1), (64, 4), (203, 3), (1000, 2)]), st.integers(0, 2**32 - 1))
def test_equal_scores_and_withdrawn_songs_come_in_the_order_of_their_indices(data, shape, seed):
    num_items, k = shape
    values = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, 3.0]), min_size=1, max_size=6)
    choice = np.array(data.draw(values), np.float32)
    assert_equal_to_lax(np.random.default_rng(seed).choice(choice, (3, num_items)), k)


@pytest.mark.parametrize(("num_items", "k"), [(5_003, 7), (20_000, 100), (300, 300), (17, 5)])
def test_random_scores(num_items, k):
    assert_equal_to_lax(np.random.default_rng(0).normal(size=(4, num_items)).astype(np.float32), k)


def test_the_best_song_is_the_last_of_a_short_group():
    scores = np.zeros((1, 1_001), np.float32)
    scores[0, -1] = 1.0
    assert_equal_to_lax(scores, 5)


def test_a_program_has_one_way_only():
    """Two rounds for a GPU, none of it on CPU."""
    like = jax.ShapeDtypeStruct((8, 50_000), jnp.float32)
    traced = jax.jit(lambda scores: top_k(scores, 20)).trace(like)
    texts = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda")}
    assert "reduce" in texts["cuda"] and "reduce" not in texts["cpu"]
    assert top_k(jnp.array([[1.0, 3.0, 3.0]]), 2)[1].tolist() == [[1, 2]]
