"""Edges against a naive reading of the train rows; hand-worked weights; no look into the future."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_logs import random_logs, write_logs

from music_map.errors import DamagedFileError, UserError
from music_map.graph.bipartite import load_graph, save_graph
from music_map.graph.build import GraphSettings, build_graph, graph_stats
from music_map.preprocess.pipeline import preprocess, raw_files
from music_map.preprocess.settings import PreprocessSettings

PREPROCESS = PreprocessSettings("yambda", "tiny", 1, "once", "temporal", 0.8, 0.1, False, 11)
SUM = GraphSettings(
    edges="sum", half_life_days=0.01, organic_factor=0.5, like_weight=5.0, dislike_weight=-3.0, log1p=False
)
PLAIN = dataclasses.replace(SUM, half_life_days=None, organic_factor=1.0)


def dataset_of(base, logs):
    return preprocess(raw_files(write_logs(base / "raw", **logs), "tiny"), PREPROCESS, base / "out")[0]


def naive_graph(dataset, chosen):
    """Positive edges as a list of (user, item, weight) and negative pairs, from the train rows one by one."""
    e, w = dataset.events("train"), dataset.withdrawals("train")
    rows = list(zip(*(c.tolist() for c in e), strict=True))
    gone = {}
    for u, i, t, k in zip(*(c.tolist() for c in w), strict=True):
        gone[u, i, k] = max(t, gone.get((u, i, k), -1))
    end = max(r[2] for r in rows)

    def factor(t, organic):
        age = (end - t) / 86400
        decay = 1.0 if chosen.half_life_days is None else 2 ** (-age / chosen.half_life_days)
        return decay * (1.0 if organic else chosen.organic_factor)

    squeeze = math.log1p if chosen.log1p else float
    stands = lambda u, i, t, k: t > gone.get((u, i, k), -1)  # noqa: E731
    negative = sorted((u, i) for u, i, t, k, *_ in rows if k == 2 and stands(u, i, t, 2))
    if chosen.edges == "events":
        edges = []
        for u, i, t, k, o, p in rows:
            value = min(p, 100) / 100 if k == 0 else chosen.like_weight if k == 1 and stands(u, i, t, 1) else 0.0
            edges.append((u, i, squeeze(value * factor(t, o))))
        return sorted(x for x in edges if np.float32(x[2]) > 0), negative
    sums, likes = {}, {}
    for u, i, t, k, o, p in rows:
        if k == 0:
            sums[u, i] = sums.get((u, i), 0.0) + min(p, 100) / 100 * factor(t, o)
        elif k == 1 and stands(u, i, t, 1):
            likes[u, i] = chosen.like_weight * factor(t, o)  # rows are in time order: the latest stays
    for pair, value in likes.items():
        sums[pair] = sums.get(pair, 0.0) + value
    edges = sorted((u, i, squeeze(x)) for (u, i), x in sums.items())
    return [x for x in edges if np.float32(x[2]) > 0], sorted(set(negative))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.sampled_from(["sum", "events"]), st.sampled_from([None, 0.01, 5.0]), st.booleans())
def test_equals_the_naive_reading(tmp_path_factory, seed, edges, half_life, log1p):
    dataset = dataset_of(tmp_path_factory.mktemp("g"), random_logs(seed))
    chosen = dataclasses.replace(SUM, edges=edges, half_life_days=half_life, log1p=log1p)
    graph = build_graph(dataset, chosen)
    wanted, negative = naive_graph(dataset, chosen)
    got = sorted(zip(graph.user.tolist(), graph.item.tolist(), graph.weight.tolist(), strict=True))
    assert [x[:2] for x in got] == [x[:2] for x in wanted]
    np.testing.assert_allclose([x[2] for x in got], [x[2] for x in wanted], rtol=1e-6)
    assert list(zip(graph.negative_user.tolist(), graph.negative_item.tolist(), strict=True)) == negative
    assert np.all(graph.negative_weight == 3.0)
    # Both orders are the same edges.
    for u in range(dataset.num_users):
        assert np.all(graph.user[graph.user_offsets[u] : graph.user_offsets[u + 1]] == u)
    for i in range(dataset.num_items):
        mine = graph.item_order[graph.item_offsets[i] : graph.item_offsets[i + 1]]
        assert np.all(graph.item[mine] == i) and np.all(np.diff(mine) > 0)
    assert graph.user_offsets[-1] == graph.item_offsets[-1] == graph.num_edges


DAY = 86_400
LATER = [(9, 10 * DAY + 5 * n, 90, 1, 0, 60) for n in range(6)]  # val and test of the hand-made logs


def hand(base, chosen, *, listens=(), **events):
    """Train ends at day 4; user 1, song 10."""
    train_end = [(9, 4 * DAY, 90, 1, 100, 60)] * 20
    dataset = dataset_of(base, {"listens": [*listens, *train_end, *LATER], **events})
    graph = build_graph(dataset, chosen)
    assert dataset.train_end == 4 * DAY
    pairs = zip(dataset.user_ids[graph.user], dataset.item_ids[graph.item], graph.weight.tolist(), strict=True)
    edges = {(int(u), int(i)): w for u, i, w in pairs}
    negatives = zip(dataset.user_ids[graph.negative_user], dataset.item_ids[graph.negative_item], strict=True)
    return edges.get((1, 10)), [(int(u), int(i)) for u, i in negatives]


def test_weights_by_hand(tmp_path):
    """Half-life 2 days: 50 % played at age 2, recommended (x 0.5); 150 % at age 0, organic; a like at age 4."""
    chosen = dataclasses.replace(SUM, half_life_days=2.0)
    weight, _ = hand(
        tmp_path, chosen, listens=[(1, 2 * DAY, 10, 0, 50, 60), (1, 4 * DAY, 10, 1, 150, 60)], likes=[(1, 0, 10, 1)]
    )
    np.testing.assert_allclose(weight, 0.5 * 0.5 * 0.5 + 1.0 + 5.0 * 0.25, rtol=1e-6)


def test_a_listen_of_0_percent_is_no_edge(tmp_path):
    assert hand(tmp_path, PLAIN, listens=[(1, 0, 10, 1, 0, 60)])[0] is None


@pytest.mark.parametrize(
    ("likes", "unlikes", "weight"),
    [
        ([10], [], 5.0),
        ([10], [15], None),  # withdrawn
        ([10], [10], None),  # at one time: the unlike comes after the like
        ([10], [5], 5.0),  # an unlike before the like withdraws nothing
        ([10, 20], [15], 5.0),  # liked again
        ([10, 20], [], 5.0),  # favourites are a set
        ([10, 20], [25], None),
        ([10], [10 * DAY], 5.0),  # the future withdraws nothing
    ],
)
def test_likes_and_unlikes(tmp_path, likes, unlikes, weight):
    got, _ = hand(tmp_path, PLAIN, likes=[(1, t, 10, 1) for t in likes], unlikes=[(1, t, 10, 1) for t in unlikes])
    assert got == weight


@pytest.mark.parametrize(
    ("dislikes", "undislikes", "stands"),
    [([10], [], True), ([10], [15], False), ([10, 20], [15], True), ([10], [10 * DAY], True), ([10 * DAY], [], False)],
)
def test_dislikes_and_undislikes(tmp_path, dislikes, undislikes, stands):
    edge, negatives = hand(
        tmp_path, PLAIN, dislikes=[(1, t, 10, 1) for t in dislikes], undislikes=[(1, t, 10, 1) for t in undislikes]
    )
    assert edge is None and negatives == ([(1, 10)] if stands else [])


def test_a_dislike_is_kept_apart_from_the_listens(tmp_path):
    edge, negatives = hand(tmp_path, PLAIN, listens=[(1, 0, 10, 1, 80, 60)], dislikes=[(1, 5, 10, 1)])
    np.testing.assert_allclose(edge, 0.8, rtol=1e-6)
    assert negatives == [(1, 10)]


def test_the_future_changes_nothing(tmp_path):
    """Other val and test rows of the same users, songs and times give the very same graph."""
    logs = random_logs(11, listens=200)
    first = dataset_of(tmp_path / "a", logs)
    start = first.stats["boundaries"]["train_stop"]
    rng = np.random.default_rng(0)
    late = [r for r in logs["listens"] if r[1] >= start]
    mixed = [(a[0], a[1], a[2], int(rng.integers(0, 2)), int(rng.integers(0, 150)), 300) for a in late]
    changed = {**logs, "listens": [r for r in logs["listens"] if r[1] < start] + mixed}
    changed["unlikes"] = [r for r in logs["unlikes"] if r[1] < start] + [
        (u, start + 10, i, 1) for u, _, i, _ in logs["likes"]
    ]
    second = dataset_of(tmp_path / "b", changed)
    assert first.stats["train_size"] == second.stats["train_size"]
    for a, b in zip(build_graph(first, SUM), build_graph(second, SUM), strict=True):
        np.testing.assert_array_equal(a, b)


def test_stats_by_hand(tmp_path):
    dataset = dataset_of(tmp_path, {"listens": [(1, 0, 10, 1, 100, 60), (1, 5, 11, 1, 50, 60), (2, 5, 10, 1, 25, 60),
                                                *[(2, 10, 10, 1, 0, 60)] * 5, *LATER[:2]]})  # fmt: skip
    stats = graph_stats(build_graph(dataset, PLAIN))
    assert stats["num_users"] == 3 and stats["num_items"] == 3 and stats["num_nodes"] == 6
    assert stats["num_edges"] == 6 and stats["avg_degree"] == 1.0 and stats["density"] == 3 / 9
    np.testing.assert_allclose(stats["edge_weight_stats"]["mean"], (1 + 0.5 + 0.25) / 3)
    np.testing.assert_allclose(stats["edge_weight_stats"]["std"], np.std([1, 0.5, 0.25]))
    assert stats["edge_weight_stats"]["min"] == 0.25 and stats["edge_weight_stats"]["max"] == 1.0
    assert stats["num_negative_edges"] == 0


def test_round_trip_damage_and_identity(tmp_path):
    graph = build_graph(dataset_of(tmp_path, random_logs(3)), SUM)
    folder = tmp_path / "graph"
    save_graph(graph, folder, fingerprint="abc", stats=graph_stats(graph))
    loaded, stats = load_graph(folder, fingerprint="abc")
    assert stats == graph_stats(graph)
    for a, b in zip(graph, loaded, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    with pytest.raises(DamagedFileError, match="another configuration"):
        load_graph(folder, fingerprint="abd")
    (folder / "weight.npy").write_bytes((folder / "weight.npy").read_bytes()[:-4])
    with pytest.raises(DamagedFileError, match=r"weight\.npy: damaged"):
        load_graph(folder, fingerprint="abc")


def test_no_edges_is_an_error(tmp_path):
    dataset = dataset_of(tmp_path, {"listens": [(1, 5 * n, 10, 1, 0, 60) for n in range(20)]})
    with pytest.raises(UserError, match="no train event has a positive weight"):
        build_graph(dataset, SUM)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("edges", "both"),
        ("half_life_days", 0.0),
        ("organic_factor", -0.1),
        ("dislike_weight", 3.0),
        ("like_weight", -1.0),
    ],
)
def test_settings_without_meaning_are_named(field, value):
    with pytest.raises(UserError, match=rf"config\.graph\.{field}="):
        dataclasses.replace(SUM, **{field: value})
