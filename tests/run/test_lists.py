import numpy as np

from music_map.run.lists import KeptLists
from music_map.runfiles import RunFiles


def test_lists_are_ranked_again_only_where_what_they_depend_on_differs_or_the_file_is_damaged(tmp_path):
    calls = []

    def rank() -> np.ndarray:
        calls.append(1)
        return np.full((2, 3), len(calls), np.int32)

    def get(of: str, scorer: int) -> int:
        return int(KeptLists(RunFiles(tmp_path), of).get("model", scorer, rank)[0, 0])

    assert get("task", 1) == get("task", 1) == 1
    assert get("task", 2) == 2 and get("other", 2) == 3 and get("other", 2) == 3
    file = tmp_path / "lists/model/songs.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x09")
    assert get("other", 2) == 4
