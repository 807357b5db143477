"""Preprocessing in parts gives the files of one process, whatever the parts, and says what is missing."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from raw_logs import random_log, table, write_logs, write_table

from music_map.errors import DamagedFileError, UserError
from music_map.preprocess import filtering, parts
from music_map.preprocess.build import DatasetPlan, build_dataset, plan_dataset
from music_map.preprocess.dataset import Dataset
from music_map.preprocess.settings import PreprocessSettings
from music_map.raw.reader import EVERYONE, open_events, user_ranges
from music_map.raw.schema import LISTENS

SMALL = PreprocessSettings(min_interactions=2, chunk_size=100)


def plan(raw: Path, settings: PreprocessSettings = SMALL, folder: str = "processed") -> DatasetPlan:
    return plan_dataset(settings, source=raw, processed_dir=raw / folder)


def in_parts(planned: DatasetPlan, of: int, *, batch_rows: int = 1 << 20) -> tuple[Dataset, list[str]]:
    """Every part does its next step, in turns, until there is none; then the merge."""
    steps = []
    while True:
        done = {parts.run_part(planned, part, of, batch_rows=batch_rows) for part in range(of, 0, -1)}
        assert len(done) == 1
        steps += done
        if done == {"done"}:
            return parts.merge_parts(planned, of), steps


def contents(dataset: Dataset) -> dict[str, bytes]:
    folder = dataset.store.folder
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_equal(raw: Path, settings: PreprocessSettings, of: int, *, batch_rows: int = 1 << 20) -> list[str]:
    whole = build_dataset(plan(raw, settings), batch_rows=batch_rows)
    dataset, steps = in_parts(plan(raw, settings, f"parts-{of}"), of, batch_rows=batch_rows)
    assert contents(dataset) == contents(whole)
    assert [p.name for p in (raw / f"parts-{of}").iterdir() if p.is_dir()] == [dataset.store.folder.name]
    return steps


marks = st.tuples(st.integers(0, 5), st.integers(0, 12).map(lambda n: 5 * n), st.integers(0, 6), st.integers(0, 1))
listens = st.tuples(marks, st.integers(0, 159), st.sampled_from([0, 60, 200])).map(lambda row: (*row[0], *row[1:]))


@hypothesis_settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    settings=st.builds(
        PreprocessSettings,
        min_interactions=st.integers(1, 4),
        filter=st.sampled_from(["once", "k_core"]),
        chunk_size=st.integers(1, 20),
        cold_item_fraction=st.sampled_from([0.0, 0.3]),
    ),
    of=st.integers(1, 9),
    row_group=st.integers(1, 30),
    batch_rows=st.integers(1, 20),
)
def test_equals_one_process(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    settings: PreprocessSettings,
    of: int,
    row_group: int,
    batch_rows: int,
) -> None:
    raw = tmp_path_factory.mktemp("raw")
    log = {"listens": data.draw(st.lists(listens, min_size=30, max_size=60))}
    log |= {n: data.draw(st.none() | st.lists(marks, max_size=15)) for n in ("likes", "dislikes", "unlikes")}
    write_logs(raw, row_group_size=row_group, **log)
    try:
        build_dataset(plan(raw, settings), batch_rows=batch_rows)
    except UserError as e:
        # Nothing left, an empty split, nothing to hold out: the parts find the same out, at the latest when merged.
        with pytest.raises(UserError) as found:
            in_parts(plan(raw, settings, "parts"), of)
        assert str(found.value) == str(e)
    else:
        check_equal(raw, settings, of, batch_rows=batch_rows)


@pytest.mark.parametrize(("of", "row_group"), [(1, 400), (2, 400), (5, 400), (12, 400), (4, 2_000)])
def test_equals_one_process_on_a_larger_log(tmp_path: Path, of: int, row_group: int) -> None:
    # 2,000 listens of 30 users: in 5 row groups, or in 1, which parts have to share.
    write_logs(tmp_path, row_group_size=row_group, **random_log(3))
    steps = check_equal(tmp_path, PreprocessSettings(min_interactions=45, chunk_size=300), of)
    assert steps == ["count-0", "write", "done"]


def test_a_core_takes_a_count_a_round(tmp_path: Path) -> None:
    # Users 1 and 2 hear songs 10 and 11 four times each. Users 20, 21, ... hear 30 and 31, 31 and 32, ...: song 30 has
    # one row and goes, so user 20 has one left and goes, so song 31 has one left, and so on to the end of the chain.
    rows = [(1 + n % 2, 5 * n, 10 + n // 2 % 2, 1, 100, 60) for n in range(8)]
    rows += [(20 + n, 5 * late, 30 + n + late, 1, 100, 60) for n in range(5) for late in (0, 1)]
    write_logs(tmp_path, row_group_size=4, listens=rows)
    settings = PreprocessSettings(min_interactions=2, filter="k_core", train_fraction=0.5, val_fraction=0.25)
    steps = check_equal(tmp_path, settings, 3)
    assert steps == ["count-0", *(f"count-{n}" for n in range(1, len(steps) - 2)), "write", "done"]
    assert len(steps) > 5


@pytest.mark.parametrize("of", [1, 3])
def test_more_rows_may_be_dropped_than_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: int) -> None:
    write_logs(tmp_path, row_group_size=400, **random_log(3))
    settings = PreprocessSettings(min_interactions=45, chunk_size=300)
    whole = contents(build_dataset(plan(tmp_path, settings)))
    few = filtering.take_census.__kwdefaults__ | {"most_undecided": 10}
    monkeypatch.setattr(filtering.take_census, "__kwdefaults__", few)
    assert contents(build_dataset(plan(tmp_path, settings, "again"))) == whole
    assert check_equal(tmp_path, settings, of) == ["count-0", "count-1", "write", "done"]


def test_ids_without_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    uids, items = (rng.integers(0, 2**32, 12, dtype=np.uint64).tolist() for _ in range(2))
    rows = [(int(rng.choice(uids)), 1_700_000_000 + 5 * n, int(rng.choice(items)), 1, 100, 60) for n in range(200)]
    write_logs(tmp_path, row_group_size=30, listens=rows)
    assert "count-1" in check_equal(tmp_path, SMALL, 3)


def test_merging_links_whole_shards(tmp_path: Path) -> None:
    write_logs(tmp_path, row_group_size=200, **random_log(3))
    planned = plan(tmp_path)
    for _ in range(2):
        assert len({parts.run_part(planned, part, 2) for part in (1, 2)}) == 1
    written = next((tmp_path / "processed").glob("parts-*")) / "write"
    nodes = {path.stat().st_ino for path in written.glob("part-*/train/item-*.npy")}
    dataset = parts.merge_parts(planned, 2)
    merged = [path.stat().st_ino in nodes for path in sorted(dataset.store.folder.glob("train/item-*.npy"))]
    # All but the shard of the seam and the last, which is none of a whole 100 rows.
    assert len(merged) > 10 and sum(merged) >= len(merged) - 2


def test_ranges_share_the_listens(tmp_path: Path) -> None:
    log = random_log(0, num_users=300, num_listens=9_000)
    tables = open_events(write_logs(tmp_path, row_group_size=1_000, **log), "50m")
    ranges = user_ranges(tables, 6)
    assert ranges[0].first == EVERYONE.first and ranges[-1].end == EVERYONE.end
    rows = [
        sum(len(b["uid"]) for b in tables["listens"].batches(["uid", "timestamp"], users=users)) for users in ranges
    ]
    assert sum(rows) == 9_000 and max(rows) < 2_000 and min(rows) > 1_000


def test_files_without_statistics(tmp_path: Path) -> None:
    write_logs(tmp_path, row_group_size=400, **random_log(3))
    expected = user_ranges(open_events(tmp_path, "50m"), 4)
    for path in (tmp_path / "flat" / "50m").glob("*.parquet"):
        pq.write_table(pq.read_table(path), path, row_group_size=400, write_statistics=False)
    assert user_ranges(open_events(tmp_path, "50m"), 4) == expected
    check_equal(tmp_path, SMALL, 4)


def test_unsorted_file(tmp_path: Path) -> None:
    rows = [(uid, 5, 1, 1, 100, 60) for uid in (1, 2, 3, 1, 5, 6)]
    write_table(tmp_path / "flat" / "50m" / "listens.parquet", table(rows, LISTENS), row_group_size=3)
    with pytest.raises(UserError, match=r"row 3 \(uid 1, timestamp 5\) comes before the row above it"):
        in_parts(plan(tmp_path), 2)


def test_wrong_statistics_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_logs(tmp_path, row_group_size=400, **random_log(3))
    honest = type(open_events(tmp_path, "50m")["listens"]).groups.func

    def wrong(self: object) -> object:
        groups = honest(self)
        return groups._replace(last=np.minimum(groups.last, groups.first + 1))

    monkeypatch.setattr("music_map.raw.reader.EventTable.groups", property(wrong))
    with pytest.raises(UserError, match=r"the parts read [\d,]+ of its 2,000 rows"):
        in_parts(plan(tmp_path), 3)


def test_says_which_part_is_missing(tmp_path: Path) -> None:
    write_logs(tmp_path, row_group_size=400, **random_log(3))
    planned = plan(tmp_path)
    assert parts.run_part(planned, 1, 3) == "count-0"
    with pytest.raises(UserError, match=r"part 2, 3 of 3: step count-0 is not done; .* --part=2/3"):
        parts.run_part(planned, 1, 3)
    assert [parts.run_part(planned, part, 3) for part in (2, 3, 3)] == ["count-0", "count-0", "write"]
    with pytest.raises(UserError, match=r"part 1, 2 of 3: step write is not done; .* --part=1/3"):
        parts.merge_parts(planned, 3)
    assert [parts.run_part(planned, part, 3) for part in (1, 2, 3)] == ["write", "write", "done"]
    dataset = parts.merge_parts(planned, 3)
    # Where the data set is there, nobody has anything to do.
    assert parts.run_part(planned, 1, 7) == "done"
    assert parts.merge_parts(planned, 3).fingerprint == dataset.fingerprint


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    write_logs(tmp_path, row_group_size=400, **random_log(3))
    planned = plan(tmp_path)
    for _ in range(2):
        for part in (1, 2):
            parts.run_part(planned, part, 2)
    seam = next((tmp_path / "processed").glob("parts-*/write/part-2/val/user-00000.npy"))
    content = bytearray(seam.read_bytes())
    content[-1] ^= 1
    seam.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"part-2/val/user-00000\.npy: damaged"):
        parts.merge_parts(planned, 2)
    assert not list((tmp_path / "processed").glob("events-*"))


@pytest.mark.parametrize(("part", "of"), [(0, 2), (3, 2), (1, 0)])
def test_no_such_part(tmp_path: Path, part: int, of: int) -> None:
    write_logs(tmp_path, **random_log())
    with pytest.raises(UserError, match=r"--part='\d/\d': must be i/n with i from 1 to n"):
        parts.run_part(plan(tmp_path), part, of)
