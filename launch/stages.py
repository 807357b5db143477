"""Stages that later ones need: each is run where it has not been done for this configuration, and says so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from launch import app
from music_map.errors import UserError
from music_map.graph.bipartite import BipartiteGraph, load_graph, save_graph
from music_map.graph.build import GraphSettings, build_graph, graph_stats
from music_map.preprocess.dataset import DISLIKE, SPLITS, Dataset, index_of
from music_map.preprocess.pipeline import folder_name, preprocess, raw_files
from music_map.preprocess.settings import PreprocessSettings
from music_map.preprocess.text_format import text_files
from music_map.storage import fingerprint, write_json

# Part of a graph's fingerprint: a change of the format makes old folders stale.
_GRAPH_VERSION = 1

# Yambda-50M with filter="once" and edges="events", as published.
PUBLISHED_LISTENS = 46_467_212
PUBLISHED_STATS = {
    "total_interactions": 45_881_950, "num_users": 9_984, "num_items": 253_939, "train_size": 36_705_560,
    "val_size": 4_588_195, "test_size": 4_588_195,
}  # fmt: skip
PUBLISHED_GRAPH = {
    "num_nodes": 263_923, "num_edges": 67_822_208, "num_negative_edges": 81_813, "avg_degree": 256.977,
    "density": 0.0133754, "weight min": 0.01, "weight max": 5.0, "weight mean": 0.7861, "weight std": 0.7222,
}  # fmt: skip


def ensure_dataset(config: ConfigDict, *, force: bool = False) -> Dataset:
    """The processed data of a configuration, made now where it is not there."""
    data = config.data
    names = [f.name for f in dataclasses.fields(PreprocessSettings)]
    settings = PreprocessSettings(**{name: data[name] for name in names})
    processed = app.path_of(data.processed_dir, "config.data.processed_dir")
    if settings.format == "text":
        files = text_files(app.path_of(data.path, "config.data.path"))
    else:
        files = raw_files(app.path_of(data.raw_dir, "config.data.raw_dir"), data.size)
    dataset, made = preprocess(files, settings, processed, force=force, progress=app.bar)
    app.note(f"preprocess: {'wrote' if made else 'up to date:'} {dataset.store.folder}")
    write_json(processed / "stats.json", dataset.stats)
    return dataset


def dataset_of_run(config: ConfigDict, identity: str) -> Dataset:
    """The processed data that a run was trained on; made anew from the raw logs where it is gone.

    Args:
      config: of the run.
      identity: fingerprint of the run's data.

    Raises:
      UserError: what the raw logs give now is other data.
    """
    folder = app.path_of(config.data.processed_dir, "config.data.processed_dir") / folder_name(identity)
    if folder.exists():
        return Dataset.open(folder)
    dataset = ensure_dataset(config)
    if dataset.fingerprint != identity:
        raise UserError(
            f"{folder}: the data that this run was trained on is gone, and {config.data.raw_dir or config.data.path} "
            "holds other data now; put it back, or train again in a new --workdir"
        )
    return dataset


def _graph_folder(dataset: Dataset, settings: GraphSettings) -> tuple[Path, str]:
    described = {"version": _GRAPH_VERSION, "settings": dataclasses.asdict(settings), "dataset": dataset.fingerprint}
    identity = fingerprint(described)
    return dataset.store.folder.parent / f"graph-{identity[:12]}", identity


def ensure_graph(config: ConfigDict, dataset: Dataset, *, force: bool = False) -> BipartiteGraph:
    """The graph of a configuration, built now where it is not there."""
    settings = GraphSettings(**config.graph)
    folder, identity = _graph_folder(dataset, settings)
    if folder.exists() and not force:
        graph, stats = load_graph(folder, fingerprint=identity)
        app.note(f"build_graph: up to date: {folder}")
    else:
        graph = build_graph(dataset, settings, progress=app.bar)
        stats = graph_stats(graph)
        save_graph(graph, folder, fingerprint=identity, stats=stats)
        app.note(f"build_graph: wrote {folder}")
    write_json(folder.parent / "graph_stats.json", stats)
    return graph


def is_published_data(dataset: Dataset) -> bool:
    """Whether the logs are Yambda-50M itself, or as many rows of it."""
    return dataset.stats.get("raw_rows", {}).get("listens") == PUBLISHED_LISTENS


def barred_songs(dataset: Dataset, user: int, *, heard: bool) -> np.ndarray:
    """Original ids of songs not to recommend to a user: disliked (and not taken back), and those heard if wanted.

    Unlike the graph, this reads all splits: it is for use now, not for measuring.
    """
    at = int(index_of(dataset.user_ids, np.array([user]))[0])
    if at < 0:
        return np.zeros(0, np.uint32)
    disliked_at: dict[int, int] = {}
    taken_back: dict[int, int] = {}
    met: set[int] = set()
    # The splits follow each other in time, and so do the events of one user: the latest mark of a song stays.
    for split in SPLITS:
        events, taken = dataset.user_events(split, at), dataset.withdrawals(split)
        mark = events.kind == DISLIKE
        disliked_at |= zip(events.item[mark].tolist(), events.timestamp[mark].tolist(), strict=True)
        mine = (taken.user == at) & (taken.kind == DISLIKE)
        taken_back |= zip(taken.item[mine].tolist(), taken.timestamp[mine].tolist(), strict=True)
        met |= set(events.item[events.kind != DISLIKE].tolist())
    barred = {item for item, time in disliked_at.items() if time > taken_back.get(item, -1)}
    return dataset.item_ids[np.array(sorted(barred | met if heard else barred), np.int64)]
