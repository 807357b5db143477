"""metrics.jsonl: one JSON object per logged step, appended, and cut back on resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from music_map.errors import disk_errors
from music_map.storage import write_text


class MetricsLog:
    """Appends to a file of JSON lines; each line has a "step".

    Args:
      path: the file.
      writes: False in all but one of several processes: the file is left alone.
    """

    def __init__(self, path: Path, *, writes: bool = True):
        self.path = path
        self._writes = writes

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a last line that a killed process left half written is passed over."""
        if not self.path.exists():
            return []
        lines = []
        for line in self.path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return lines

    def resume(self, step: int) -> None:
        """Drops the lines after `step`: the resumed run writes them again."""
        if not self._writes:
            return
        kept = [line for line in self.read() if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, line: dict[str, Any]) -> None:
        """Appends one line."""
        if not self._writes:
            return
        with disk_errors(self.path), open(self.path, "a") as f:
            f.write(json.dumps(line) + "\n")
