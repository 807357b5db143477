"""The stages before training; each runs unless its result for the configuration exists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from music_map import processes
from music_map.errors import UserError
from music_map.graph.bipartite import BipartiteGraph
from music_map.graph.build import build_graph, graph_fingerprint, graph_folder, graph_stats, load_graph, save_graph
from music_map.lock import writing
from music_map.parallel.storage import StoredParts, load_parts, parts_folder, save_parts
from music_map.preprocess.build import DatasetPlan, build_dataset, dataset_folder, find_dataset, plan_dataset
from music_map.preprocess.dataset import Dataset
from music_map.preprocess.parts import merge_parts
from music_map.reporter import SILENT, Reporter
from music_map.run.config import Config
from music_map.storage import json_text, write_text

T = TypeVar("T")


def dataset_plan(config: Config, *, reporter: Reporter = SILENT) -> DatasetPlan:
    """The plan of preprocessing; warns about absent optional files."""
    settings, source = config.data.preprocess(), config.data.source
    plan = plan_dataset(settings, source=source, processed_dir=config.data.processed, progress=reporter.bar)
    for text in plan.warnings:
        reporter.warn(text)
    return plan


def ensure_dataset(config: Config, *, force: bool = False, check: bool = False, reporter: Reporter = SILENT) -> Dataset:
    """The data set of this configuration, preprocessed now unless that has been done; always with `force`.

    Args:
      config: the configuration.
      force: preprocess again.
      check: compare every checksum of an existing data set now, not when an array is loaded.
    """
    plan = dataset_plan(config, reporter=reporter)
    dataset = None if force else find_dataset(plan)
    if dataset is None:
        with writing(config.data.processed, "preprocess", wait=reporter.note):
            # Another process may have made it in the meantime.
            dataset = None if force else find_dataset(plan)
            if dataset is None:
                reporter.note(f"preprocess: {plan.source} -> {plan.folder}")
                dataset = build_dataset(plan, progress=reporter.bar)
                for text in dataset.times.warnings():
                    reporter.warn(f"{plan.source}: {text}")
    else:
        if check:
            with reporter.bar("verify shards", len(dataset.store.arrays), "file") as advance:
                for name in dataset.store.arrays:
                    dataset.store.load(name, mmap=True)
                    advance(1)
        reporter.note(f"preprocess: {plan.folder} is up to date")
    _keep_stats(config, "stats.json", dataset.stats, reporter)
    return dataset


def _keep_stats(config: Config, name: str, stats: dict[str, Any], reporter: Reporter) -> None:
    """Writes the statistics of this configuration into the processed folder, unless they are there already."""
    path, text = config.data.processed / name, json_text(stats)
    if not path.is_file() or path.read_bytes() != text.encode():
        with writing(config.data.processed, wait=reporter.note):
            write_text(path, text)


def merged_dataset(config: Config, parts: int, *, reporter: Reporter = SILENT) -> Dataset:
    """The data set merged from `parts` parts, see `music_map.preprocess.parts`."""
    plan = dataset_plan(config, reporter=reporter)
    with writing(config.data.processed, "preprocess", wait=reporter.note):
        dataset = merge_parts(plan, parts, progress=reporter.bar)
    reporter.note(f"preprocess: {dataset.store.folder}")
    _keep_stats(config, "stats.json", dataset.stats, reporter)
    return dataset


def dataset_of_run(config: Config, identity: str) -> Dataset:
    """The processed data that a run was trained on; nothing is written.

    Args:
      config: of the run.
      identity: fingerprint of the run's data.

    Raises:
      UserError: it does not exist any more.
    """
    folder = dataset_folder(config.data.processed, identity)
    if not folder.exists():
        raise UserError(
            f"{folder}: the data of this run is missing; put it back, or make it again from the logs "
            "with the run's launch/train.py or launch/preprocess.py command"
        )
    return Dataset.open(folder)


def ensure_graph(
    config: Config,
    dataset: Dataset,
    *,
    force: bool = False,
    past: bool = False,
    reading: bool = False,
    reporter: Reporter = SILENT,
) -> BipartiteGraph:
    """The graph of a data set under this configuration, built now unless that has been done; always with `force`.

    With `past` it is a graph of the past (Dataset.as_of), and graph_stats.json is not written. With `reading` nothing
    is written: a missing graph is built in memory.
    """
    settings = config.graph
    identity = graph_fingerprint(dataset, settings)
    folder = graph_folder(config.data.processed, identity)
    stored = None if force else load_graph(folder, identity=identity)
    if stored is not None:
        reporter.note(f"build_graph: {folder} is up to date")
    elif reading:
        reporter.note(f"build_graph: {folder} is missing; built in memory")
        return build_graph(dataset, settings, progress=reporter.bar)[0]
    else:
        with writing(config.data.processed, "build_graph", wait=reporter.note):
            stored = None if force else load_graph(folder, identity=identity)
            if stored is None:
                reporter.note(f"build_graph: {dataset.store.folder} -> {folder}")
                graph, counts = build_graph(dataset, settings, progress=reporter.bar)
                stored = graph, graph_stats(graph, counts)
                save_graph(*stored, folder, identity=identity, settings=settings)
    graph, stats = stored
    if not past and not reading:
        _keep_stats(config, "graph_stats.json", stats, reporter)
    return graph


def shared_dataset(config: Config, *, reporter: Reporter = SILENT) -> Dataset:
    """`ensure_dataset` by the first of several processes; the others open its result and need no raw logs."""
    made = processes.once(lambda: ensure_dataset(config, reporter=reporter))
    identity = processes.from_first(made and made.fingerprint)
    folder = dataset_folder(config.data.processed, identity)
    return made or _seen(lambda: Dataset.open(folder) if folder.is_dir() else None, folder)


def shared_graph(
    config: Config, dataset: Dataset, *, past: bool = False, reporter: Reporter = SILENT
) -> BipartiteGraph:
    """`ensure_graph` by the first of several processes; the others load its result."""
    identity = graph_fingerprint(dataset, config.graph)
    made = processes.once(lambda: ensure_graph(config, dataset, past=past, reporter=reporter))
    folder = graph_folder(config.data.processed, identity)
    return made or _seen(lambda: load_graph(folder, identity=identity), folder)[0]


def shared_parts(
    config: Config, dataset: Dataset, *, past: bool = False, reporter: Reporter = SILENT
) -> tuple[BipartiteGraph, StoredParts]:
    """The graph, mapped from its files, and its stored parts, which all processes write together if there are none.

    Edges are read only to write the parts; see `ensure_graph`.
    """
    identity = graph_fingerprint(dataset, config.graph)
    folder, parts = graph_folder(config.data.processed, identity), parts_folder(config.data.processed, identity)

    def mapped() -> BipartiteGraph | None:
        found = load_graph(folder, identity=identity, mapped=True)
        return found and found[0]

    def stored() -> StoredParts | None:
        graph = mapped()
        return graph and load_parts(parts, graph, identity=identity)

    if not processes.from_first(processes.first() and stored() is not None):
        processes.once(
            lambda: ensure_graph(config, dataset, past=past, reporter=reporter) and None
        )  # compares its checksums too
        save_parts(_seen(mapped, folder), parts, identity=identity, progress=reporter.bar)
    return _seen(mapped, folder), _seen(stored, parts)


def _seen(open_: Callable[[], T | None], folder: Path) -> T:
    """What the first process has written to a folder. Raises UserError if this process does not see it."""
    found = open_()
    if found is None:
        raise UserError(
            f"{folder}: process 0 wrote it and this process does not see it; put config.data.processed_dir and "
            "--workdir on a file system that all hosts share"
        )
    return found
