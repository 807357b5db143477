"""metrics.jsonl: one JSON object per logged step. Lines are appended; a resumed run cuts the file back first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from music_map.errors import DamagedFileError, disk_errors
from music_map.storage import check_form, parse_json, read_bytes, write_text


def _silent(text: str) -> None:
    del text


class MetricsLog:
    """Appends to a file of JSON lines; each line has a "step".

    Args:
      path: the file.
      writes: False in all processes but one: these leave the file alone.
      warn: called with one line if the file has damaged lines.
    """

    def __init__(self, path: Path, *, writes: bool = True, warn: Callable[[str], object] = _silent):
        self.path = path
        self._writes = writes
        self._warn = warn

    def read(self) -> list[dict[str, Any]]:
        """All whole lines. Damaged lines are skipped with a warning. An unfinished last line, which a killed process
        leaves, is skipped without one.

        Raises:
          DamagedFileError: the file cannot be read, or is a folder.
        """
        if not self.path.exists():
            return []
        whole, _, _ = read_bytes(self.path).rpartition(b"\n")
        lines, damaged = [], []
        for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
            try:
                found = parse_json(line, self.path)
                check_form(found, {"step": int}, self.path)
                lines.append(found)
            except DamagedFileError:
                damaged.append(number)
        if damaged:
            many = (
                f"lines {damaged[0]} and {len(damaged) - 1} others are" if len(damaged) > 1 else f"line {damaged[0]} is"
            )
            self._warn(f"{self.path}: {many} damaged and skipped; the other {len(lines)} are kept")
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
