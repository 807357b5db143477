"""The stages before training: each runs only where its result is not there yet for the configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ml_collections import ConfigDict

from launch import app
from music_map import processes
from music_map.errors import UserError
from music_map.graph.bipartite import BipartiteGraph
from music_map.graph.build import build_graph, graph_fingerprint, graph_folder, graph_stats, load_graph, save_graph
from music_map.graph.settings import GraphSettings
from music_map.parallel.storage import StoredParts, load_parts, parts_folder, save_parts
from music_map.preprocess.build import DatasetPlan, build_dataset, dataset_folder, find_dataset, plan_dataset
from music_map.preprocess.dataset import Dataset
from music_map.preprocess.settings import PreprocessSettings
from music_map.storage import write_json

T = TypeVar("T")


def preprocess_settings(config: ConfigDict) -> PreprocessSettings:
    """The library's settings from `config.data`."""
    data = config.data
    return PreprocessSettings(
        format=data.format,
        size=data.size,
        min_interactions=data.min_interactions,
        filter=data.filter,
        split=data.split,
        train_fraction=data.train_fraction,
        val_fraction=data.val_fraction,
        train_on_val=data.train_on_val,
        cold_item_fraction=data.cold_item_fraction,
        cold_item_seed=data.cold_item_seed,
        chunk_size=data.chunk_size,
    )


def graph_settings(config: ConfigDict) -> GraphSettings:
    """The library's settings from `config.graph`."""
    graph = config.graph
    return GraphSettings(
        edges=graph.edges,
        half_life_days=graph.half_life_days,
        organic_factor=graph.organic_factor,
        like_weight=graph.like_weight,
        dislike_weight=graph.dislike_weight,
        log1p=graph.log1p,
    )


def source_of(config: ConfigDict) -> Path:
    """The folder of the logs."""
    if config.data.format == "text":
        return app.path_of(config.data.path, "config.data.path")
    return app.path_of(config.data.raw_dir, "config.data.raw_dir")


def processed_dir(config: ConfigDict) -> Path:
    """The folder of all processed data sets and graphs."""
    return app.path_of(config.data.processed_dir, "config.data.processed_dir")


def dataset_plan(config: ConfigDict) -> DatasetPlan:
    """What the configuration's logs become, and where; says which optional files are absent."""
    settings, source = preprocess_settings(config), source_of(config)
    plan = plan_dataset(settings, source=source, processed_dir=processed_dir(config), progress=app.bar)
    for text in plan.warnings:
        app.warn(text)
    return plan


def ensure_dataset(config: ConfigDict, *, force: bool = False, check: bool = False) -> Dataset:
    """The data set of this configuration: preprocessed now where that has not been done, or where `force` is set.

    Args:
      config: the configuration.
      force: preprocess again.
      check: where it is there already, compare every checksum now and not when an array is loaded.
    """
    plan = dataset_plan(config)
    dataset = None if force else find_dataset(plan)
    if dataset is None:
        app.note(f"preprocess: {plan.source} -> {plan.folder}")
        dataset = build_dataset(plan, progress=app.bar)
        for text in dataset.times.warnings():
            app.warn(f"{plan.source}: {text}")
    else:
        if check:
            with app.bar("verify shards", len(dataset.store.arrays), "file") as advance:
                for name in dataset.store.arrays:
                    dataset.store.load(name, mmap=True)
                    advance(1)
        app.note(f"preprocess: {plan.folder} is up to date")
    write_json(processed_dir(config) / "stats.json", dataset.stats)
    return dataset


def dataset_of_run(config: ConfigDict, identity: str) -> Dataset:
    """The processed data that a run was trained on; made anew from the raw logs where it is gone.

    Args:
      config: of the run.
      identity: fingerprint of the run's data.

    Raises:
      UserError: the raw logs give other data now.
    """
    folder = dataset_folder(processed_dir(config), identity)
    if folder.exists():
        return Dataset.open(folder)
    dataset = ensure_dataset(config)
    if dataset.fingerprint != identity:
        raise UserError(
            f"{folder}: the data that this run was trained on is gone, and {config.data.raw_dir or config.data.path} "
            "holds other data now; put it back, or train again in a new --workdir"
        )
    return dataset


def ensure_graph(
    config: ConfigDict, dataset: Dataset, *, force: bool = False, quiet: bool = False, past: bool = False
) -> BipartiteGraph:
    """The graph of a data set under this configuration: built now where that has not been done, or `force` is set.

    With `quiet`, nothing is said of a graph that is there. With `past`, it is one of the past (Dataset.as_of), which
    leaves graph_stats.json alone.
    """
    settings = graph_settings(config)
    identity = graph_fingerprint(dataset, settings)
    folder = graph_folder(processed_dir(config), identity)
    stored = None if force else load_graph(folder, identity=identity)
    if stored is None:
        app.note(f"build_graph: {dataset.store.folder} -> {folder}")
        graph, counts = build_graph(dataset, settings, progress=app.bar)
        stats = graph_stats(graph, counts)
        save_graph(graph, stats, folder, identity=identity, settings=settings)
    else:
        if not quiet:
            app.note(f"build_graph: {folder} is up to date")
        graph, stats = stored
    if not past:
        write_json(processed_dir(config) / "graph_stats.json", stats)
    return graph


def shared_dataset(config: ConfigDict) -> Dataset:
    """`ensure_dataset` by the first of several processes; the others open what it made, and need no raw logs."""
    made = processes.once(lambda: ensure_dataset(config))
    identity = processes.from_first(made and made.fingerprint)
    folder = dataset_folder(processed_dir(config), identity)
    return made or _seen(lambda: Dataset.open(folder) if folder.is_dir() else None, folder)


def shared_graph(config: ConfigDict, dataset: Dataset, *, past: bool = False) -> BipartiteGraph:
    """`ensure_graph` by the first of several processes; the others load what it made."""
    identity = graph_fingerprint(dataset, graph_settings(config))
    made = processes.once(lambda: ensure_graph(config, dataset, past=past))
    folder = graph_folder(processed_dir(config), identity)
    return made or _seen(lambda: load_graph(folder, identity=identity), folder)[0]


def shared_parts(config: ConfigDict, dataset: Dataset, *, past: bool = False) -> tuple[BipartiteGraph, StoredParts]:
    """The graph, mapped from its files, and its parts, which all processes write where there are none yet.

    Of the edges nothing is read here unless there are no parts; see `ensure_graph`.
    """
    identity = graph_fingerprint(dataset, graph_settings(config))
    folder, parts = graph_folder(processed_dir(config), identity), parts_folder(processed_dir(config), identity)

    def mapped() -> BipartiteGraph | None:
        found = load_graph(folder, identity=identity, mapped=True)
        return found and found[0]

    def stored() -> StoredParts | None:
        graph = mapped()
        return graph and load_parts(parts, graph, identity=identity)

    if not processes.from_first(processes.first() and stored() is not None):
        processes.once(lambda: ensure_graph(config, dataset, past=past) and None)  # compares its checksums too
        save_parts(_seen(mapped, folder), parts, identity=identity, progress=app.bar)
    return _seen(mapped, folder), _seen(stored, parts)


def _seen(open_: Callable[[], T | None], folder: Path) -> T:
    """What the first process has written to a folder. Raises UserError where this process does not see it."""
    found = open_()
    if found is None:
        raise UserError(
            f"{folder}: process 0 wrote it and this process does not see it; put config.data.processed_dir and "
            "--workdir on a file system that all hosts share"
        )
    return found
