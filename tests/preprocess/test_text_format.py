"""The text format: pairs, merged splits, bad tokens."""

from pathlib import Path

import numpy as np
import pytest

from music_map.errors import UserError
from music_map.preprocess.build import build_dataset, plan_dataset
from music_map.preprocess.dataset import Dataset
from music_map.preprocess.settings import PreprocessSettings
from music_map.preprocess.text import cut_validation

TRAIN, VALID, TEST = "10 3 1 3\n7 1\n", "7 3\n10\n", "10 9 1\n\n20 3\n"


def build(folder: Path, texts: tuple[str, str, str] = (TRAIN, VALID, TEST), *, train_on_val: bool = False) -> Dataset:
    for name, text in zip(("train", "valid", "test"), texts, strict=True):
        (folder / f"{name}.txt").write_text(text)
    settings = PreprocessSettings(format="text", train_on_val=train_on_val, chunk_size=2)
    return build_dataset(plan_dataset(settings, source=folder, processed_dir=folder / "processed"))


def pairs(dataset: Dataset, split: str) -> list[tuple[int, int]]:
    events = dataset.events(split)
    users, items = dataset.user_ids[events.user], dataset.item_ids[events.item]
    return list(zip(users.tolist(), items.tolist(), strict=True))


def test_pairs_by_split(tmp_path: Path) -> None:
    dataset = build(tmp_path)
    assert dataset.user_ids.tolist() == [7, 10, 20] and dataset.item_ids.tolist() == [1, 3, 9]
    assert pairs(dataset, "train") == [(7, 1), (10, 1), (10, 3)]
    assert pairs(dataset, "val") == [(7, 3)]
    assert pairs(dataset, "test") == [(10, 1), (10, 9), (20, 3)]
    test = dataset.events("test")
    assert set(test.timestamp.tolist()) == {2} and set(test.played_pct.tolist()) == {100}
    assert set(test.is_organic.tolist()) == {1} and set(test.kind.tolist()) == {0}
    assert dataset.train_end == 0 and dataset.stats["total_interactions"] == 7
    assert dataset.item_features().audio.shape == (0, 128)
    assert len(dataset.withdrawals("train").user) == 0


def test_train_on_val_merges_each_pair_once(tmp_path: Path) -> None:
    dataset = build(tmp_path, (TRAIN, "7 3 1\n", TEST), train_on_val=True)
    assert pairs(dataset, "train") == [(7, 1), (7, 3), (10, 1), (10, 3)]
    assert set(dataset.events("train").timestamp.tolist()) == {0}
    assert pairs(dataset, "val") == []


@pytest.mark.parametrize("token", ["x", "-1", "1.0", "4294967296", "1_0", "+1"])
def test_bad_token_is_named_by_line(tmp_path: Path, token: str) -> None:
    with pytest.raises(UserError) as caught:
        build(tmp_path, (f"10 3\n\n7 {token}\n", VALID, TEST))
    assert str(caught.value).startswith(f"{tmp_path / 'train.txt'}: line 3: {token!r} is no integer in 0..4294967295")


def test_without_valid_txt_validation_is_a_part_of_train(tmp_path: Path) -> None:
    train = "".join(f"{user} {' '.join(str(user * 7 + n) for n in range(20))}\n" for user in range(60))
    for name, text in (("train", "\ufeff" + train), ("test", TEST)):
        (tmp_path / f"{name}.txt").write_text(text)
    whole = [(user, user * 7 + n) for user in range(60) for n in range(20)]
    for train_on_val in (False, True):
        settings = PreprocessSettings(format="text", train_on_val=train_on_val)
        plan = plan_dataset(settings, source=tmp_path, processed_dir=tmp_path / "processed")
        assert len(plan.warnings) == 1 and "valid.txt is missing; validation is" in plan.warnings[0]
        dataset = build_dataset(plan)
        cut = pairs(dataset, "val")
        assert sorted(pairs(dataset, "train") + cut) == whole
        assert cut == [] if train_on_val else 60 < len(cut) < 180
    assert (
        cut_validation(np.array([5, 6], np.uint64)).tolist()
        == cut_validation(np.array([5, 6, 7], np.uint64))[:2].tolist()
    )


def test_an_empty_valid_txt_is_no_fault_where_it_is_part_of_train(tmp_path: Path) -> None:
    assert pairs(build(tmp_path, (TRAIN, "", TEST), train_on_val=True), "val") == []


def test_missing_file_and_empty_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"valid.txt: has no item, so the val split would be empty"):
        build(tmp_path, (TRAIN, "10\n", TEST))
    (tmp_path / "test.txt").unlink()
    with pytest.raises(UserError, match=r"test.txt: no such file; point --config.data.path"):
        plan_dataset(PreprocessSettings(format="text"), source=tmp_path, processed_dir=tmp_path / "p")
