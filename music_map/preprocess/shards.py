"""Writing events as shards of bounded size, column by column."""

from __future__ import annotations

import numpy as np

from music_map.storage import ArrayWriter

EVENT_DTYPES = {
    "user": np.int32,
    "item": np.int32,
    "timestamp": np.uint32,
    "kind": np.uint8,
    "is_organic": np.uint8,
    "played_pct": np.uint16,
}


class ShardWriter:
    """Gathers rows of one split and writes them out by `chunk_size` rows."""

    def __init__(self, writer: ArrayWriter, split: str, chunk_size: int):
        self._writer = writer
        self._split = split
        self._chunk_size = chunk_size
        self._pending: dict[str, list[np.ndarray]] = {name: [] for name in EVENT_DTYPES}
        self._rows = 0
        self.num_shards = 0
        self.size = 0

    def append(self, columns: dict[str, np.ndarray]) -> None:
        """Adds rows; whole shards are written at once."""
        rows = len(columns["user"])
        for name, parts in self._pending.items():
            parts.append(columns[name].astype(EVENT_DTYPES[name], copy=False))
        self._rows += rows
        self.size += rows
        if self._rows >= self._chunk_size:
            self._flush(whole_shards_only=True)

    def finish(self) -> None:
        """Writes the rest; a split without rows gets one empty shard."""
        self._flush(whole_shards_only=False)
        if self.num_shards == 0:
            self._write({name: np.zeros(0, dtype) for name, dtype in EVENT_DTYPES.items()})

    def _flush(self, *, whole_shards_only: bool) -> None:
        columns = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in self._pending.items()}
        start = 0
        while self._rows - start >= self._chunk_size or (start < self._rows and not whole_shards_only):
            stop = min(start + self._chunk_size, self._rows)
            self._write({name: column[start:stop] for name, column in columns.items()})
            start = stop
        # A copy: a view would keep the whole buffer alive.
        self._pending = {name: [column[start:].copy()] for name, column in columns.items()}
        self._rows -= start

    def _write(self, columns: dict[str, np.ndarray]) -> None:
        for name, column in columns.items():
            self._writer.write(f"{self._split}/{name}-{self.num_shards:05d}", column)
        self.num_shards += 1
