"""Orbax checkpoints with checksums: asynchronous and atomic, the latest ones and the best one kept.

FOLDER/<step>/            an Orbax checkpoint: "state" (arrays) and "progress" (JSON)
FOLDER/sha256/<step>.json sha256 of each of its files, written once the checkpoint is whole
FOLDER/damaged-<step>/    a checkpoint whose files did not match, set aside

Of several processes all call the same methods: each writes and reads the rows of its own devices, the first one alone
makes folders, checksums and choices.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from music_map import processes
from music_map.errors import DamagedFileError, UserError, disk_errors
from music_map.storage import file_sha256, read_json, write_json

_FULL = ("no space left", "resource_exhausted", "file too large", "disk quota")


def _note_nothing(message: str) -> None:
    del message


class CheckpointStore:
    """The checkpoints of one run.

    Args:
      folder: where they are; made on the first save.
      keep: how many of the latest to keep besides the best.
      warn: called with one line for each damaged checkpoint that is passed over.
      read_only: nothing in the folder is touched: for reading beside a run that may still be training.
    """

    def __init__(
        self, folder: Path, *, keep: int = 2, warn: Callable[[str], None] = _note_nothing, read_only: bool = False
    ):
        self.folder = folder.absolute()
        self._keep = keep
        self._read_only = read_only
        self._warn = warn
        self._unsealed: int | None = None
        if not read_only:
            processes.once(self._make_folder)
        self._manager = self._open()

    def _make_folder(self) -> None:
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def _open(self) -> ocp.CheckpointManager:
        # Ties would let Orbax keep a later checkpoint than the one called best; the running number of the
        # improvement has no ties.
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(self._keep),
                checkpoint_managers.BestN(
                    get_metric_fn=lambda m: m["improvement"], n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=lambda m: m["improvement"],  # without it Orbax does not store the metrics that the policy reads
            create=False,
            read_only=self._read_only,
            # What a killed save left behind; another process's save in flight looks the same.
            cleanup_tmp_directories=not self._read_only,
            enable_async_checkpointing=True,
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are whole, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, progress: dict[str, Any], *, improvement: int = -1) -> None:
        """Starts saving; the arrays are copied before this returns, so they may be donated.

        Args:
          step: steps done.
          state: pytree of arrays.
          progress: JSON-able.
          improvement: running number of this improvement of the validation metric, -1 where it is none; the highest
            is kept as the best.

        Raises:
          UserError: the disk is full (also for the save before, which ran in the background).
        """
        self.wait()
        with self._saving(step):
            self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)),
                metrics={"improvement": improvement},
            )
        self._unsealed = step

    def wait(self) -> None:
        """Waits for the save in flight and records its checksums."""
        if self._unsealed is None:
            return
        step, self._unsealed = self._unsealed, None
        with self._saving(step):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            processes.once(lambda: self._seal(step))

    def _seal(self, step: int) -> None:
        with self._saving(step):
            write_json(self._sums(step), self._checksums(step))
            kept = {str(s) for s in self.steps()}
            for stale in self._sums(step).parent.glob("*.json"):
                if stale.stem not in kept:
                    stale.unlink(missing_ok=True)

    def _saving(self, step: int) -> _Saving:
        return _Saving(self, step)

    def close(self) -> None:
        """Waits for the save in flight and ends Orbax's threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # After an error among several processes one may be gone: a save that waits for it would wait in vain.
        if error is None or processes.count() == 1:
            self.close()

    def _sums(self, step: int) -> Path:
        return self.folder / "sha256" / f"{step}.json"

    def _checksums(self, step: int) -> dict[str, str]:
        root = self.folder / str(step)
        return {str(p.relative_to(root)): file_sha256(p) for p in sorted(root.rglob("*")) if p.is_file()}

    def _check(self, step: int) -> None:
        """Raises DamagedFileError naming the first file that differs; a checkpoint without a record passes."""
        if not self._sums(step).exists():
            return
        root = self.folder / str(step)
        for name, wanted in read_json(self._sums(step)).items():
            path = root / name
            if not path.is_file():
                raise DamagedFileError(f"{path}: missing from the checkpoint of step {step}")
            if file_sha256(path) != wanted:
                raise DamagedFileError(f"{path}: damaged (its checksum differs), in the checkpoint of step {step}")

    def _damage(self, step: int) -> str:
        """What is wrong with a checkpoint; "" where nothing is."""
        try:
            self._check(step)
        except DamagedFileError as e:
            return str(e)
        return ""

    def best_first(self) -> list[int]:
        """Steps to evaluate with, in order: the best, then the others from the latest back."""
        steps = self.steps()
        improvements = {s: self._manager.metrics(s)["improvement"] for s in steps}
        return sorted(steps, key=lambda s: (improvements[s], s), reverse=True)

    def restore(self, like: Any, *, best: bool = False) -> tuple[int, Any, dict[str, Any]] | None:
        """Loads the latest checkpoint that is undamaged, or the best one.

        Args:
          like: pytree of arrays or shapes of the state; None where only the shapes stored are known.
          best: the best by validation instead of the latest.

        Returns:
          (step, state, progress), or None where there is no checkpoint.

        Raises:
          DamagedFileError: there are checkpoints and all are damaged; the message names the first damage.
        """
        order = processes.from_first(self.best_first() if best else self.steps()[::-1])
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        damage: list[str] = []
        for step in order:
            # One process compares the checksums: each would read every process's files.
            found = processes.from_first(self._damage(step) if processes.first() else "")
            restored = None
            if not found:
                try:
                    restored = self._manager.restore(
                        step,
                        args=ocp.args.Composite(
                            state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
                        ),
                    )
                except (ValueError, KeyError, OSError, TypeError) as e:
                    # Orbax and tensorstore say in many ways that a file cannot be read.
                    found = f"{self.folder / str(step)}: cannot be read ({' '.join(str(e).split())[:200]})"
                if not processes.any_says(bool(found)):
                    return step, restored["state"], restored["progress"]
                found = found or f"{self.folder / str(step)}: cannot be read by another process"
            damage.append(found)
            self._warn(f"{damage[-1]}; trying the one before")
        if damage:
            raise DamagedFileError(
                f"{damage[0]}, and no other checkpoint is whole; delete {self.folder} and train again"
            )
        return None

    def discard_after(self, step: int | None) -> None:
        """Sets aside the checkpoints after `step` (all for None): a resumed run writes those steps anew."""
        late = processes.from_first([s for s in self.steps() if step is None or s > step])
        if not late:
            return

        def set_aside() -> None:
            for s in late:
                os.replace(self.folder / str(s), self.folder / f"damaged-{s}")

        processes.once(set_aside)
        self._manager.close()
        self._manager = self._open()


class _Saving:
    """Turns what Orbax raises on a full disk into a UserError that says what is kept."""

    def __init__(self, store: CheckpointStore, step: int):
        self.store = store
        self.step = step

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, UserError) or not isinstance(error, Exception):
            return
        text = str(error).lower()
        if any(word in text for word in _FULL) or getattr(error, "errno", None) in (27, 28, 122):
            kept = [s for s in self.store.steps() if s != self.step]
            raise UserError(
                f"{self.store.folder}: no space left on the disk for the checkpoint of step {self.step}; "
                + (f"that of step {kept[-1]} is kept. " if kept else "")
                + "Free some space and run the same command again"
            ) from error
