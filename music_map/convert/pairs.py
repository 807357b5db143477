"""LightGCN's text files as rows: a pair of user and item at second 0 (train), 1 (valid) or 2 (test)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from music_map.convert.sources import Source, batches_of
from music_map.preprocess.text import TEXT_FILES, cut_validation, read_pairs


def read_lightgcn(source: Source) -> Iterator[pa.RecordBatch]:
    """Reads train.txt, valid.txt or test.txt; without a valid.txt beside it, a part of train counts as valid."""
    pairs, _ = read_pairs(source.path)
    times = np.full(len(pairs), list(TEXT_FILES.values()).index(source.path.name), np.int64)
    if source.path.name == TEXT_FILES["train"] and not source.path.with_name(TEXT_FILES["val"]).is_file():
        times[cut_validation(pairs)] = 1
    rows = zip((pairs >> np.uint64(32)).tolist(), (pairs & np.uint64(0xFFFFFFFF)).tolist(), times.tolist(), strict=True)
    named = ({"user": str(user), "item": str(item), "time": str(time)} for user, item, time in rows)
    return batches_of(enumerate(named), source)
