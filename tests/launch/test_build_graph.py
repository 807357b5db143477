"""launch/build_graph.py as a user runs it."""

import json
import subprocess
from pathlib import Path

import commands
from raw_logs import random_log, write_logs

from music_map.reporting import published


def launch(raw: Path, *flags: str, data: str = "raw_dir") -> subprocess.CompletedProcess[str]:
    folder = f"--config.data.processed_dir={raw / 'processed'}"
    return commands.launch(
        "build_graph", "--config=configs/yambda.py", f"--config.data.{data}={raw}", folder, *flags, check=False
    )


def test_build_preprocesses_first_then_is_up_to_date(tmp_path: Path) -> None:
    write_logs(tmp_path, **random_log())
    first = launch(tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("preprocess: ") and "build_graph: " in first.stdout
    assert "num_edges" in first.stdout and "note: no edge: " in first.stdout
    processed = tmp_path / "processed"
    stats = json.loads((processed / "graph_stats.json").read_text())
    assert {
        "num_nodes",
        "num_users",
        "num_items",
        "num_edges",
        "num_negative_edges",
        "avg_degree",
        "density",
        "edge_weight_stats",
    } <= stats.keys()
    assert stats["edge_weight_stats"].keys() == {"min", "max", "mean", "std"}
    (folder,) = processed.glob("graph-*")
    assert json.loads((folder / "graph_stats.json").read_text()) == stats

    second = launch(tmp_path)
    assert second.returncode == 0 and second.stdout.count("is up to date") == 2
    events = launch(tmp_path, "--config.graph.edges=events", "--config.graph.half_life_days=inf")
    assert events.returncode == 0, events.stderr
    assert len(list(processed.glob("graph-*"))) == 2
    assert json.loads((processed / "graph_stats.json").read_text())["num_edges"] > stats["num_edges"]

    (folder / "item.npy").write_bytes(b"")
    damaged = launch(tmp_path)
    assert damaged.returncode == 2
    assert damaged.stderr.splitlines()[-1].startswith(f"error: {folder / 'item.npy'}: damaged")
    assert launch(tmp_path, "--force").returncode == 0


def test_text_format(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("1 5 6\n2 5\n")
    result = launch(tmp_path, "--config.data.format=text", data="path")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "processed" / "graph_stats.json").read_text())["num_edges"] == 6


def test_a_wrong_weight_is_one_line_and_status_2(tmp_path: Path) -> None:
    write_logs(tmp_path, listens=random_log()["listens"])
    result = launch(tmp_path, "--config.graph.half_life_days=-1")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: config.graph.half_life_days=-1.0: must be at least 0.001")


def test_published_notes_say_what_differs() -> None:
    stats = {"unplayed_listens": 1, "withdrawn_likes": 2, "withdrawn_dislikes": 3}
    settings = {"edges": "sum", "half_life_days": None, "organic_factor": 1.0, "like_weight": 5.0, "log1p": False}
    notes = published.graph_notes(stats, settings, compare=True)
    assert notes[0].startswith("no edge: 1 listens of 0 %, 2 likes and 3 dislikes")
    assert "edges=events" in notes[-1] and "organic" not in notes[-1]
