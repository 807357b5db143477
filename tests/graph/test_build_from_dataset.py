"""Data set to graph: against the naive oracle, without look-ahead, stored and loaded."""

import os
from pathlib import Path

import naive_pipeline
import numpy as np
import pytest
from raw_logs import random_log, write_logs

from music_map.errors import DamagedFileError, UserError
from music_map.graph.bipartite import BipartiteGraph
from music_map.graph.build import build_graph, graph_fingerprint, graph_folder, graph_stats, load_graph, save_graph
from music_map.graph.settings import GraphSettings
from music_map.graph.weights import EdgeCounts
from music_map.preprocess.build import build_dataset, plan_dataset
from music_map.preprocess.dataset import Dataset
from music_map.preprocess.settings import PreprocessSettings


def preprocess(raw: Path, settings: PreprocessSettings) -> Dataset:
    return build_dataset(plan_dataset(settings, source=raw, processed_dir=raw / "processed"))


def check_against_oracle(graph: BipartiteGraph, log: dict, data: PreprocessSettings, settings: GraphSettings) -> None:
    edges, negatives = naive_pipeline.graph(naive_pipeline.preprocess(log, data), settings)
    assert list(zip(graph.user.tolist(), graph.item.tolist(), strict=True)) == [edge[:2] for edge in edges]
    np.testing.assert_allclose(graph.weight, [edge[2] for edge in edges], rtol=1e-6)
    stored = zip(*(c.tolist() for c in (graph.negative_user, graph.negative_item, graph.negative_weight)), strict=True)
    assert list(stored) == negatives


@pytest.mark.parametrize("edges", ["sum", "events"])
@pytest.mark.parametrize("half_life_days", [None, 3.0])
@pytest.mark.parametrize("chunk_size", [61, 10_000])
def test_equals_the_oracle(tmp_path: Path, edges: str, half_life_days: float | None, chunk_size: int) -> None:
    write_logs(tmp_path, **random_log(2, num_items=15))
    data = PreprocessSettings(min_interactions=5, chunk_size=chunk_size)
    settings = GraphSettings(edges=edges, half_life_days=half_life_days, log1p=half_life_days is None)
    graph, counts = build_graph(preprocess(tmp_path, data), settings)
    assert counts.withdrawn_likes and counts.withdrawn_dislikes and counts.unplayed_listens
    check_against_oracle(graph, naive_pipeline.read_rows(tmp_path), data, settings)


@pytest.mark.parametrize("edges", ["sum", "events"])
def test_movielens_in_the_schema_of_yambda(tmp_path: Path, edges: str) -> None:
    default = Path(__file__).parents[2].parent / "shared" / "data"
    raw = Path(os.environ.get("MUSIC_MAP_SHARED_DATA", default)) / "yambda-movielens-100k"
    if not raw.is_dir():
        pytest.skip(f"{raw} is not there (MUSIC_MAP_SHARED_DATA names the folder that holds it)")
    data, settings = PreprocessSettings(chunk_size=30_000), GraphSettings(edges=edges)
    plan = plan_dataset(data, source=raw, processed_dir=tmp_path)
    dataset = build_dataset(plan, batch_rows=17_000)
    log = naive_pipeline.read_rows(raw)
    expected = naive_pipeline.preprocess(log, data)
    for split in ("train", "val", "test"):
        columns = (column.tolist() for column in dataset.events(split))
        assert list(zip(*columns, strict=True)) == expected["events"][split]
    features = dataset.item_features()
    assert (features.audio_row >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(features.audio, axis=1), 1, rtol=1e-6)
    check_against_oracle(build_graph(dataset, settings)[0], log, data, settings)


def test_the_future_changes_nothing(tmp_path: Path) -> None:
    """Events after train, withdrawals among them, leave the graph as it is where ids and cutoff stay."""
    log = random_log(4)
    data = PreprocessSettings(min_interactions=1, chunk_size=500)
    before = preprocess(write_logs(tmp_path / "a", **log), data)
    cutoff = before.store.meta["cutoffs"]["train_before"]
    changed = dict(log)
    for name in ("listens", "likes", "dislikes"):
        # The same users, songs and times, but all is played by the recommender, in full.
        changed[name] = [row if row[1] < cutoff else (*row[:3], 0, *(100, 1)[: len(row) - 4]) for row in log[name]]
    past_likes = [row for row in log["likes"] if row[1] < cutoff]
    assert past_likes
    changed["unlikes"] = [row for row in log["unlikes"] if row[1] < cutoff]
    changed["unlikes"] += [(uid, cutoff + 5, item, 1) for uid, _, item, _ in past_likes]
    changed["undislikes"] = [row for row in log["undislikes"] if row[1] < cutoff]
    after = preprocess(write_logs(tmp_path / "b", **changed), data)
    assert after.fingerprint != before.fingerprint
    assert not np.array_equal(after.events("val").is_organic, before.events("val").is_organic)
    assert len(after.withdrawals("val").user) > len(before.withdrawals("val").user)
    for edges in ("sum", "events"):
        graphs = [build_graph(dataset, GraphSettings(edges=edges))[0] for dataset in (before, after)]
        for name in BipartiteGraph._fields:
            assert np.array_equal(getattr(graphs[0], name), getattr(graphs[1], name)), name
    lengths = [dataset.item_features().track_seconds for dataset in (before, after)]
    assert np.array_equal(*lengths)


def test_stats_by_hand() -> None:
    graph = BipartiteGraph(
        user_offsets=np.array([0, 2, 2]),
        user=np.array([0, 0], np.int32),
        item=np.array([0, 2], np.int32),
        weight=np.array([1.0, 3.0], np.float32),
        item_offsets=np.array([0, 1, 1, 2]),
        item_order=np.array([0, 1], np.int32),
        negative_user=np.array([1], np.int32),
        negative_item=np.array([1], np.int32),
        negative_weight=np.array([3.0], np.float32),
    )
    stats = graph_stats(graph, EdgeCounts(unplayed_listens=4))
    assert stats["num_nodes"] == 5 and stats["num_edges"] == 4 and stats["num_negative_edges"] == 1
    assert stats["avg_degree"] == 4 / 5 and stats["density"] == 2 / 6
    assert stats["edge_weight_stats"] == {"min": 1.0, "max": 3.0, "mean": 2.0, "std": 1.0}
    assert stats["num_users_without_edges"] == 1 and stats["num_items_without_edges"] == 1
    assert stats["unplayed_listens"] == 4


def test_text_pairs_weigh_one_whatever_the_half_life(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("1 5 6\n2 5\n")
    for train_on_val in (False, True):
        dataset = preprocess(tmp_path, PreprocessSettings(format="text", train_on_val=train_on_val))
        graph, _ = build_graph(dataset, GraphSettings(log1p=False, half_life_days=1.0, organic_factor=0.0))
        assert graph.user.tolist() == [0, 0, 1] and graph.item.tolist() == [0, 1, 0]
        assert graph.weight.tolist() == [1.0, 1.0, 1.0]


def test_stored_and_loaded(tmp_path: Path) -> None:
    dataset = preprocess(write_logs(tmp_path, **random_log()), PreprocessSettings())
    settings = GraphSettings()
    identity = graph_fingerprint(dataset, settings)
    folder = graph_folder(tmp_path, identity)
    assert load_graph(folder, identity=identity) is None
    graph, counts = build_graph(dataset, settings)
    stats = graph_stats(graph, counts)
    save_graph(graph, stats, folder, identity=identity, settings=settings)
    loaded, loaded_stats = load_graph(folder, identity=identity)
    assert loaded_stats == stats
    for name in BipartiteGraph._fields:
        stored = getattr(loaded, name)
        assert np.array_equal(stored, getattr(graph, name)) and stored.dtype == getattr(graph, name).dtype
    assert graph_fingerprint(dataset, GraphSettings(log1p=False)) != identity
    assert load_graph(folder, identity="another") is None
    (folder / "weight.npy").write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"weight.npy: damaged"):
        load_graph(folder, identity=identity)


def test_a_graph_without_edges_is_an_error(tmp_path: Path) -> None:
    write_logs(tmp_path, listens=[(1, 5 * n, 1, 1, 0, 60) for n in range(20)])
    dataset = preprocess(tmp_path, PreprocessSettings())
    with pytest.raises(UserError, match="no train event makes an edge"):
        build_graph(dataset, GraphSettings())
