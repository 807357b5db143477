"""Writes columns that come piece by piece as shards of a fixed number of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from music_map.storage import ArrayWriter


class ShardWriter:
    """Writes `PREFIXCOLUMN-00000.npy`, `PREFIXCOLUMN-00001.npy`, ... of `chunk_size` rows each, the last one shorter.

    Holds at most one shard and the piece just appended. There is at least one shard, which may be empty.

    Args:
      writer: the folder to write into.
      prefix: what the names begin with, e.g. "train/".
      columns: names of the columns.
      dtypes: their types.
      chunk_size: rows per shard.
    """

    def __init__(
        self, writer: ArrayWriter, prefix: str, columns: Sequence[str], dtypes: Sequence[type], *, chunk_size: int
    ):
        self._writer = writer
        self._prefix = prefix
        self._columns = columns
        self._chunk_size = chunk_size
        self._buffers = [np.empty(chunk_size, dtype) for dtype in dtypes]
        self._filled = 0
        self.num_shards = 0
        self.num_rows = 0

    def append(self, columns: Sequence[np.ndarray]) -> None:
        """Adds rows: one array per column, all of the same length."""
        start, rows = 0, len(columns[0])
        self.num_rows += rows
        while start < rows:
            count = min(rows - start, self._chunk_size - self._filled)
            for buffer, column in zip(self._buffers, columns, strict=True):
                buffer[self._filled : self._filled + count] = column[start : start + count]
            self._filled += count
            start += count
            if self._filled == self._chunk_size:
                self._flush()

    def finish(self) -> int:
        """Writes what is left; returns the number of shards."""
        if self._filled or self.num_shards == 0:
            self._flush()
        return self.num_shards

    def _flush(self) -> None:
        for name, buffer in zip(self._columns, self._buffers, strict=True):
            self._writer.write(f"{self._prefix}{name}-{self.num_shards:05d}", buffer[: self._filled])
        self.num_shards += 1
        self._filled = 0
