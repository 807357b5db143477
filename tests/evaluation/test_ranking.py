import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.evaluation import ranking
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.ranking import embedding_scores, rank
from music_map.topk import rows_at_once

USERS, ITEMS = 7, 12


def brute_force(scores, users, k, candidates, masked):
    """A stable sort of each user's scores by Python."""
    lists = []
    for row, user in enumerate(users):
        withheld = set(masked.items[masked.offsets[row] : masked.offsets[row + 1]].tolist())
        left = [i for i in range(scores.shape[1]) if candidates[i] and i not in withheld and scores[user, i] > -np.inf]
        best = sorted(left, key=lambda i: -scores[user, i])[:k]
        lists.append(best + [-1] * (k - len(best)))
    return np.array(lists, np.int32).reshape(len(users), k)


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Few distinct values: most songs tie.
    scores = rng.integers(-2, 3, (USERS, ITEMS)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    users = rng.permutation(USERS)[: draw(st.integers(1, USERS))].astype(np.int32)
    rows, items = np.nonzero(rng.random((len(users), ITEMS)) < draw(st.sampled_from([0.0, 0.3, 0.9])))
    masked = Pairs.of(rows, items, num_rows=len(users), num_items=ITEMS)
    return scores, users, rng.random(ITEMS) < 0.8, masked, draw(st.integers(1, 4))


@settings(deadline=None, max_examples=60)
@given(cases(), st.sampled_from([1, 5, ITEMS, ITEMS + 3]))
def test_equals_a_stable_sort(case, k):
    scores, users, candidates, masked, block_size = case
    topk = rank(
        lambda block: scores[block],
        users,
        num_items=ITEMS,
        k=k,
        candidates=candidates,
        masked=masked,
        block_size=block_size,
    )
    assert topk.dtype == np.int32
    np.testing.assert_array_equal(topk, brute_force(scores, users, k, candidates, masked))


def test_embeddings_rank_as_their_product(monkeypatch):
    rng = np.random.default_rng(0)
    user_emb, item_emb = rng.normal(size=(50, 8)).astype(np.float32), rng.normal(size=(3000, 8)).astype(np.float32)
    users = rng.permutation(50)[:33].astype(np.int32)
    masked = Pairs.of(np.repeat(np.arange(33), 90), rng.integers(3000, size=33 * 90), num_rows=33, num_items=3000)
    # Several lengths of the padded mask within one run.
    monkeypatch.setattr(ranking, "_MIN_MASK", 64)
    topk = rank(embedding_scores(user_emb, item_emb), users, num_items=3000, k=20, masked=masked, block_size=8)
    scores = user_emb.astype(np.float64) @ item_emb.T.astype(np.float64)
    np.testing.assert_array_equal(topk, brute_force(scores, users, 20, np.ones(3000, bool), masked))
    assert not masked.contains(np.arange(33)[:, None], topk).any()


def test_jax_scores_and_defaults():
    topk = rank(lambda users: jnp.tile(jnp.arange(5.0), (len(users), 1)), np.arange(3), num_items=5, k=2)
    assert topk.tolist() == [[4, 3]] * 3


def test_blocks_have_one_shape():
    shapes = []

    def score_block(users):
        shapes.append(users.tolist())
        return np.zeros((len(users), 4), np.float32)

    advanced = []

    class Bar:
        def __init__(self, label, total, unit):
            assert (label, total, unit) == ("ranking", 5, "user")

        def __enter__(self):
            return advanced.append

        def __exit__(self, *_):
            return None

    rank(score_block, np.array([9, 8, 7, 6, 5]), num_items=4, k=1, block_size=2, progress=Bar)
    assert shapes == [[9, 8], [7, 6], [5, 5]] and advanced == [2, 2, 1]


def test_nan_is_an_error_unless_it_could_not_be_recommended():
    scores = np.zeros((1, 4), np.float32)
    scores[0, 2] = np.nan
    with pytest.raises(UserError, match="NaN"):
        rank(lambda users: scores, np.array([0]), num_items=4, k=2)
    negative = np.copysign(scores, -1).astype(np.float32)
    with pytest.raises(UserError, match="NaN"):
        rank(lambda users: negative, np.array([0]), num_items=4, k=2)
    allowed = np.array([True, True, False, True])
    assert rank(lambda users: scores, np.array([0]), num_items=4, k=4, candidates=allowed).tolist() == [[0, 1, 3, -1]]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        rank(lambda users: np.zeros((len(users), 3)), np.arange(2), num_items=4, k=1)
    with pytest.raises(ValueError, match="masked"):
        one = Pairs(np.zeros(2, np.int64), np.zeros(0, np.int32))
        rank(lambda users: np.zeros((len(users), 4)), np.arange(2), num_items=4, k=1, masked=one)


def test_no_users_give_no_lists():
    assert rank(lambda users: np.zeros((len(users), 4)), np.zeros(0, np.int32), num_items=4, k=3).shape == (0, 3)


def test_block_size_follows_memory():
    # 128 MiB / (4 bytes x 253,939 songs) = 132 users.
    assert rows_at_once(253_939) == 132
    assert rows_at_once(100) == 2048 and rows_at_once(10**9) == 1
