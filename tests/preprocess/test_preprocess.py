"""Preprocess against a naive reading of the same logs; split, ids, features, identity, bad input."""

import dataclasses
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_logs import interactions, naive_filter, random_logs, write_logs

from music_map.errors import DamagedFileError, UserError
from music_map.preprocess.dataset import SPLITS, Dataset, index_of
from music_map.preprocess.pipeline import preprocess, raw_files
from music_map.preprocess.settings import PreprocessSettings
from music_map.preprocess.split import boundaries
from music_map.preprocess.text_format import text_files

SETTINGS = PreprocessSettings(
    format="yambda", size="tiny", min_interactions=3, filter="once", split="temporal", train_fraction=0.8,
    val_fraction=0.1, train_on_val=False, chunk_size=7,
)  # fmt: skip


def run(raw, out, settings_=SETTINGS, **kwargs):
    return preprocess(raw_files(raw, settings_.size), settings_, out, **kwargs)


def rows_of(dataset, split):
    e = dataset.events(split)
    return [
        (int(dataset.user_ids[u]), int(t), int(dataset.item_ids[i]), int(k), int(o), int(p))
        for u, i, t, k, o, p in zip(*e, strict=True)
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 10**6), st.sampled_from(["once", "k_core"]), st.integers(1, 6), st.sampled_from([1, 3, 1000]),
    st.sampled_from([2, 13, 1000]),
)  # fmt: skip
def test_equals_the_naive_reading(tmp_path_factory, seed, filter_, minimum, chunk, batch):
    base = tmp_path_factory.mktemp("logs")
    logs = random_logs(seed)
    raw = write_logs(base / "raw", **logs)
    chosen = dataclasses.replace(SETTINGS, filter=filter_, min_interactions=minimum, chunk_size=chunk)
    wanted = naive_filter(interactions(logs), minimum, filter_ == "k_core")
    if len({r[1] for r in wanted}) < 10:
        return
    dataset, made = run(raw, base / "out", chosen, batch_rows=batch)
    assert made
    got = {split: rows_of(dataset, split) for split in SPLITS}
    assert sorted(itertools.chain(*got.values())) == sorted(wanted)
    # Nothing straddles, and time runs from split to split.
    last = -1
    for split in SPLITS:
        times = [r[1] for r in got[split]]
        assert min(times) > last
        last = max(times)
        # Sorted by user, then time; ties in the order listens, likes, dislikes and of the file.
        assert [r[:2] for r in got[split]] == sorted(r[:2] for r in got[split])
        for (u, t, _, k, *_), (u2, t2, _, k2, *_) in zip(got[split], got[split][1:], strict=False):
            assert (u, t) != (u2, t2) or k <= k2
    # Sizes are the nearest possible to 80/10/10 given the ties.
    times = np.sort([r[1] for r in wanted])
    cuts = [0, *(np.flatnonzero(times[1:] != times[:-1]) + 1), len(times)]
    for size, wish in (
        (len(got["train"]), int(len(times) * 0.8)),
        (len(times) - len(got["test"]), int(len(times) * 0.8) + int(len(times) * 0.1)),
    ):
        assert abs(size - wish) == min(abs(c - wish) for c in cuts)
    assert dataset.train_end == max(r[1] for r in got["train"])
    stats = dataset.stats
    assert stats["total_interactions"] == len(wanted) and stats["chunk_size"] == chunk
    assert stats["num_users"] == len({r[0] for r in wanted}) and stats["num_items"] == len({r[2] for r in wanted})
    assert [stats[f"{s}_size"] for s in SPLITS] == [len(got[s]) for s in SPLITS]


def test_ids_survive_a_round_trip(tmp_path):
    logs = random_logs(1)
    logs["listens"] += [(2**32 - 1, 5 * n, 2**32 - 1, 1, 100, 60) for n in range(20)]
    raw = write_logs(tmp_path / "raw", **logs)
    dataset, _ = run(raw, tmp_path / "out")
    for ids in (dataset.user_ids, dataset.item_ids):
        assert np.all(np.diff(ids.astype(np.int64)) > 0) and ids[-1] == 2**32 - 1
        np.testing.assert_array_equal(index_of(ids, ids), np.arange(len(ids)))
        assert index_of(ids, np.array([4, 2**32 - 2])).tolist() == [-1, -1]


def test_withdrawals_are_no_interactions_and_keep_their_split(tmp_path):
    logs = random_logs(2)
    dataset, _ = run(
        write_logs(tmp_path / "raw", **logs), tmp_path / "out", dataclasses.replace(SETTINGS, min_interactions=1)
    )
    got = []
    stops = {"train": "train_stop", "val": "val_stop"}
    for split in SPLITS:
        w = dataset.withdrawals(split)
        if split in stops and len(w.user):
            assert w.timestamp.max() < dataset.stats["boundaries"][stops[split]]
        got += [
            (int(dataset.user_ids[u]), int(t), int(dataset.item_ids[i]), int(k)) for u, i, t, k in zip(*w, strict=True)
        ]
    wanted = [(u, t, i, 1) for u, t, i, _ in logs["unlikes"]] + [(u, t, i, 2) for u, t, i, _ in logs["undislikes"]]
    assert sorted(got) == sorted(wanted)


def test_user_events(tmp_path):
    dataset, _ = run(write_logs(tmp_path / "raw", **random_logs(3)), tmp_path / "out")
    for split in SPLITS:
        events = dataset.events(split)
        for user in range(dataset.num_users):
            mine = dataset.user_events(split, user)
            for column, whole in zip(mine, events, strict=True):
                np.testing.assert_array_equal(column, whole[events.user == user])


def test_global_temporal_gives_the_published_boundaries():
    times = np.arange(0, 26_000_000, 5)
    chosen = dataclasses.replace(SETTINGS, split="global_temporal", size="50m")
    cut = boundaries(times, np.ones(len(times), np.int64), chosen)
    assert cut[:4] == (25_823_600, 25_825_400, 25_911_800, 25_913_600)
    final = boundaries(times, np.ones(len(times), np.int64), dataclasses.replace(chosen, train_on_val=True))
    assert final.train_stop == 25_911_800 and final.test_start == 25_913_600
    assert final.split_of(np.array([25_824_000, 25_911_799, 25_911_800, 25_913_600])).tolist() == [0, 0, 3, 2]
    assert cut.split_of(np.array([0, 25_823_600, 25_825_400, 25_912_000, 26_000_000])).tolist() == [0, 3, 1, 3, 2]


def test_boundaries_by_hand():
    """Ten rows: 0 0 0 5 5 10 15 20 20 20; 80 % is row 8, inside the bin of 20: it goes to the nearer side."""
    times, counts = np.array([0, 5, 10, 15, 20]), np.array([3, 2, 1, 1, 3])
    cut = boundaries(times, counts, dataclasses.replace(SETTINGS, train_fraction=0.5, val_fraction=0.2))
    assert cut == (10, 10, 20, 20, (0, 0))
    cut = boundaries(times, counts, dataclasses.replace(SETTINGS, train_fraction=0.4, val_fraction=0.2))
    # Row 4 lies in the bin of 5 (rows 3 and 4): both sides are one row away, ties go later.
    assert cut == (5, 5, 10 + 5, 15, (1, 0))


def test_train_on_val(tmp_path):
    raw = write_logs(tmp_path / "raw", **random_logs(4))
    apart, _ = run(raw, tmp_path / "out")
    joined, _ = run(raw, tmp_path / "out", dataclasses.replace(SETTINGS, train_on_val=True))
    assert sorted(rows_of(joined, "train")) == sorted(rows_of(apart, "train") + rows_of(apart, "val"))
    assert rows_of(joined, "val") == [] and rows_of(joined, "test") == rows_of(apart, "test")


def embedding(value):
    return [float(value)] * 128


def test_item_features(tmp_path):
    rows = [(u, 5 * (u + n), 10 + n % 4, 1, 100, 60 + n % 4) for u in range(4) for n in range(12)]
    raw = write_logs(
        tmp_path / "raw", listens=rows,
        embeddings=[(i, embedding(a), embedding(b)) for i, a, b in ((12, 2, 3), (99, 1, 1), (10, 1, -1))],
        artists=[(7, 10), (5, 10), (7, 13), (9, 98)], albums=[(3, 11)],
    )  # fmt: skip
    dataset, _ = run(raw, tmp_path / "out")
    assert dataset.item_ids.tolist() == [10, 11, 12, 13]
    f = dataset.item_features()
    assert f.audio_row.tolist() == [1, -1, 0, -1]
    np.testing.assert_allclose(f.audio, np.array([[1.0] * 128, [-1.0] * 128]) / np.sqrt(128), rtol=1e-6)
    assert (
        f.artist_ids.tolist() == [5, 7]
        and f.artist_offsets.tolist() == [0, 2, 2, 2, 3]
        and f.artists.tolist() == [0, 1, 1]
    )
    assert f.album_ids.tolist() == [3] and f.album_offsets.tolist() == [0, 0, 1, 1, 1]
    assert f.track_seconds.tolist() == [60, 61, 62, 63]


def test_track_length_is_not_learned_from_the_future(tmp_path):
    rows = [(u, 5 * n, 10 + n % 3, 1, 100, 0 if n < 100 else 77) for u in range(2) for n in range(120)]
    dataset, _ = run(write_logs(tmp_path / "raw", listens=rows), tmp_path / "out")
    assert dataset.item_features().track_seconds.tolist() == [0, 0, 0]


def test_up_to_date_other_settings_and_other_input(tmp_path):
    raw = write_logs(tmp_path / "raw", **random_logs(5))
    first, made = run(raw, tmp_path / "out")
    again, made_again = run(raw, tmp_path / "out")
    assert made and not made_again and first.store.folder == again.store.folder
    other, made_other = run(raw, tmp_path / "out", dataclasses.replace(SETTINGS, min_interactions=2))
    assert made_other and other.store.folder != first.store.folder
    write_logs(tmp_path / "raw", **random_logs(6))
    third, made_third = run(raw, tmp_path / "out")
    assert made_third and third.fingerprint != first.fingerprint
    assert {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()} == {
        d.store.folder.name for d in (first, other, third)
    }


def test_moving_the_input_changes_nothing(tmp_path):
    raw = write_logs(tmp_path / "raw", **random_logs(5))
    first, _ = run(raw, tmp_path / "out")
    raw.rename(tmp_path / "elsewhere")
    _, made = run(tmp_path / "elsewhere", tmp_path / "out")
    assert not made and first.store.folder.exists()


def test_manifest_says_what_it_is(tmp_path):
    dataset, _ = run(write_logs(tmp_path / "raw", **random_logs(5)), tmp_path / "out")
    manifest = json.loads((dataset.store.folder / "manifest.json").read_text())
    assert manifest["meta"]["settings"] == dataclasses.asdict(SETTINGS)
    assert manifest["meta"]["schema"]["user"] == "<i4"
    assert set(manifest["meta"]["inputs"]["listens"]) == {"size", "sha256"}
    for name, entry in manifest["arrays"].items():
        assert (dataset.store.folder / f"{name}.npy").exists() and len(entry["sha256"]) == 64


def test_damaged_shard_is_named(tmp_path):
    dataset, _ = run(write_logs(tmp_path / "raw", **random_logs(5)), tmp_path / "out")
    victim = dataset.store.folder / "train" / "item-00001.npy"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match=str(victim)):
        Dataset.open(dataset.store.folder).events("train")


def test_a_failure_leaves_no_folder(tmp_path):
    raw = write_logs(tmp_path / "raw", **random_logs(5), embeddings=[(1, embedding(1)[:5], embedding(1)[:5])])
    ids = run(write_logs(tmp_path / "good", **random_logs(5)), tmp_path / "scratch")[0].item_ids
    write_logs(raw, **random_logs(5), embeddings=[(int(ids[0]), embedding(1)[:5], embedding(1)[:5])])
    with pytest.raises(UserError, match="does not have 128 numbers for item_id"):
        run(raw, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["inputs.json"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"min_interactions": 10**6}, "min_interactions=1000000: the filter leaves nothing"),
        ({"train_fraction": 0.999, "val_fraction": 0.0005}, "split would be empty"),
        ({"split": "global_temporal"}, "split would be empty"),
    ],
)
def test_nothing_left(tmp_path, change, says):
    raw = write_logs(tmp_path / "raw", **random_logs(7))
    with pytest.raises(UserError, match=says):
        run(raw, tmp_path / "out", dataclasses.replace(SETTINGS, **change))


def test_no_rows(tmp_path):
    with pytest.raises(UserError, match=r"listens\.parquet: has no rows"):
        run(write_logs(tmp_path / "raw"), tmp_path / "out")


@pytest.mark.parametrize(
    ("field", "value"),
    [("filter", "onec"), ("split", "random"), ("format", "csv"), ("min_interactions", 0), ("chunk_size", 0),
     ("train_fraction", 1.0), ("val_fraction", 0.2)],
)  # fmt: skip
def test_settings_without_meaning_are_named(field, value):
    with pytest.raises(UserError, match=rf"config\.data\.{field}="):
        dataclasses.replace(SETTINGS, **{field: value})


TEXT = dataclasses.replace(SETTINGS, format="text", chunk_size=3)


def text(folder, train="0 5 7 5\n1 7\n3\n", valid="0 9\n", test="1 5\n4 7\n"):
    folder.mkdir(exist_ok=True)
    for name, content in (("train", train), ("valid", valid), ("test", test)):
        (folder / f"{name}.txt").write_text(content)
    return text_files(folder)


def test_text_format(tmp_path):
    dataset, _ = preprocess(text(tmp_path / "data"), TEXT, tmp_path / "out")
    assert dataset.user_ids.tolist() == [0, 1, 4] and dataset.item_ids.tolist() == [5, 7, 9]
    pairs = {s: sorted((r[0], r[2]) for r in rows_of(dataset, s)) for s in SPLITS}
    assert pairs == {"train": [(0, 5), (0, 7), (1, 7)], "val": [(0, 9)], "test": [(1, 5), (4, 7)]}
    assert dataset.train_end == 0
    joined, _ = preprocess(text(tmp_path / "data"), dataclasses.replace(TEXT, train_on_val=True), tmp_path / "out")
    assert sorted((r[0], r[2]) for r in rows_of(joined, "train")) == [(0, 5), (0, 7), (0, 9), (1, 7)]


@pytest.mark.parametrize(("bad", "says"), [("0 5\n1 x\n", "line 2"), ("", "no user has an item"), ("0 -5\n", "line 1")])
def test_bad_text(tmp_path, bad, says):
    with pytest.raises(UserError, match=rf"train\.txt: .*{says}"):
        preprocess(text(tmp_path / "data", train=bad), TEXT, tmp_path / "out")


def shared_data():
    root = Path(os.environ.get("MUSIC_MAP_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    return root if root.is_dir() else None


@pytest.mark.skipif(shared_data() is None, reason="no MUSIC_MAP_SHARED_DATA and no ../shared/data")
def test_real_ratings(tmp_path):
    raw = shared_data() / "yambda-movielens-100k"
    logs = {
        name: list(zip(*pq.read_table(raw / f"flat/50m/{name}.parquet").to_pydict().values(), strict=True))
        for name in ("listens", "likes", "dislikes")
    }
    wanted = naive_filter(interactions(logs), 10, False)
    chosen = dataclasses.replace(SETTINGS, size="50m", min_interactions=10, chunk_size=10_000)
    dataset, _ = run(raw, tmp_path / "out", chosen, batch_rows=5_000)
    assert sorted(itertools.chain(*(rows_of(dataset, s) for s in SPLITS))) == sorted(wanted)
