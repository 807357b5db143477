"""Songs held out altogether: which they are, and that nothing which learns sees an event of theirs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from raw_logs import random_log, write_logs

from music_map.errors import UserError
from music_map.graph.build import build_graph
from music_map.graph.settings import GraphSettings
from music_map.preprocess.build import build_dataset, plan_dataset
from music_map.preprocess.cold import held_out_songs, validation_users
from music_map.preprocess.dataset import SPLITS, Dataset
from music_map.preprocess.settings import PreprocessSettings

WARM = PreprocessSettings(min_interactions=2, chunk_size=400)
COLD = dataclasses.replace(WARM, cold_item_fraction=0.25)


def build(raw: Path, settings: PreprocessSettings) -> Dataset:
    return build_dataset(plan_dataset(settings, source=raw, processed_dir=raw / "processed"))


def rows(*parts: tuple[np.ndarray, ...]) -> list[tuple[int, ...]]:
    return sorted(row for part in parts for row in zip(*(c.tolist() for c in part), strict=True))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_logs(tmp_path_factory.mktemp("raw"), **random_log(3))


def test_a_songs_lot_depends_on_its_id_and_the_seed_alone() -> None:
    ids = np.arange(5, 200_000, 7, dtype=np.uint32)
    held_out = held_out_songs(ids, fraction=0.1, seed=0)
    # Standard deviation of the share: sqrt(0.1 * 0.9 / 28571) = 0.0018.
    assert abs(held_out.mean() - 0.1) < 0.007
    some = np.random.default_rng(0).permutation(len(ids))[:500]
    np.testing.assert_array_equal(held_out_songs(ids[some], fraction=0.1, seed=0), held_out[some])
    assert not np.any(held_out & ~held_out_songs(ids, fraction=0.2, seed=0))
    other = held_out_songs(ids, fraction=0.1, seed=1)
    assert abs((held_out & other).mean() - 0.01) < 0.003
    assert abs(validation_users(ids).mean() - 0.5) < 0.012
    assert abs((held_out & validation_users(ids)).mean() - 0.05) < 0.006


def test_none_or_all_is_refused() -> None:
    ids = np.arange(4, dtype=np.uint32)
    assert not held_out_songs(ids, fraction=0.0, seed=0).any()
    with pytest.raises(UserError, match=r"cold_item_fraction=1e-09 holds out 0 of 4 songs; choose another"):
        held_out_songs(ids, fraction=1e-9, seed=0)
    with pytest.raises(UserError, match="holds out 4 of 4"):
        held_out_songs(ids, fraction=0.9999, seed=0)
    with pytest.raises(UserError, match=r"cold_item_fraction=1\.0: must be at least 0 and below 1"):
        PreprocessSettings(cold_item_fraction=1.0)
    with pytest.raises(UserError, match="text format has no audio or metadata"):
        PreprocessSettings(format="text", cold_item_fraction=0.1)


@pytest.mark.parametrize("train_on_val", [False, True])
def test_every_event_of_a_held_out_song_is_apart(raw: Path, train_on_val: bool) -> None:
    warm, cold = (build(raw, dataclasses.replace(s, train_on_val=train_on_val)) for s in (WARM, COLD))
    held_out = cold.held_out_items()
    assert 0 < held_out.sum() < len(held_out)
    np.testing.assert_array_equal(warm.item_ids, cold.item_ids)
    hidden = []
    for split in SPLITS:
        before, after = warm.events(split), cold.events(split)
        stays = ~held_out[before.item]
        assert rows(after) == rows(tuple(column[stays] for column in before))
        assert cold.stats[f"{split}_size"] == len(after.user)
        assert not held_out[cold.withdrawals(split).item].any()
        hidden.append(tuple(column[~stays] for column in before))
    val, test = cold.held_out_events("val"), cold.held_out_events("test")
    assert rows(val, test) == rows(*hidden) and cold.stats["held_out_size"] == len(val.user) + len(test.user)
    assert len(val.user) and len(test.user) and not set(val.user) & set(test.user)
    assert cold.train_end == cold.events("train").timestamp.max()
    assert not warm.held_out_items().any()


def test_nothing_is_learned_of_them(raw: Path) -> None:
    dataset = build(raw, COLD)
    held_out = dataset.held_out_items()
    graph, _ = build_graph(dataset, GraphSettings())
    assert not held_out[graph.item].any() and not held_out[graph.negative_item].any()
    assert not dataset.item_features().track_seconds[held_out].any()
    # What a song is stays known: half of all songs have audio.
    features = dataset.item_features()
    assert (features.audio_row[held_out] >= 0).any()


def test_without_them_a_data_set_is_what_it_was(raw: Path) -> None:
    assert WARM.identity().keys() == PreprocessSettings.__dataclass_fields__.keys() - {
        "cold_item_fraction", "cold_item_seed",
    }  # fmt: skip
    warm = build(raw, WARM)
    assert "held_out" not in warm.store.arrays and not {"num_held_out_items", "held_out_size"} & warm.stats.keys()
    prints = {build(raw, dataclasses.replace(COLD, cold_item_seed=seed)).fingerprint for seed in (0, 1)}
    assert len(prints | {warm.fingerprint}) == 3
