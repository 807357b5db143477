"""The logs' own ids in a data set: read from the tables of convert, tied to the data, and bad tables."""

from pathlib import Path

import pyarrow as pa
import pytest
from raw_logs import random_log, write_logs, write_table

from music_map.errors import UserError
from music_map.preprocess.build import build_dataset, find_dataset, plan_dataset
from music_map.preprocess.dataset import Dataset
from music_map.preprocess.parts import merge_parts, run_part
from music_map.preprocess.settings import PreprocessSettings
from music_map.raw.schema import id_table_path, pipeline_files
from music_map.storage import fingerprint

SETTINGS = PreprocessSettings(min_interactions=45)
SONGS = [f"song, {n}\u2028" for n in range(400)]


def planned(raw: Path):
    return plan_dataset(SETTINGS, source=raw, processed_dir=raw / "processed")


def write_ids(raw: Path, kind: str, ids: dict[int, str], **columns: list) -> Path:
    values = {"number": pa.array(ids, pa.uint32()), "id": pa.array(ids.values(), pa.string()), **columns}
    return write_table(id_table_path(raw, "50m", kind), pa.table(values))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_logs(tmp_path, **random_log(3))


@pytest.fixture
def own(raw: Path) -> Path:
    """Logs with tables of ids: those of albums are numbers, with names; songs not in the order of the numbers."""
    order = list(range(399, -1, -1))
    titles = [f"T{n}" if n % 2 else None for n in order]
    artists = [f"A{n}" if n % 3 else "" for n in order]
    write_ids(raw, "item", {n: SONGS[n] for n in order}, title=titles, artist=artists, album=order)
    write_ids(raw, "user", {n: f"user {n}" for n in range(300)})
    write_ids(raw, "artist", {7 * n: f"artist {n}" for n in range(9)})
    write_ids(raw, "album", {n: str(n) for n in range(400)}, name=[f"Album {n}" for n in range(400)])
    return raw


def test_ids_and_names_of_what_is_kept(own: Path) -> None:
    dataset = build_dataset(planned(own))
    numbers = dataset.item_ids.tolist()
    assert 0 < len(numbers) < 40
    assert dataset.songs.labels(range(len(numbers))) == [SONGS[n] for n in numbers]
    expected = [None if not n % 2 else f"A{n} - T{n}" if n % 3 else f"T{n}" for n in numbers]
    assert [dataset.songs.name(at) for at in range(len(numbers))] == expected
    assert dataset.users.labels([0, 1]) == [f"user {n}" for n in dataset.user_ids[:2]]
    features = dataset.item_features()
    assert dataset.artists.labels([0, 1]) == [f"artist {n // 7}" for n in features.artist_ids[:2]]
    assert dataset.albums.labels([0, 1]) == features.album_ids[:2].tolist() and dataset.albums.own is None
    assert dataset.albums.name(0) == f"Album {features.album_ids[0]}" and dataset.artists.name(0) is None
    assert dataset.songs.index_of(SONGS[numbers[5]]) == 5 and dataset.songs.index_of(numbers[5]) == -1


def test_without_tables_the_numbers_are_the_ids(raw: Path) -> None:
    plan = planned(raw)
    assert list(plan.inputs) == pipeline_files("50m")
    assert plan.fingerprint == fingerprint({"version": 1, "settings": SETTINGS.identity(), "inputs": plan.inputs})
    dataset = build_dataset(plan)
    assert dataset.songs.labels([0, 3]) == dataset.item_ids[[0, 3]].tolist()
    assert not [name for name in dataset.store.arrays if "_own_" in name or "_name_" in name]


def test_another_table_makes_another_data_set(own: Path) -> None:
    first = build_dataset(planned(own))
    write_ids(own, "item", {n: f"other {n}" for n in range(400)})
    plan = planned(own)
    assert plan.fingerprint != first.fingerprint and find_dataset(plan) is None
    assert build_dataset(plan).songs.label(0) == f"other {first.item_ids[0]}"
    # What was made of the old table answers with the old ids.
    assert Dataset.open(first.store.folder).songs.label(0) == SONGS[first.item_ids[0]]


def test_parts_hold_the_same(own: Path) -> None:
    whole = build_dataset(planned(own)).store
    (own / "processed").rename(own / "whole")
    plan = planned(own)
    while {run_part(plan, part, 3) for part in (1, 2, 3)} != {"done"}:
        pass
    assert merge_parts(plan, 3).store.arrays == whole.arrays


@pytest.mark.parametrize(
    ("ids", "columns", "message"),
    [
        ({n: "x" if n < 2 else SONGS[n] for n in range(2, 300)}, {}, "is in the logs but has no id here"),
        ({n: "same" for n in range(400)}, {}, "column id: 'same' occurs twice"),
        ({n: None for n in range(400)}, {}, "column id, row 0: null"),
        ({n: SONGS[n] for n in range(400)}, {"number": pa.array([5] * 400)}, "column number: "),
        ({n: SONGS[n] for n in range(400)}, {"number": pa.array([-1] * 400)}, "must hold numbers from 0"),
        ({n: SONGS[n] for n in range(400)}, {"title": pa.array([[1]] * 400)}, "column title: .* must hold texts"),
        ({}, {}, "is in the logs but has no id here"),
    ],
)
def test_bad_tables_end_as_one_line(raw: Path, ids: dict[int, str], columns: dict, message: str) -> None:
    path = write_ids(raw, "item", ids, **columns)
    with pytest.raises(UserError, match=message) as e:
        build_dataset(planned(raw))
    assert str(e.value).startswith(str(path)) and "\n" not in str(e.value)
    assert str(e.value).endswith(("remove the tables of ids beside them", "fill in the value or drop the row"))


def test_a_table_without_ids(raw: Path) -> None:
    write_table(id_table_path(raw, "50m", "user"), pa.table({"number": [1], "name": ["x"]}))
    with pytest.raises(UserError, match=r"user_ids\.parquet: has no column id, only number, name"):
        build_dataset(planned(raw))


def test_absent_files_are_told_in_one_line(tmp_path: Path) -> None:
    write_logs(tmp_path, **{"listens": random_log(3)["listens"], "likes": []})
    assert planned(tmp_path).warnings == [
        f"{tmp_path}: flat/50m/dislikes.parquet, flat/50m/unlikes.parquet, flat/50m/undislikes.parquet, "
        "embeddings.parquet, artist_item_mapping.parquet, album_item_mapping.parquet are missing and count as empty"
    ]
