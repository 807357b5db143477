"""The lines of metrics.jsonl as TensorBoard scalars, written by tensorboardX, which needs no TensorFlow."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from music_map.errors import disk_errors
from music_map.training.metrics_log import MetricsLog


class TensorBoardLog(MetricsLog):
    """metrics.jsonl, and the same numbers as TensorBoard event files.

    Args:
      path: of metrics.jsonl.
      folder: of the event files. A resumed run writes them again from the lines of metrics.jsonl that it keeps, also
        from lines that were logged without TensorBoard.
      warn: as for MetricsLog.
    """

    def __init__(self, path: Path, folder: Path, *, warn: Callable[[str], object] = print):
        super().__init__(path, warn=warn)
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def resume(self, step: int) -> None:
        super().resume(step)
        self.close()
        with disk_errors(self._folder):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._writer = SummaryWriter(str(self._folder))
            for line in self.read():
                self._add(line)
            self._writer.flush()

    def write(self, line: dict[str, Any]) -> None:
        super().write(line)
        with disk_errors(self._folder):
            self._add(line)
            self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name != "step":
                self._writer.add_scalar(name, value, line["step"])
