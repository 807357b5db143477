"""Metrics of whole rankings beside trec_eval's, the reference of information retrieval, as pytrec_eval runs it."""

import jax.numpy as jnp
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.evaluation.metrics import ranking_metrics
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.ranking import rank

KS = (1, 5, 10)
# Ours by trec_eval's name; its map_cut divides by all targets, so ours is compared where no user has more than k.
MEASURES = {"recall": "recall", "precision": "P", "ndcg": "ndcg_cut", "hit_rate": "success"}


@st.composite
def rankings(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_users, num_items = draw(st.integers(2, 12)), draw(st.integers(10, 40))
    # Five distinct values: most songs tie.
    scores = rng.integers(0, 5, (num_users, num_items)).astype(np.float32)
    # No target, one, several, and more than the longest list has room for.
    sizes = rng.choice([0, 1, 3, min(25, num_items)], num_users)
    sizes[0] = 1
    targets = [np.sort(rng.choice(num_items, size, replace=False)) for size in sizes]
    return scores, targets


@settings(deadline=None, max_examples=40)
@given(rankings())
def test_agrees_with_trec_eval(case):
    scores, targets = case
    num_users, num_items = scores.shape
    wanted = Pairs.of(
        np.repeat(np.arange(num_users), [len(row) for row in targets]),
        np.concatenate(targets),
        num_rows=num_users,
        num_items=num_items,
    )
    topk = rank(
        lambda block: jnp.asarray(scores)[block],
        np.arange(num_users, dtype=np.int32),
        num_items=num_items,
        k=max(KS),
        candidates=np.ones(num_items, bool),
        masked=Pairs.of(np.zeros(0, int), np.zeros(0, int), num_rows=num_users, num_items=num_items),
    )
    ours = ranking_metrics(topk, wanted, catalogue=num_items, ks=KS)

    # trec_eval sorts by score and breaks ties by name, the highest first: names descend as indices ascend, which is
    # the order that ranking gives equal scores.
    name = [f"{num_items - item:04d}" for item in range(num_items)]
    judged = {str(user): {name[item]: 1 for item in row} for user, row in enumerate(targets) if len(row)}
    run = {user: {name[item]: float(scores[int(user), item]) for item in range(num_items)} for user in judged}
    cuts = ",".join(map(str, KS))
    theirs = pytrec_eval.RelevanceEvaluator(
        judged, {f"{measure}.{cuts}" for measure in (*MEASURES.values(), "map_cut")}
    )
    found = theirs.evaluate(run).values()

    for k in KS:
        for metric, measure in MEASURES.items():
            expected = np.mean([row[f"{measure}_{k}"] for row in found])
            assert ours[f"{metric}@{k}"] == pytest.approx(expected, abs=1e-6)
        if max(map(len, targets)) <= k:
            assert ours[f"map@{k}"] == pytest.approx(np.mean([row[f"map_cut_{k}"] for row in found]), abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_reciprocal_rank_agrees_with_trec_eval(seed):
    rng = np.random.default_rng(seed)
    order = np.array([rng.permutation(30) for _ in range(6)], np.int32)
    targets = [rng.choice(30, rng.integers(1, 4), replace=False) for _ in order]
    wanted = Pairs.of(
        np.repeat(np.arange(6), [len(row) for row in targets]), np.concatenate(targets), num_rows=6, num_items=30
    )
    judged = {str(user): {str(item): 1 for item in row} for user, row in enumerate(targets)}
    run = {str(user): {str(item): 30.0 - at for at, item in enumerate(row)} for user, row in enumerate(order)}
    found = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(run).values()
    ours = ranking_metrics(order, wanted, catalogue=30, ks=(30,))
    assert ours["mrr@30"] == pytest.approx(np.mean([row["recip_rank"] for row in found]), abs=1e-6)
