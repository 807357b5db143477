"""Writes columns, which arrive piece by piece, as shards of a fixed number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future

import numpy as np

from music_map.storage import ArrayFolder, ArrayWriter


class ShardWriter:
    """Writes `PREFIXCOLUMN-00000.npy`, `PREFIXCOLUMN-00001.npy`, ... of `chunk_size` rows each, the last one shorter.

    Holds at most two shards and the piece just appended. There is at least one shard, which may be empty.

    Args:
      writer: the folder to write into.
      prefix: the beginning of the names, e.g. "train/".
      columns: names of the columns.
      dtypes: their types.
      chunk_size: rows per shard.
      first_row: number of rows in other folders that precede those of this writer. The first shard here completes their
        unfinished last one, so all later shards are whole shards of the joined rows.
      pool: writes full shards in the background; None: they are written at once.
    """

    def __init__(
        self,
        writer: ArrayWriter,
        prefix: str,
        columns: Sequence[str],
        dtypes: Sequence[type],
        *,
        chunk_size: int,
        first_row: int = 0,
        pool: Executor | None = None,
    ):
        self._writer = writer
        self._prefix = prefix
        self._columns = columns
        self._dtypes = dtypes
        self._chunk_size = chunk_size
        self._end = chunk_size - first_row % chunk_size
        self._pool = pool
        self._writing: list[Future[None]] = []
        self._buffers = self._new_buffers()
        self._filled = 0
        self.num_shards = 0
        self.num_rows = 0

    def append(self, columns: Sequence[np.ndarray]) -> None:
        """Adds rows: one array per column, all of the same length."""
        start, rows = 0, len(columns[0])
        self.num_rows += rows
        while start < rows:
            count = min(rows - start, self._end - self._filled)
            for buffer, column in zip(self._buffers, columns, strict=True):
                buffer[self._filled : self._filled + count] = column[start : start + count]
            self._filled += count
            start += count
            if self._filled == self._end:
                self._flush()

    def adopt(self, store: ArrayFolder, shard: int) -> None:
        """Adds a shard with the same columns and prefix from another folder. Its files are linked if they fit, else its
        rows are copied.

        Raises:
          DamagedFileError: rows to copy are missing or damaged.
        """
        names = [f"{self._prefix}{name}-{shard:05d}" for name in self._columns]
        rows = store.arrays[names[0]]["shape"][0]
        if self._filled or rows != self._chunk_size:
            self.append([store.load(name) for name in names])
            return
        for column, name in zip(self._columns, names, strict=True):
            self._writer.adopt(self._name(column), store, name)
        self.num_shards += 1
        self.num_rows += rows

    def finish(self) -> int:
        """Writes the remaining rows; returns the number of shards."""
        if self._filled or self.num_shards == 0:
            self._flush()
        self._wait()
        return self.num_shards

    def _new_buffers(self) -> list[np.ndarray]:
        return [np.empty(self._chunk_size, dtype) for dtype in self._dtypes]

    def _name(self, column: str) -> str:
        return f"{self._prefix}{column}-{self.num_shards:05d}"

    def _flush(self) -> None:
        self._wait()
        for column, buffer in zip(self._columns, self._buffers, strict=True):
            rows = buffer[: self._filled]
            if self._pool is None:
                self._writer.write(self._name(column), rows)
            else:
                self._writing.append(self._pool.submit(self._writer.write, self._name(column), rows))
        if self._pool is not None:
            self._buffers = self._new_buffers()
        self.num_shards += 1
        self._filled = 0
        self._end = self._chunk_size

    def _wait(self) -> None:
        for future in self._writing:
            future.result()
        self._writing = []
