"""Preprocess against the naive oracle, by hand, and on every kind of bad input."""

import dataclasses
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import naive_pipeline
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from raw_logs import random_log, table, write_logs, write_table

from music_map.errors import DamagedFileError, UserError
from music_map.ids import index_of
from music_map.preprocess.build import DatasetPlan, build_dataset, find_dataset, plan_dataset
from music_map.preprocess.dataset import SPLITS, Dataset
from music_map.preprocess.settings import PreprocessSettings
from music_map.raw.schema import LISTENS
from music_map.reporter import silent

SMALL = PreprocessSettings(min_interactions=2, chunk_size=400)


def plan(raw: Path, settings: PreprocessSettings = SMALL) -> DatasetPlan:
    return plan_dataset(settings, source=raw, processed_dir=raw / "processed")


def build(raw: Path, settings: PreprocessSettings = SMALL, batch_rows: int = 1 << 20) -> Dataset:
    return build_dataset(plan(raw, settings), batch_rows=batch_rows)


def rows_of(columns: tuple[np.ndarray, ...]) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in columns), strict=True))


def check_against_oracle(dataset: Dataset, log: dict, settings: PreprocessSettings) -> None:
    expected = naive_pipeline.preprocess(log, settings)
    assert dataset.user_ids.tolist() == expected["user_ids"]
    assert dataset.item_ids.tolist() == expected["item_ids"]
    for split in SPLITS:
        assert rows_of(dataset.events(split)) == expected["events"][split], split
        assert rows_of(dataset.withdrawals(split)) == expected["withdrawals"][split], split
        assert dataset.stats[f"{split}_size"] == len(expected["events"][split])
        assert all(len(shard.user) <= settings.chunk_size for shard in dataset.event_shards(split))
    assert dataset.item_features().track_seconds.tolist() == expected["track_seconds"]
    assert dataset.train_end == max(row[2] for row in expected["events"]["train"])


marks = st.tuples(st.integers(0, 5), st.integers(0, 12).map(lambda n: 5 * n), st.integers(0, 6), st.integers(0, 1))
listens = st.tuples(marks, st.integers(0, 159), st.sampled_from([0, 60, 200])).map(lambda row: (*row[0], *row[1:]))


@hypothesis_settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    min_interactions=st.integers(1, 4),
    rule=st.sampled_from(["once", "k_core"]),
    train_on_val=st.booleans(),
    batch_rows=st.integers(1, 20),
    chunk_size=st.integers(1, 20),
)
def test_equals_the_oracle(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    min_interactions: int,
    rule: str,
    train_on_val: bool,
    batch_rows: int,
    chunk_size: int,
) -> None:
    raw = tmp_path_factory.mktemp("raw")
    names = ("likes", "dislikes", "unlikes", "undislikes")
    log = {"listens": data.draw(st.lists(listens, min_size=1, max_size=60))}
    log |= {name: data.draw(st.none() | st.lists(marks, max_size=15)) for name in names}
    write_logs(raw, row_group_size=9, **log)
    settings = PreprocessSettings(
        min_interactions=min_interactions, filter=rule, train_on_val=train_on_val, chunk_size=chunk_size
    )
    # The oracle sorts stably by (user, timestamp, kind), so rows must come in the order of the written file.
    stored = naive_pipeline.read_rows(raw)
    try:
        naive_pipeline.preprocess(stored, settings)
    except naive_pipeline.NothingLeft:
        with pytest.raises(UserError, match=r"the filter leaves nothing|split would be empty"):
            build(raw, settings, batch_rows)
        assert not list((raw / "processed").glob("events-*"))
    else:
        check_against_oracle(build(raw, settings, batch_rows), stored, settings)


@pytest.mark.parametrize("split", ["temporal", "global_temporal"])
@pytest.mark.parametrize("train_on_val", [False, True])
@pytest.mark.parametrize("rule", ["once", "k_core"])
def test_equals_the_oracle_on_a_larger_log(tmp_path: Path, split: str, train_on_val: bool, rule: str) -> None:
    write_logs(tmp_path, row_group_size=500, **random_log(3))
    settings = PreprocessSettings(
        min_interactions=45, filter=rule, split=split, train_on_val=train_on_val, chunk_size=300
    )
    dataset = build(tmp_path, settings, batch_rows=128)
    assert 0 < dataset.num_items < 40
    check_against_oracle(dataset, naive_pipeline.read_rows(tmp_path), settings)


def test_filter_once_by_hand(tmp_path: Path) -> None:
    # Two interactions are needed. User 3 has one, so song 30, which has two, keeps only the row of user 1.
    # Song 40 has one, so user 4, with two, keeps the row of song 10. Once: nothing is counted again.
    listens_ = [
        (1, 0, 10, 1, 100, 60),
        (1, 5, 30, 1, 100, 60),
        (2, 10, 10, 1, 100, 60),
        (2, 15, 10, 1, 100, 60),
        (3, 20, 30, 1, 100, 60),
        (4, 25, 40, 1, 100, 60),
        (4, 30, 10, 1, 100, 60),
    ]
    write_logs(tmp_path, listens=listens_)
    once = build(tmp_path, dataclasses.replace(SMALL, train_fraction=0.4, val_fraction=0.2))
    assert once.user_ids.tolist() == [1, 2, 4] and once.item_ids.tolist() == [10, 30]
    assert [once.stats[k] for k in ("total_interactions", "train_size", "val_size", "test_size")] == [5, 2, 1, 2]


def test_k_core_by_hand(tmp_path: Path) -> None:
    # Users 1 and 2 hear songs 10 and 11 in turn: every one has four rows. User 3 has two rows, one of them on song 30,
    # which has one: with two needed, song 30 goes, then user 3 has one row left and goes.
    rows = [(1 + n % 2, 5 * n, 10 + n // 2 % 2, 1, 100, 60) for n in range(8)]
    rows += [(3, 0, 30, 1, 100, 60), (3, 5, 10, 1, 100, 60)]
    write_logs(tmp_path, listens=rows)
    fractions = {"train_fraction": 0.5, "val_fraction": 0.25}
    core = build(tmp_path, dataclasses.replace(SMALL, filter="k_core", **fractions))
    assert core.user_ids.tolist() == [1, 2] and core.item_ids.tolist() == [10, 11]
    assert [core.stats[f"{split}_size"] for split in SPLITS] == [4, 2, 2]
    once = build(tmp_path, dataclasses.replace(SMALL, **fractions))
    assert once.user_ids.tolist() == [1, 2, 3] and once.stats["total_interactions"] == 9


def test_user_whose_rows_all_go_has_no_index(tmp_path: Path) -> None:
    # User 9 has two interactions, but both songs have one.
    rows = [(1, 5 * n, 10, 1, 100, 60) for n in range(8)] + [(9, 0, 70, 1, 100, 60), (9, 5, 71, 1, 100, 60)]
    write_logs(tmp_path, listens=rows)
    dataset = build(tmp_path, dataclasses.replace(SMALL, train_fraction=0.5, val_fraction=0.25))
    assert dataset.user_ids.tolist() == [1] and dataset.item_ids.tolist() == [10]


def test_ids_survive_a_round_trip(tmp_path: Path) -> None:
    log = random_log(1)
    dataset = build(write_logs(tmp_path, **log))
    ids = np.concatenate([dataset.item_ids[dataset.events(split).item] for split in SPLITS])
    known = {row[2] for name in ("listens", "likes", "dislikes") for row in log[name]}
    assert set(ids.tolist()) <= known
    assert np.array_equal(index_of(dataset.item_ids, dataset.item_ids), np.arange(dataset.num_items))
    assert np.array_equal(index_of(dataset.user_ids, dataset.user_ids), np.arange(dataset.num_users))


@pytest.mark.parametrize("batch_rows", [13, 1 << 20])
def test_large_and_sparse_ids(tmp_path: Path, batch_rows: int) -> None:
    rng = np.random.default_rng(0)
    uids, items = (rng.integers(0, 2**32, 12, dtype=np.uint64).tolist() for _ in range(2))
    start = 1_700_000_000
    rows = [(int(rng.choice(uids)), start + 5 * n, int(rng.choice(items)), 1, 100, 60) for n in range(200)]
    write_logs(tmp_path, listens=rows)
    check_against_oracle(build(tmp_path, SMALL, batch_rows), naive_pipeline.read_rows(tmp_path), SMALL)


def test_manifest_tells_what_the_folder_is(tmp_path: Path) -> None:
    dataset = build(write_logs(tmp_path, **random_log()))
    meta = dataset.store.meta
    assert {"stats", "settings", "inputs", "schema", "train_end", "num_shards"} <= meta.keys()
    assert meta["inputs"]["flat/50m/listens.parquet"]["size"] > 0
    assert meta["settings"]["chunk_size"] == 400
    assert json.loads((dataset.store.folder / "stats.json").read_text()) == dataset.stats
    assert {
        "total_interactions",
        "num_users",
        "num_items",
        "train_size",
        "val_size",
        "test_size",
        "min_interactions",
        "chunk_size",
    } <= dataset.stats.keys()
    files = {str(p.relative_to(dataset.store.folder)) for p in dataset.store.folder.rglob("*.npy")}
    assert files == {f"{name}.npy" for name in dataset.store.arrays}
    assert all(len(entry["sha256"]) == 64 for entry in dataset.store.arrays.values())


def test_found_again_only_with_the_same_inputs_and_settings(tmp_path: Path) -> None:
    write_logs(tmp_path, **random_log())
    first = plan(tmp_path)
    assert find_dataset(first) is None
    dataset = build_dataset(first)
    assert find_dataset(plan(tmp_path)).fingerprint == dataset.fingerprint
    # Another shard size is another folder; the first one stays as it is.
    other = build(tmp_path, dataclasses.replace(SMALL, chunk_size=401))
    assert other.store.folder != dataset.store.folder
    assert find_dataset(first) is not None
    # Other content at the same path is another data set.
    write_logs(tmp_path, listens=random_log(5)["listens"])
    assert find_dataset(plan(tmp_path)) is None
    # So is an optional file that appears or goes.
    before = plan(tmp_path).fingerprint
    (tmp_path / "embeddings.parquet").unlink()
    assert plan(tmp_path).fingerprint != before
    assert plan(tmp_path).missing == ["embeddings.parquet"]


def test_input_checksums_are_remembered(tmp_path: Path) -> None:
    write_logs(tmp_path, **random_log())
    labels: list[str] = []

    def progress(label: str, total: int | None, unit: str) -> AbstractContextManager[Callable[[int], object]]:
        labels.append(label)
        return silent(label, total, unit)

    for _ in range(2):
        plan_dataset(SMALL, source=tmp_path, processed_dir=tmp_path / "p", progress=progress)
    assert labels == ["checksums"]
    (tmp_path / "p" / "inputs.json").write_text("{")
    again = plan_dataset(SMALL, source=tmp_path, processed_dir=tmp_path / "p", progress=progress)
    assert again.fingerprint == plan(tmp_path).fingerprint
    assert labels == ["checksums"] * 2


def test_damaged_shard_is_named(tmp_path: Path) -> None:
    dataset = build(write_logs(tmp_path, **random_log()))
    shard = dataset.store.folder / "train" / "item-00001.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"train/item-00001\.npy: damaged .*run the command again"):
        dataset.events("train")
    shard.unlink()
    with pytest.raises(DamagedFileError, match=r"train/item-00001\.npy: missing"):
        dataset.events("train")
    assert len(dataset.events("test").user)


def test_nothing_is_left_of_a_run_that_fails(tmp_path: Path) -> None:
    write_logs(tmp_path, **random_log())
    dataset = build(tmp_path)
    embeddings = pq.read_table(tmp_path / "embeddings.parquet")
    write_table(tmp_path / "embeddings.parquet", embeddings.drop_columns(["embed", "normalized_embed"]))
    with pytest.raises(UserError, match=r"embeddings.parquet: has no column normalized_embed or embed"):
        build(tmp_path)
    assert [p.name for p in (tmp_path / "processed").iterdir() if p.is_dir()] == [dataset.store.folder.name]
    assert len(dataset.events("train").user)


def test_only_listens(tmp_path: Path) -> None:
    write_logs(tmp_path, listens=random_log()["listens"])
    dataset = build(tmp_path)
    assert len(plan(tmp_path).missing) == 7
    features = dataset.item_features()
    assert features.audio.shape == (0, 128) and set(features.audio_row.tolist()) == {-1}
    assert features.artist_offsets.tolist() == [0] * (dataset.num_items + 1)


def test_missing_listens(tmp_path: Path) -> None:
    write_logs(tmp_path, likes=[(1, 2, 3, 1)])
    with pytest.raises(UserError, match=r"listens.parquet: no such file; fetch it with launch/download.py --size=50m"):
        plan(tmp_path)


def test_filter_that_leaves_nothing(tmp_path: Path) -> None:
    write_logs(tmp_path, listens=[(1, 0, 1, 1, 100, 60), (1, 5, 2, 1, 100, 60)])
    with pytest.raises(UserError, match=r"at most 2 and 1; lower --config.data.min_interactions"):
        build(tmp_path)


def test_empty_split(tmp_path: Path) -> None:
    write_logs(tmp_path, listens=[(1, 0, 1, 1, 100, 60)] * 20)
    with pytest.raises(UserError, match=r"the \w+ split would be empty: .* choose another --config.data.split"):
        build(tmp_path)


def test_unsorted_events(tmp_path: Path) -> None:
    rows = [(1, 5, 1, 1, 100, 60), (1, 0, 1, 1, 100, 60)]
    write_table(tmp_path / "flat" / "50m" / "listens.parquet", table(rows, LISTENS))
    with pytest.raises(UserError, match=r"listens.parquet: row 1 \(uid 1, timestamp 0\) comes before"):
        build(tmp_path)


def test_null_in_an_event_column(tmp_path: Path) -> None:
    write_logs(tmp_path, **random_log())
    path = tmp_path / "flat" / "50m" / "listens.parquet"
    contents = pq.read_table(path)
    pct = contents["played_ratio_pct"].to_pylist()
    pct[17] = None
    write_table(path, contents.set_column(4, "played_ratio_pct", pa.array(pct, pa.uint16())))
    with pytest.raises(UserError, match=r"listens.parquet: column played_ratio_pct, row 17: null"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "csv"}, r"config.data.format='csv': must be one of yambda, text"),
        ({"filter": "twice"}, r"config.data.filter='twice'"),
        ({"split": "random"}, r"config.data.split='random'"),
        ({"min_interactions": -1}, r"config.data.min_interactions=-1"),
        ({"chunk_size": 0}, r"config.data.chunk_size=0"),
        ({"size": "../x"}, r"config.data.size='../x'"),
        ({"train_fraction": 0.0}, r"config.data.train_fraction=0.0: must be above 0 and below 1"),
        ({"val_fraction": float("nan")}, r"config.data.val_fraction=nan"),
        ({"train_fraction": 0.9, "val_fraction": 0.1}, r"leave no events for test"),
    ],
)
def test_settings_out_of_range(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PreprocessSettings(**change)
