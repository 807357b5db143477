"""The mix of encoder and filter against plain NumPy, and the choice on validation."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph_filter import dense_scores, graph_of, random_weights

from music_map.evaluation.evaluate import evaluate_scores
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import RankingTask, find_protocol
from music_map.graph_filter.choose import GROUPS, Choice, Tried, choose, groups_of, sample_of, search, try_shares
from music_map.graph_filter.kept import KeptFilter
from music_map.graph_filter.operator import UserRows
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


def test_other_users_with_songs_of_known_ones_have_their_scores():
    """As listeners whom the graph does not have: what their songs reach is a matter of the graph."""
    scorer, known = mixed(0.3, "chebyshev"), [5, 0, 5]
    songs = [np.flatnonzero(DENSE[user]) for user in known]
    weights = np.concatenate([DENSE[user, of] for user, of in zip(known, songs, strict=True)])
    offsets = np.cumsum([0, *map(len, songs)])
    rows = UserRows(offsets, np.concatenate(songs).astype(np.int32), weights.astype(np.float32))
    others = dataclasses.replace(scorer, users=USERS[known], rows=rows)
    np.testing.assert_allclose(others(np.arange(3)), expected_scores(0.3, "chebyshev")[known], atol=3e-5)


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
    # Lists of users with fewer songs end with -1.
    found = np.where(best >= 0, np.take_along_axis(scores, best, axis=1), -np.inf)
    np.testing.assert_allclose(found, values, atol=3e-5)


def task_of(rng, num_users=14):
    targets = Pairs.of(
        np.repeat(np.arange(num_users), 2), rng.integers(11, size=2 * num_users), num_rows=num_users, num_items=11
    )
    nothing = Pairs(np.zeros(num_users + 1, np.int64), np.zeros(0, np.int32))
    users = np.arange(num_users, dtype=np.int32)
    return RankingTask(find_protocol("lightgcn"), "val", users, targets, nothing, np.ones(11, bool), 0, 0.0)


def part_of(task, there):
    """The task with some of its targets and the users who have one."""
    targets = Pairs.of(task.targets.rows[there], task.targets.items[there], num_rows=len(task.users), num_items=11)
    users = np.flatnonzero(targets.sizes)
    picked = {"targets": targets.select(users), "masked": task.masked.select(users)}
    return dataclasses.replace(task, users=task.users[users], **picked)


def test_shares_are_measured_in_each_group_as_the_scorer_of_each_share_is():
    task = task_of(np.random.default_rng(0))
    groups = np.arange(len(task.targets.items)) % 3
    tried = try_shares(mixed(0.0), "linear", 0.2, task, groups, metric="ndcg@5", shares=(0.0, 0.3, 1.0))
    for group in range(3):
        part = part_of(task, groups == group)
        for choice, row in zip(tried.choices, tried.numerators[:, :, group], strict=True):
            found = evaluate_scores(mixed(choice.share), part, ks=(5,)).metrics["ndcg@5"]
            assert row.sum() / tried.denominators[:, group].sum() == pytest.approx(found)
    # Lists that are longer than the catalogue.
    whole = try_shares(mixed(0.0), "linear", 0.2, task, np.zeros(len(groups), int), metric="recall@20")
    assert whole.numerators[0].mean() == 1.0
    assert len(sample_of(task, 6, seed=0).users) == 6 and sample_of(task, 99, seed=0) is task


def test_groups_are_equal_parts_of_the_targets_by_summed_cosine():
    task = task_of(np.random.default_rng(2))
    degree = DENSE.sum(axis=0)
    root = np.where(degree > 0, degree, np.inf) ** -0.5
    near = (DENSE @ (root[:, None] * (DENSE.T @ DENSE) * root))[task.users[task.targets.rows], task.targets.items]
    graph = graph_of(DENSE)
    linear = MixedScorer(USERS, SONGS, graph.rows, graph.operator("linear", 0.0), 0.0, "csr")
    found = groups_of(linear, task)
    order = np.argsort(near, kind="stable")
    assert (np.diff(found[order]) >= 0).all() and found.max() == GROUPS - 1


def tried(kind, *rows, shares=(0.0, 0.5)):
    """Rows [U, G] of each share."""
    return Tried([Choice(kind, 0.2, share) for share in shares], np.array(rows, float), np.ones_like(rows[0]))


def test_the_best_mix_is_taken_if_it_is_worth_a_standard_error_more_than_the_encoder():
    alone, better = np.array([[0.1, 0.2, 0.3, 0.2], [0.4, 0.5, 0.6, 0.5]])[:, :, None]
    # A lead of four times as much for every user has no error: the better one.
    assert choose([tried("linear", alone, 4 * alone)])[0] == Choice("linear", 0.2, 0.5)
    # Leads of 0, 0, .6 and -.2 on a sum of .8: a ratio of 1.5, with an error of sqrt(.01 + .04 + .2025 + .09) / .8.
    lucky = np.array([0.1, 0.2, 0.9, 0.0])[:, None]
    assert choose([tried("linear", alone, lucky)])[0].share == 0.0
    # The error does not count among mixes: a lead in one user's list decides.
    one_more = better + np.array([0.0, 0.0, 0.1, 0.0])[:, None]
    kinds = [tried("linear", alone, better), tried("ridge", alone, one_more, shares=(0.0, 1.0))]
    assert choose(kinds)[0] == Choice("ridge", 0.2, 1.0)
    # Of equal values the smaller share, then the first kind.
    shares = (0.0, 0.5, 0.2)
    kinds = [tried(kind, alone, better, better, shares=shares) for kind in ("linear", "chebyshev")]
    found, values = choose(kinds)
    assert found == Choice("linear", 0.2, 0.2)
    assert [(choice.kind, choice.share) for choice, _ in values] == [
        ("linear", 0.0), ("linear", 0.2), ("chebyshev", 0.2), ("linear", 0.5), ("chebyshev", 0.5)
    ]  # fmt: skip


def test_a_mix_is_worth_what_it_does_for_the_group_that_it_serves_worst():
    alone = np.full((50, 2), 0.2)
    local, smooth = alone * [0.9, 3.0], alone * [1.05, 1.1]
    found, values = choose([tried("ridge", alone, local), tried("linear", alone, smooth)])
    assert found.kind == "linear" and [value for _, value in values] == pytest.approx([1.0, 0.9, 1.05])
    assert choose([tried("ridge", alone, local)])[0].share == 0.0
    # A group in which the encoder has no hit says nothing; without any hit the encoder alone remains.
    alone[:, 1] = 0.0
    assert choose([tried("linear", alone, smooth)])[0].share == 0.5
    assert choose([tried("linear", 0 * alone, smooth)])[0].share == 0.0


@pytest.mark.parametrize(
    ("peak", "wanted"),
    [
        (0.4, [0.4, 0.5, 0.3]),
        (0.6, [0.4, 0.5, 0.6, 0.7, 0.3]),
        (0.3, [0.4, 0.5, 0.3, 0.2]),
        (1.0, [0.4, 0.5, 1.0, 0.3]),
    ],
)
def test_exponents_are_tried_from_the_usual_one_while_the_value_rises(peak, wanted):
    asked, alone = [], np.full((50, 1), 0.2)

    def trial(kind, exponent):
        asked.append((kind, exponent))
        value = 1.5 - abs(exponent - peak) - (kind == "ridge")
        return Tried([Choice(kind, exponent, share) for share in (0.0, 0.5)], np.stack([alone, value * alone]), alone)

    several = (0.4, 0.5, 0.3, 0.2, *((1.0,) if peak == 1 else (0.6, 0.7)))
    found = search({"ridge": (0.2, 0.1), "linear": several}, trial)
    assert asked == [("ridge", 0.2), *(("linear", exponent) for exponent in wanted)]
    assert choose(found)[0] == Choice("linear", peak, 0.5)
    assert len(search({"linear": (0.4,)}, trial)) == 1


@pytest.mark.parametrize("kind", ["linear", "chebyshev"])
def test_a_stored_filter_scores_as_before(kind, tmp_path):
    graph, choice = graph_of(DENSE), Choice(kind, 0.2, 0.3)
    writer = ArrayWriter(tmp_path)
    writer.finish(fingerprint="f", meta=KeptFilter.of(graph, choice).save(writer))
    kept = KeptFilter.load(ArrayFolder.open(tmp_path), num_users=14, num_items=11)
    assert kept.choice == choice and (kept.spectrum is None) == (kind == "linear")
    users = np.arange(14)
    np.testing.assert_array_equal(kept.scorer(USERS, SONGS)(users), mixed(0.3, kind)(users))
