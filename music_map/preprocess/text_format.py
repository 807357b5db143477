"""The text format of the LightGCN papers: train.txt, valid.txt and test.txt, each line a user and its items."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from music_map.errors import UserError

# File of each split.
FILES = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}


def text_files(folder: Path) -> dict[str, Path]:
    """The three files by split."""
    return {split: folder / name for split, name in FILES.items()}


def read_pairs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads one file.

    Args:
      path: each line a user id and any number of item ids, separated by white space; blank lines are allowed.

    Returns:
      users and items, uint32 [n], sorted by user, then item; repeated pairs count once.

    Raises:
      UserError: a token is no id (names file and line), or the file is missing or empty.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; set config.data.path to the folder of {', '.join(FILES.values())}")
    users, items = [], []
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            try:
                row = np.array(line.split(), np.int64)
            except ValueError:
                row = np.array([-1])
            if len(row) and (row.min() < 0 or row.max() >= 2**32):
                raise UserError(
                    f"{path}: line {number} is not a user id and item ids, whole numbers from 0; mend the line"
                )
            if len(row) > 1:
                users.append(np.full(len(row) - 1, row[0]))
                items.append(row[1:])
    if not users:
        raise UserError(f"{path}: no user has an item; bring a file with lines 'user item item ...'")
    pairs = np.unique(np.stack([np.concatenate(users), np.concatenate(items)], 1), axis=0)
    return pairs[:, 0].astype(np.uint32), pairs[:, 1].astype(np.uint32)
