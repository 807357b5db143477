"""A few impossible times: the present of the data set, its warnings and the splits by the end of the log."""

import dataclasses
import json
from pathlib import Path

import pytest
from raw_logs import random_log, write_logs

from music_map.preprocess.build import build_dataset, plan_dataset
from music_map.preprocess.dataset import Dataset
from music_map.preprocess.settings import PreprocessSettings
from music_map.storage import MANIFEST

FAR = 4_102_444_800  # the year 2100
START = 1_600_000_000


def made(raw: Path, *, late: int = 0, early: int = 0, split: str = "temporal") -> Dataset:
    log = random_log(3)
    for name in ("listens", "likes", "dislikes", "unlikes", "undislikes"):
        log[name] = [(row[0], START + row[1], *row[2:]) for row in log[name]]
    uid, _, *rest = log["listens"][0]
    log["listens"] += [(uid, FAR, *rest)] * late + [(uid, 5, *rest)] * early
    write_logs(raw, **log)
    settings = PreprocessSettings(min_interactions=2, split=split)
    return build_dataset(plan_dataset(settings, source=raw, processed_dir=raw / "processed"))


def test_a_few_impossible_times_are_told_and_are_not_the_present(tmp_path: Path) -> None:
    clean, wrong = made(tmp_path / "clean"), made(tmp_path / "wrong", late=1, early=2)
    assert clean.present == wrong.present and clean.warnings == []
    assert clean.present == max(int(clean.events(split).timestamp.max()) for split in ("train", "val", "test"))
    assert max(wrong.events("test").timestamp) == FAR
    early, late = wrong.warnings
    assert early.startswith("2 events far before all others; the nearest of the others is at 16000")
    nearest = f"the nearest of the others is at {clean.present} s (2020-10-03): "
    assert late.startswith(f"1 event far after all others; {nearest}")
    assert wrong.as_of(START + 86_400).present == wrong.as_of(START + 86_400).train_end < START + 86_400


def test_a_data_set_that_did_not_store_them_looks_at_its_events(tmp_path: Path) -> None:
    dataset = made(tmp_path, late=1)
    path = dataset.store.folder / MANIFEST
    store = dataclasses.replace(
        dataset.store,
        meta={key: value for key, value in json.loads(path.read_text())["meta"].items() if key != "times"},
    )
    old = dataclasses.replace(dataset, store=store)
    assert old.times == dataset.times and old.present < FAR


@pytest.mark.parametrize("late", [0, 3])
def test_the_last_day_is_that_of_the_present(tmp_path: Path, late: int) -> None:
    dataset = made(tmp_path, late=late, split="global_temporal")
    # The end of the log is its last timestamp rounded up to 1,000 s.
    assert dataset.present < START + 20 * 86_400
    assert dataset.store.meta["cutoffs"]["test_from"] == -(-dataset.present // 1_000) * 1_000 - 86_400
