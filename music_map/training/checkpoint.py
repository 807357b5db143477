"""Orbax checkpoints with checksums: asynchronous and atomic, the latest ones and the best one kept.

FOLDER/<step>/            an Orbax checkpoint: "state" (arrays), "progress" (JSON), "metrics" (its improvement number)
FOLDER/sha256/<step>.json its record, written once the checkpoint is whole: sha256 of each file, the improvement, the
                          run that it belongs to, and the record's own sha256
FOLDER/damaged-<step>/    a checkpoint whose files did not match, set aside

Orbax writes and reads the arrays, with one process or several. It keeps no checksums of its files, and its manager
reads a file of every checkpoint when it opens a folder, so one damaged file would stop all work. Therefore this module
decides which checkpoints exist, whether they are whole and which to keep. Orbax reads a checkpoint only if all of its
files match their checksums.

With several processes, every process calls the same methods. Each writes and reads the rows of its own devices. Only
the first one makes folders, writes records and decides.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from music_map import processes
from music_map.errors import DamagedFileError, UserError, disk_error, disk_errors
from music_map.storage import (
    check_form,
    file_sha256,
    parse_json,
    read_bytes,
    read_json,
    remove_aside,
    sealed,
    sweep,
    unsealed,
    write_json,
)

_FULL = ("no space left", "resource_exhausted", "file too large", "disk quota", "requested and")
_TEMPORARY = "*.orbax-checkpoint-tmp*"  # Orbax's name of a checkpoint that is not yet whole
_RECORD = {"improvement": int, "run": str, "files": {str: str}, "sha256": str}
_SMALL = 1 << 16  # a generous bound on the bytes of a checkpoint's files besides the arrays


def _note_nothing(message: str) -> None:
    del message


class CheckpointStore:
    """The checkpoints of one run.

    Args:
      folder: where they are; made on the first save.
      keep: how many of the latest checkpoints to keep besides the best.
      warn: called with one line for each damaged or missing checkpoint that is passed over.
      read_only: nothing in the folder is changed; for a run that may still be training.
      run: fingerprint of the run, stored with each checkpoint. A checkpoint of another run counts as damaged. "": no
        comparison.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 2,
        warn: Callable[[str], None] = _note_nothing,
        read_only: bool = False,
        run: str = "",
    ):
        self.folder = folder.absolute()
        self._keep = keep
        self._read_only = read_only
        self._run = run
        self._warn = warn
        self._unsealed: tuple[int, int] | None = None  # the step in flight and its improvement
        self._hashes: _Hashes | None = None  # of the files of that step
        self._orbax: ocp.AsyncCheckpointer | None = None
        if not read_only:
            processes.once(self._make_folder)
        self._steps: list[int] = processes.from_first(self._listed())

    def _make_folder(self) -> None:
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Files that killed saves left behind.
            for stale in self.folder.glob(_TEMPORARY):
                shutil.rmtree(stale, ignore_errors=True)
            sweep(self.folder)

    def _listed(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        # Orbax renames a checkpoint to its step when it is whole.
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdecimal() and p.is_dir())

    def _checkpointer(self) -> ocp.AsyncCheckpointer:
        if self._orbax is None:
            _quiet_threads()
            self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), timeout_secs=600)
        return self._orbax

    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending, with the one that is being saved."""
        return list(self._steps)

    def save(self, step: int, state: Any, progress: dict[str, Any], *, improvement: int = -1) -> None:
        """Starts saving; the arrays are copied before this returns, so they may be donated.

        Args:
          step: steps done.
          state: pytree of arrays.
          progress: JSON-able; "best_step", if present, is the step of the best checkpoint so far.
          improvement: running number of this improvement of the validation metric, -1 if it is none. The checkpoint
            with the highest number is kept as the best.

        Raises:
          UserError: the disk is full, for this save or for the previous one, which ran in the background.
        """
        self.wait()
        processes.once(lambda: self._check_space(step, state))
        with self._saving(step):
            self._checkpointer().save(
                self.folder / str(step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    progress=ocp.args.JsonSave(progress),
                    metrics=ocp.args.JsonSave({"improvement": improvement}),
                ),
            )
        self._unsealed = step, improvement
        if processes.first():
            self._hashes = _Hashes(self.folder / str(step))
        self._steps = sorted({*self._steps, step})

    def _check_space(self, step: int, state: Any) -> None:
        """Raises UserError if the disk has no room. Orbax would only notice later, in one of its threads."""
        wanted = sum(x.nbytes for x in jax.tree.leaves(state)) + _SMALL
        if shutil.disk_usage(self.folder).free < wanted:
            raise self._full(step)

    def wait(self) -> None:
        """Waits for the save in flight and records its checksums."""
        if self._unsealed is None:
            return
        (step, improvement), self._unsealed = self._unsealed, None
        with self._saving(step), contextlib.closing(self._hashes) if self._hashes else contextlib.nullcontext():
            self._checkpointer().wait_until_finished()
            self._checkpointer().check_for_errors()
            processes.once(lambda: self._seal(step, improvement))
            self._steps = processes.from_first(self._listed())

    def _seal(self, step: int, improvement: int) -> None:
        """Writes the record of a checkpoint and deletes those that need not be kept."""
        with self._saving(step):
            record = {"improvement": improvement, "run": self._run, "files": self._hashes.found()}
            write_json(self._sums(step), sealed(record))
            steps = self._listed()
            improvements = {s: self._improvement(s) for s in steps}
            best = max(steps, key=lambda s: (_rank(improvements[s]), s))
            for s in steps[: -self._keep]:
                # A checkpoint whose rank is unknown is not deleted.
                if s != best and improvements[s] is not None:
                    remove_aside(self.folder / str(s))
                    self._sums(s).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _saving(self, step: int) -> Iterator[None]:
        """Turns Orbax's errors on a full disk into a UserError that names the checkpoint that is kept."""
        try:
            yield
        except UserError:
            raise
        except Exception as e:
            errors = (e, e.__cause__, e.__context__)
            if any(word in str(one).lower() for one in errors for word in _FULL):
                raise self._full(step) from e
            if isinstance(e, OSError) and (told := disk_error(e, self.folder)):
                raise told from e
            raise

    def _full(self, step: int) -> UserError:
        kept = [s for s in self._listed() if s != step]
        return UserError(
            f"{self.folder}: no space left on the disk for the checkpoint of step {step}; "
            + (f"the checkpoint of step {kept[-1]} is kept. " if kept else "")
            + "Free some space and run the same command again"
        )

    def close(self) -> None:
        """Waits for the save in flight and ends Orbax's threads."""
        try:
            self.wait()
        finally:
            if self._orbax is not None:
                self._orbax.close()
                self._orbax = None

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # After an error, another process may be gone: a save that waits for it would never end.
        if error is None or processes.count() == 1:
            self.close()

    def _sums(self, step: int) -> Path:
        return self.folder / "sha256" / f"{step}.json"

    def _record(self, step: int) -> dict[str, Any] | None:
        """A checkpoint's record, or None if it has none. Raises DamagedFileError."""
        path = self._sums(step)
        if not path.exists():
            return None
        stored = read_json(path, dict)
        if "files" not in stored:  # earlier versions recorded the checksums alone
            check_form(stored, {str: str}, path)
            return {"files": stored}
        check_form(stored, _RECORD, path)
        return unsealed(stored, path)

    def _check(self, step: int) -> None:
        """Raises DamagedFileError naming the first file that differs; a checkpoint without a record passes."""
        record, root = self._record(step), self.folder / str(step)
        if record is None:
            return
        if self._run and record.get("run") not in (None, "", self._run):
            raise DamagedFileError(f"{root}: this checkpoint belongs to another run")
        for name, wanted in record["files"].items():
            path = root / name
            if not path.is_file():
                raise DamagedFileError(f"{path}: missing from the checkpoint of step {step}")
            if _sha256_of(path) != wanted:
                raise DamagedFileError(f"{path}: damaged (its checksum differs), in the checkpoint of step {step}")
        known = record["files"].keys()
        for path in sorted(root.rglob("*")):
            if path.is_file() and str(path.relative_to(root)) not in known and not path.name.startswith("."):
                raise DamagedFileError(f"{path}: does not belong to the checkpoint of step {step}")

    def _damage(self, step: int) -> str:
        """What is wrong with a checkpoint; "" if nothing is."""
        try:
            self._check(step)
        except DamagedFileError as e:
            return str(e)
        return ""

    def _improvement(self, step: int) -> int | None:
        """The number of the improvement that a checkpoint is, -1 for none; None if the file with it is damaged."""
        try:
            record = self._record(step) or {"files": {}}
            if "improvement" in record:
                return record["improvement"]
            # The process was killed before it wrote the record, or an earlier version wrote the checkpoint.
            for name in ("metrics/metadata", "metrics/metrics"):
                path = self.folder / str(step) / name
                if path.is_file() and _sha256_of(path) == record["files"].get(name, _sha256_of(path)):
                    found = parse_json(read_bytes(path), path)
                    check_form(found, {"improvement": int}, path)
                    return found["improvement"]
        except DamagedFileError:
            pass
        return None

    def best_first(self) -> list[int]:
        """Steps in the order to try for an evaluation: the best, then the others, latest first."""
        steps = self.steps()
        improvements = {s: self._improvement(s) for s in steps}
        return sorted(steps, key=lambda s: (_rank(improvements[s]), s), reverse=True)

    def restore(self, like: Any, *, best: bool = False) -> tuple[int, Any, dict[str, Any]] | None:
        """Loads the latest checkpoint that is undamaged, or the best one.

        Args:
          like: pytree of arrays or shapes of the state; None: take the stored shapes.
          best: load the best by validation instead of the latest.

        Returns:
          (step, state, progress), or None if there is no checkpoint.

        Raises:
          DamagedFileError: all checkpoints are damaged; the message names the first damage.
        """
        order = processes.from_first(self.best_first() if best else self.steps()[::-1])
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        damage: list[str] = []
        for step in order:
            # Only one process compares the checksums: otherwise each would read the files of all.
            found = processes.from_first(self._damage(step) if processes.first() else "")
            restored = None
            if not found:
                try:
                    restored = self._checkpointer().restore(
                        self.folder / str(step),
                        args=ocp.args.Composite(
                            state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
                        ),
                    )
                except (ValueError, KeyError, OSError, TypeError) as e:
                    # Orbax and tensorstore raise many kinds of error for a file that cannot be read.
                    found = f"{self.folder / str(step)}: cannot be read ({' '.join(str(e).split())[:200]})"
                if not processes.any_says(bool(found)):
                    if best:
                        self._warn_of_another(step, restored["progress"].get("best_step"), damage)
                    return step, restored["state"], restored["progress"]
                found = found or f"{self.folder / str(step)}: cannot be read by another process"
            damage.append(found)
            self._warn(f"{damage[-1]}; trying the one before")
        if damage:
            raise DamagedFileError(
                f"{damage[0]}, and no other checkpoint is whole; delete {self.folder} and train again"
            )
        return None

    def _warn_of_another(self, step: int, wanted: int | None, damage: list[str]) -> None:
        """Warns if the best checkpoint is, or may be, another than the restored one.

        Args:
          step: of the restored checkpoint.
          wanted: the best one by the restored checkpoint's progress; None: it does not know.
          damage: warnings that were given.
        """
        if damage:
            return
        if wanted in (None, step):
            later = [s for s in self._steps if s > step or (wanted is None and s < step)]
            unknown = processes.from_first([s for s in later if self._improvement(s) is None])
            why = f"{self._sums(unknown[-1])}: damaged, and its checkpoint may be the best" if unknown else ""
        else:
            found = processes.from_first(self._damage(wanted) if wanted in self._steps else "")
            why = found or f"{self.folder / str(wanted)}: the best checkpoint is missing"
        if why:
            self._warn(
                f"{why}; the checkpoint of step {step} is used instead and gives other figures: put the best one back "
                "from a copy"
            )

    def discard_after(self, step: int | None) -> None:
        """Sets aside the checkpoints after `step` (None: all of them): a resumed run writes those steps again."""
        late = processes.from_first([s for s in self.steps() if step is None or s > step])
        if not late:
            return

        def set_aside() -> None:
            with disk_errors(self.folder):
                for s in late:
                    aside = self._free_name(f"damaged-{s}")
                    os.replace(self.folder / str(s), aside)
                    if self._sums(s).exists():
                        os.replace(self._sums(s), self._sums(s).with_name(f"{aside.name}.json"))

        processes.once(set_aside)
        self._steps = processes.from_first(self._listed())

    def _free_name(self, name: str) -> Path:
        names = (name, *(f"{name}-{n}" for n in range(2, 1_000)))
        return next(path for path in map(self.folder.joinpath, names) if not path.exists())


class _Hashes:
    """The sha256 of the files of a checkpoint, computed in a thread as soon as Orbax has given the folder its name.

    So the next steps of training do not wait for them. A file that has changed since is read again.
    """

    def __init__(self, root: Path):
        self._root, self._ended = root, threading.Event()
        self._early: dict[Path, tuple[tuple[int, int], str]] = {}
        self._thread = threading.Thread(target=self._hash_when_whole, name="checksums", daemon=True)
        self._thread.start()

    def _hash_when_whole(self) -> None:
        while not self._root.is_dir():
            if self._ended.wait(0.05):
                return
        with contextlib.suppress(OSError):  # `found` reads the file again
            for path in _files_below(self._root):
                self._early[path] = _identity(path), file_sha256(path)

    def found(self) -> dict[str, str]:
        """By path below the folder; call it when the checkpoint is whole."""
        self.close()
        self._thread.join()
        hashes = {}
        for path in _files_below(self._root):
            identity, digest = self._early.get(path, (None, ""))
            hashes[str(path.relative_to(self._root))] = digest if identity == _identity(path) else file_sha256(path)
        return hashes

    def close(self) -> None:
        self._ended.set()


def _files_below(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.is_file()]


def _identity(path: Path) -> tuple[int, int]:
    """Size and time of change of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _rank(improvement: int | None) -> int:
    return -2 if improvement is None else improvement


def _sha256_of(path: Path) -> str:
    """A file's sha256. Raises DamagedFileError where it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as e:
        raise DamagedFileError(f"{path}: cannot be read ({e.strerror}); check its permissions and the disk") from e


@functools.cache
def _quiet_threads() -> None:
    """Silences the pages of tracebacks that Orbax's threads print for errors; `wait` raises these errors anyway.

    The effect lasts until the process ends, because threads of a failed save may print at any time.
    """
    in_threads, in_native_code = threading.excepthook, sys.unraisablehook

    def keep(record: logging.LogRecord) -> bool:
        # asyncio reports errors of a failed save's writes from a file of its own. Only the traceback names Orbax, and
        # where nobody waits for the write any more, there is none: then the error's text says that the disk is full.
        trace = "" if not record.exc_info else "".join(traceback.format_exception(*record.exc_info))
        full = record.name == "asyncio" and any(word in trace.lower() for word in _FULL)
        return not full and f"{os.sep}orbax{os.sep}" not in record.pathname + trace

    def ended(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError):
            in_threads(args)

    def unraisable(args: Any) -> None:
        # tensorstore raises this when a write ends after the event loop of a failed save.
        if str(args.exc_value) != "Event loop is closed":
            in_native_code(args)

    for name in ("absl", "asyncio", "concurrent.futures"):
        logging.getLogger(name).addFilter(keep)
    # The writes that a failed save did not come to; Python tells of them when it collects them, at exit for instance.
    warnings.filterwarnings("ignore", r"coroutine 'async_serialize.*' was never awaited", RuntimeWarning)
    threading.excepthook, sys.unraisablehook = ended, unraisable
