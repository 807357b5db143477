"""The published statistics of Yambda-50M, printed beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from music_map.preprocess.dataset import Dataset
from music_map.reporter import Reporter

# arXiv 2505.22238's 50m log, filtered once at 10 interactions. The number of rows identifies the log.
LISTEN_ROWS = 46_467_212
DATASET = {
    "total_interactions": 45_881_950,
    "num_users": 9_984,
    "num_items": 253_939,
    "train_size": 36_705_560,
    "val_size": 4_588_195,
    "test_size": 4_588_195,
}
GRAPH = {
    "num_nodes": 263_923,
    "num_edges": 67_822_208,
    "num_negative_edges": 81_813,
    "avg_degree": 256.977,
    "density": 0.0133754,
    "edge_weight_stats.min": 0.01,
    "edge_weight_stats.max": 5.0,
    "edge_weight_stats.mean": 0.7861,
    "edge_weight_stats.std": 0.7222,
}


def is_yambda_50m(dataset_stats: Mapping[str, Any]) -> bool:
    """Whether the data set was made from Yambda-50M, by its number of listens."""
    return dataset_stats.get("raw_rows", {}).get("listens") == LISTEN_ROWS


def table(stats: Mapping[str, Any], published: Mapping[str, float] | None) -> list[str]:
    """Lines of a table of statistics, nested ones as `outer.inner`, with a published column where that is given."""
    flat: dict[str, Any] = {}
    for name, value in stats.items():
        flat |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, Mapping) else {name: value}
    flat = {name: value for name, value in flat.items() if not isinstance(value, list)}
    head = f"{'':<28}{'ours':>16}"
    lines = [head if published is None else f"{head}{'published':>16}"]
    for name, value in flat.items():
        line = f"{name:<28}{_number(value):>16}"
        if published is not None and name in published:
            line += f"{_number(published[name]):>16}"
        lines.append(line)
    return lines


def say_dataset(dataset: Dataset, reporter: Reporter) -> None:
    """The statistics of a data set, beside the published ones where it is Yambda-50M."""
    compare = is_yambda_50m(dataset.stats)
    lines = table(dataset.stats, DATASET if compare else None)
    notes = dataset_notes(dataset.stats, dataset.store.meta["settings"], compare=compare)
    for line in (*lines, *(f"note: {note}" for note in notes)):
        reporter.say(line)


def say_graph(stats: Mapping[str, Any], settings: Mapping[str, Any], compare: bool, reporter: Reporter) -> None:
    """The statistics of a graph, beside the published ones with `compare`."""
    notes = graph_notes(stats, settings, compare=compare)
    for line in (*table(stats, GRAPH if compare else None), *(f"note: {note}" for note in notes)):
        reporter.say(line)


def dataset_notes(stats: Mapping[str, Any], settings: Mapping[str, Any], *, compare: bool) -> list[str]:
    """Notes to the table: events moved by ties, and settings that differ from those of the published numbers."""
    notes = []
    if settings["format"] == "text":
        return notes
    if settings["split"] == "temporal":
        train, val = stats["events_moved_by_ties"]
        notes.append(
            f"equal timestamps stay together: train ends {train:+,} events, train and val together {val:+,} "
            "events from the exact shares"
        )
    else:
        notes.append(f"{stats['gap_size']:,} events lie in the gaps between the splits and belong to none")
    if compare:
        reading = {
            "min_interactions": 10,
            "filter": "once",
            "split": "temporal",
            "train_fraction": 0.8,
            "val_fraction": 0.1,
            "train_on_val": False,
        }
        notes += _differences(settings, reading, "data")
    return notes


def graph_notes(stats: Mapping[str, Any], settings: Mapping[str, Any], *, compare: bool) -> list[str]:
    """Notes to the table: events without an edge, and settings that differ from those of the published numbers."""
    notes = [
        f"no edge: {stats['unplayed_listens']:,} listens of 0 %, {stats['withdrawn_likes']:,} likes and "
        f"{stats['withdrawn_dislikes']:,} dislikes withdrawn later in train"
    ]
    if compare:
        notes.append(
            "the published graph keeps withdrawn likes and dislikes, and does not clip the played ratio at 100 %"
        )
        reading = {"edges": "events", "half_life_days": None, "organic_factor": 1.0, "like_weight": 5.0, "log1p": False}
        notes += _differences(settings, reading, "graph")
    return notes


def _differences(settings: Mapping[str, Any], reading: Mapping[str, Any], section: str) -> list[str]:
    # On the command line "inf" means no half-life.
    different = [
        f"{name}={'inf' if value is None else value}" for name, value in reading.items() if settings[name] != value
    ]
    if not different:
        return []
    return [f"the published numbers are for config.{section}: {', '.join(different)}; this run differs there"]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
