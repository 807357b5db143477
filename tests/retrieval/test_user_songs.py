"""What users heard and dislike, over all splits, against a search of every event."""

from pathlib import Path

from raw_logs import random_log, write_logs

from music_map.preprocess.build import build_dataset, plan_dataset
from music_map.preprocess.dataset import DISLIKE, LISTEN, SPLITS
from music_map.preprocess.settings import PreprocessSettings
from music_map.retrieval.export import user_songs_of


def test_user_songs_are_those_of_all_splits(tmp_path: Path) -> None:
    log = random_log(5)
    # Taken back long after, some in another split, and given again by the log's other dislikes.
    log["undislikes"] = [(u, t + 3 * 86_400 * (n % 3), i, o) for n, (u, t, i, o) in enumerate(log["dislikes"][::2])]
    write_logs(tmp_path, **log)
    settings = PreprocessSettings(min_interactions=1, chunk_size=100)
    dataset = build_dataset(plan_dataset(settings, source=tmp_path, processed_dir=tmp_path / "processed"))
    events = [row for split in SPLITS for row in zip(*map(list, dataset.events(split)), strict=True)]
    taken = [row for split in SPLITS for row in zip(*map(list, dataset.withdrawals(split)), strict=True)]
    found = user_songs_of(dataset)
    some_taken = 0
    for user in range(dataset.num_users):
        mine = [row for row in events if row[0] == user]
        assert found.heard_by(user).tolist() == sorted({row[1] for row in mine if row[3] != DISLIKE})
        dislikes = {row[1:3] for row in mine if row[3] == DISLIKE}
        back = [row for row in taken if row[0] == user and row[3] == DISLIKE]
        standing = {item for item, time in dislikes if not any(w[1] == item and w[2] >= time for w in back)}
        assert found.disliked_by(user).tolist() == sorted(standing)
        some_taken += len({item for item, _ in dislikes} - standing)
    assert some_taken > 5 and len(found.disliked) > 5 and any(row[3] == LISTEN for row in events)
