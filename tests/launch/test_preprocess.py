"""launch/preprocess.py and launch/preprocess_dask.py as a user runs them."""

import json
import subprocess
from pathlib import Path

import commands
import pytest
from raw_logs import random_log, write_logs

from music_map.reporting import published


def launch(raw: Path, *flags: str, name: str = "preprocess") -> subprocess.CompletedProcess[str]:
    folder = f"--config.data.processed_dir={raw / 'processed'}"
    return commands.launch(
        name, "--config=configs/yambda.py", f"--config.data.raw_dir={raw}", folder, *flags, check=False
    )


def folders(raw: Path) -> list[str]:
    return sorted(p.name for p in (raw / "processed").iterdir() if p.is_dir())


def test_preprocess_then_up_to_date_then_another_configuration(tmp_path: Path) -> None:
    write_logs(tmp_path, **random_log())
    first = launch(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "preprocess: " in first.stdout and "total_interactions" in first.stdout and "published" not in first.stdout
    assert "note: equal timestamps stay together" in first.stdout
    assert "warning" not in first.stderr
    stats = json.loads((tmp_path / "processed" / "stats.json").read_text())
    assert stats["train_size"] + stats["val_size"] + stats["test_size"] == stats["total_interactions"]

    (folder,) = folders(tmp_path)
    manifest = tmp_path / "processed" / folder / "manifest.json"
    written = manifest.stat().st_mtime_ns
    second = launch(tmp_path)
    assert second.returncode == 0 and "is up to date" in second.stdout
    assert manifest.stat().st_mtime_ns == written
    assert launch(tmp_path, "--force").returncode == 0
    assert manifest.stat().st_mtime_ns > written

    other = launch(tmp_path, "--config.data.chunk_size=100", "--config.data.split=global_temporal")
    assert other.returncode == 0, other.stderr
    assert "belong to none" in other.stdout
    assert len(folders(tmp_path)) == 2 and folder in folders(tmp_path)
    assert json.loads((tmp_path / "processed" / "stats.json").read_text())["chunk_size"] == 100

    shard = tmp_path / "processed" / folder / "val" / "user-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-4])
    damaged = launch(tmp_path)
    assert damaged.returncode == 2
    assert damaged.stderr.splitlines()[-1].startswith(f"error: {shard}: damaged")
    assert launch(tmp_path, "--force").returncode == 0
    assert launch(tmp_path).returncode == 0


def test_absent_optional_files_are_said(tmp_path: Path) -> None:
    write_logs(tmp_path, listens=random_log()["listens"])
    result = launch(tmp_path)
    assert result.returncode == 0, result.stderr
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert said.startswith(f"warning: {tmp_path}: flat/50m/likes.parquet, ") and said.endswith("count as empty")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "listens.parquet: no such file; fetch it with launch/download.py --size=50m"),
        (["--part=2"], "--part=2: must be i/n, e.g. --part=1/4"),
        (["--part=1/2", "--merge=2"], "--part, --merge and --force exclude each other"),
        (["--config.data.chunk_size=0"], "config.data.chunk_size=0: must be at least 1"),
        (["--config.data.format=text"], "config.data.path is empty; give a path"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path: Path, flags: list[str], message: str) -> None:
    result = launch(tmp_path, *flags)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line


def test_published_numbers_stand_beside_ours() -> None:
    stats = {"num_users": 9_984, "raw_rows": {"listens": published.LISTEN_ROWS}, "events_moved_by_ties": [3, -1]}
    assert published.is_yambda_50m(stats) and not published.is_yambda_50m({"num_users": 9_984})
    head, row, _ = published.table(stats, published.DATASET)
    assert head.split() == ["ours", "published"] and row.split() == ["num_users", "9,984", "9,984"]
    settings = {
        "format": "yambda",
        "split": "temporal",
        "min_interactions": 10,
        "filter": "k_core",
        "train_fraction": 0.8,
        "val_fraction": 0.1,
        "train_on_val": False,
    }
    ties, reading = published.dataset_notes(stats, settings, compare=True)
    assert "train ends +3 events" in ties and "filter=once" in reading


def test_parts_then_merge(tmp_path: Path) -> None:
    write_logs(tmp_path, row_group_size=400, **random_log())
    early = launch(tmp_path, "--merge=2")
    assert early.returncode == 2 and "part 1, 2 of 2: step count-0 is not done" in early.stderr
    for step in ("count-0", "write"):
        for part in (1, 2):
            done = launch(tmp_path, f"--part={part}/2")
            assert done.returncode == 0, done.stderr
            assert f"part {part}/2: step {step} done" in done.stdout
    assert "nothing left to do" in launch(tmp_path, "--part=2/2").stdout
    merged = launch(tmp_path, "--merge=2")
    assert merged.returncode == 0 and "total_interactions" in merged.stdout, merged.stderr
    assert len(folders(tmp_path)) == 1
    # The merged data set is the one that a run without parts looks for.
    assert "is up to date" in launch(tmp_path).stdout


def test_parts_under_dask(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    write_logs(tmp_path, row_group_size=400, **random_log())
    done = launch(tmp_path, "--parts=3", "--workers=2", name="preprocess_dask")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("3 parts")] == [
        "3 parts: count-0",
        "3 parts: write",
        "3 parts: done",
    ]
    assert "is up to date" in launch(tmp_path).stdout
