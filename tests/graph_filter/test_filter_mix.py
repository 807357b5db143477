"""The mix of encoder and filter against plain NumPy, and the choice on validation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph_filter import dense_scores, graph_of, random_weights

from music_map.evaluation.evaluate import evaluate_scores
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import RankingTask, find_protocol
from music_map.graph_filter.choose import Choice, Tried, choose, sample_of, try_shares
from music_map.graph_filter.kept import KeptFilter
from music_map.graph_filter.scores import MixedScorer
from music_map.storage import ArrayFolder, ArrayWriter

DENSE = random_weights(4)
USERS, SONGS = (np.random.default_rng(5).normal(size=(n, 4)).astype(np.float32) for n in DENSE.shape)


def mixed(share, kind="linear"):
    graph = graph_of(DENSE)
    return MixedScorer(USERS, SONGS, graph.rows, graph.operator(kind, 0.2), share, "csr")


def z(scores):
    """Standardised rows; a row of equal scores is 0."""
    deviation = scores.std(axis=1, keepdims=True)
    return (scores - scores.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1.0)


def expected_scores(share, kind="linear"):
    of_encoder = USERS.astype(np.float64) @ SONGS.T
    return (1 - share) * z(of_encoder) + share * z(dense_scores(DENSE, kind, 0.2, 6))


@pytest.mark.parametrize("kind", ["linear", "chebyshev"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_mix_agrees_with_numpy(share, kind):
    users = np.array([7, 0, 3, 7], np.int32)
    found = np.asarray(mixed(share, kind)(users))
    np.testing.assert_allclose(found, expected_scores(share, kind)[users], atol=3e-5)
    if share == 0:  # the order of the encoder alone
        np.testing.assert_array_equal(np.argsort(-found), np.argsort(-(USERS[users] @ SONGS.T)))


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 6), st.integers(0, 99))
def test_ranking_by_blocks_and_by_share_is_that_of_the_scores(k, seed):
    rng = np.random.default_rng(seed)
    users = rng.choice(14, 5, replace=False).astype(np.int32)
    allowed, out = (
        np.arange(11) != 2,
        Pairs.of(rng.integers(5, size=9), rng.integers(11, size=9), num_rows=5, num_items=11),
    )
    scorer = mixed(0.4)
    scores = expected_scores(0.4)[users]
    scores[:, 2] = -np.inf
    scores[out.rows, out.items] = -np.inf
    best, values = scorer.rank(users, k, allowed=allowed, out=out)
    np.testing.assert_allclose(values, -np.sort(-scores, axis=1)[:, :k], atol=3e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, best, axis=1), values, atol=3e-5)


def task_of(rng, num_users=14):
    targets = Pairs.of(
        np.repeat(np.arange(num_users), 2), rng.integers(11, size=2 * num_users), num_rows=num_users, num_items=11
    )
    nothing = Pairs(np.zeros(num_users + 1, np.int64), np.zeros(0, np.int32))
    users = np.arange(num_users, dtype=np.int32)
    return RankingTask(find_protocol("lightgcn"), "val", users, targets, nothing, np.ones(11, bool), 0, 0.0)


def test_shares_are_measured_as_the_scorer_of_each_share_is():
    task = task_of(np.random.default_rng(0))
    tried = try_shares(mixed(0.0), "linear", 0.2, task, metric="ndcg@5", shares=(0.0, 0.3, 1.0))
    for choice, row in zip(tried.choices, tried.numerators, strict=True):
        found = evaluate_scores(mixed(choice.share), task, ks=(5,)).metrics["ndcg@5"]
        assert row.sum() / tried.denominators.sum() == pytest.approx(found)
    # Lists that are longer than the catalogue.
    assert try_shares(mixed(0.0), "linear", 0.2, task, metric="recall@20").numerators[0].mean() == 1.0
    assert len(sample_of(task, 6, seed=0).users) == 6 and sample_of(task, 99, seed=0) is task


def tried(kind, rows, shares=(0.0, 0.5)):
    return Tried([Choice(kind, 0.2, share) for share in shares], np.array(rows, float), np.ones(len(rows[0])))


def test_the_simplest_within_a_standard_error_is_chosen():
    alone, better = [0.1, 0.2, 0.3, 0.2], [0.4, 0.5, 0.6, 0.5]
    # The same lead for every user has no error: the better one.
    assert choose([tried("linear", [alone, better])])[0] == Choice("linear", 0.2, 0.5)
    # Leads of 0, 0, .6 and -.2: their mean is .1, its standard error sqrt(.01 + .01 + .25 + .09) / 4 = .15.
    lucky = [0.1, 0.2, 0.9, 0.0]
    assert choose([tried("linear", [alone, lucky])])[0].share == 0.0
    # Between two kinds, the first of equals.
    kinds = [tried("linear", [alone, better]), tried("chebyshev", [alone, better])]
    found, values = choose(kinds)
    assert found.kind == "linear" and [choice.kind for choice, _ in values] == ["linear", "linear", "chebyshev"]


@pytest.mark.parametrize("kind", ["linear", "chebyshev"])
def test_a_stored_filter_scores_as_before(kind, tmp_path):
    graph, choice = graph_of(DENSE), Choice(kind, 0.2, 0.3)
    writer = ArrayWriter(tmp_path)
    writer.finish(fingerprint="f", meta=KeptFilter.of(graph, choice).save(writer))
    kept = KeptFilter.load(ArrayFolder.open(tmp_path), num_users=14, num_items=11)
    assert kept.choice == choice and (kept.spectrum is None) == (kind == "linear")
    users = np.arange(14)
    np.testing.assert_array_equal(kept.scorer(USERS, SONGS)(users), mixed(0.3, kind)(users))
