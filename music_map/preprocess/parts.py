"""Preprocessing by several workers that share only a folder: each processes one of n ranges of users, and one merges.

    count    every part counts its users, songs and times                                        count-0/part-I
    write    every part adds up all counts, decides like a single process, writes its shards     write/part-I
    merge    the shards become one data set, the item files are read

A part can only do a step after all parts have done the step before. A k-core adds a count per round between the two
(count-1, ...), and so does a filter that may drop more rows than the first count could keep. Each part knows from the
counts how many rows precede its own, and cuts its shards where a single process would. So merging links files and
copies only the rows at the boundaries of parts. The result equals that of a single process byte for byte.

Results of steps are kept below processed_dir/parts-FINGERPRINT-of-N until the merge: a failed step is run again, a
finished one is not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from music_map.errors import UserError, require
from music_map.lock import writing_file
from music_map.preprocess.build import DatasetPlan, find_dataset, finish_dataset
from music_map.preprocess.dataset import SPLITS, Dataset
from music_map.preprocess.events import EventShards, Written, see_track_seconds, write_events
from music_map.preprocess.filtering import Census, Counts, Filter, Rows, Tally, count_left, select, take_census
from music_map.preprocess.logs import Layout, logs_meta, plan_layout, write_features
from music_map.preprocess.splits import Cutoffs
from music_map.raw.reader import BATCH_ROWS, EventTable, open_events, user_ranges
from music_map.reporter import Progress, silent
from music_map.storage import MANIFEST, ArrayFolder, ArrayWriter, fingerprint, new_folder

_FIRST_COUNT = "count-0"
_WRITE = "write"


class _Unfinished(Exception):
    """Raised if a step must be done first."""

    def __init__(self, step: str, kept: Filter):
        super().__init__(step)
        self.step = step
        self.kept = kept


class _Steps:
    """The finished steps of the parts, one folder per step and part."""

    def __init__(self, plan: DatasetPlan, of: int):
        self._plan = plan
        self.of = of
        self.folder = plan.processed_dir / f"parts-{plan.fingerprint[:12]}-of-{of}"

    def find(self, step: str, part: int) -> ArrayFolder | None:
        folder = self._folder(step, part)
        if not (folder / MANIFEST).is_file():
            return None
        store = ArrayFolder.open(folder)
        return store if store.fingerprint == self._identity(step, part) else None

    def write(self, step: str, part: int, write: Callable[[ArrayWriter], dict]) -> None:
        """Makes the folder of a step, which appears only when it is whole; `write` returns its meta."""
        with new_folder(self._folder(step, part)) as folder:
            writer = ArrayWriter(folder)
            writer.finish(fingerprint=self._identity(step, part), meta=write(writer))

    def missing(self, step: str) -> list[int]:
        return [part for part in range(1, self.of + 1) if self.find(step, part) is None]

    def require(self, step: str) -> None:
        """Raises a UserError that names the parts that have not done a step."""
        if missing := self.missing(step):
            which = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            raise UserError(
                f"{self.folder}: part {which} of {self.of}: step {step} is not done; run launch/preprocess.py with "
                f"--part={missing[0]}/{self.of} and the same configuration"
            )

    def _folder(self, step: str, part: int) -> Path:
        return self.folder / step / f"part-{part}"

    def _identity(self, step: str, part: int) -> str:
        return fingerprint({"plan": self._plan.fingerprint, "step": step, "part": part, "of": self.of})


def run_part(
    plan: DatasetPlan, part: int, of: int, *, progress: Progress = silent, batch_rows: int = BATCH_ROWS
) -> str:
    """Does the next step of one part. All parts may run at the same time, in several processes or on several machines.

    Args:
      plan: from plan_dataset; processed_dir is a folder that all workers share.
      part: from 1 to `of`.
      of: number of parts; some are empty if the log has fewer users.
      progress: shows the rows read.
      batch_rows: rows of Parquet in memory at a time.
    Returns:
      The finished step: "count-0", "count-1", ... or "write"; "done" if nothing is left to do.
    Raises:
      UserError: a part has not done the step before, another process does a step of this part, or as in build_dataset.
    """
    _check(plan, part, of)
    steps = _Steps(plan, of)
    if find_dataset(plan) is not None:
        return "done"
    with writing_file(steps.folder / f"part-{part}", f"preprocess --part={part}/{of}"):
        return _run_step(plan, steps, part, progress, batch_rows)


def _run_step(plan: DatasetPlan, steps: _Steps, part: int, progress: Progress, batch_rows: int) -> str:
    if steps.find(_WRITE, part) is not None:
        return "done"
    settings, of = plan.settings, steps.of
    tables = open_events(plan.source, settings.size)
    users = user_ranges(tables, of)[part - 1]
    if steps.find(_FIRST_COUNT, part) is None:
        census = take_census(
            tables,
            min_interactions=settings.min_interactions,
            batch_rows=batch_rows,
            progress=progress,
            users=users,
        )
        steps.write(_FIRST_COUNT, part, lambda writer: _write_census(writer, census))
        return _FIRST_COUNT
    try:
        layout, lefts = _decide(steps, plan, tables)
    except _Unfinished as wanted:
        if steps.find(wanted.step, part) is not None:
            steps.require(wanted.step)
        tally = count_left(
            tables, wanted.kept, label=wanted.step, batch_rows=batch_rows, progress=progress, users=users
        )
        steps.write(wanted.step, part, lambda writer: _write_tally(writer, tally))
        return wanted.step
    first_rows = _rows_before(lefts(), part, layout.cutoffs)

    def write(writer: ArrayWriter) -> dict:
        written = write_events(
            tables,
            layout.filter,
            layout.cutoffs,
            writer,
            held_out=layout.held_out,
            chunk_size=settings.chunk_size,
            batch_rows=batch_rows,
            progress=progress,
            users=users,
            first_rows=first_rows,
        )
        writer.write("track_seconds", written.track_seconds)
        return {name: value for name, value in written._asdict().items() if name != "track_seconds"}

    steps.write(_WRITE, part, write)
    return _WRITE


def merge_parts(plan: DatasetPlan, of: int, *, progress: Progress = silent) -> Dataset:
    """Merges what `of` parts have written into the data set, and removes their folder.

    Raises:
      UserError: a part is not written, or as in build_dataset.
      DamagedFileError: a file of a part is damaged; the message names it.
    """
    _check(plan, 1, of)
    if (dataset := find_dataset(plan)) is not None:
        return dataset
    settings, steps = plan.settings, _Steps(plan, of)
    steps.require(_FIRST_COUNT)
    tables = open_events(plan.source, settings.size)
    try:
        layout, _ = _decide(steps, plan, tables)
    except _Unfinished as wanted:
        steps.require(wanted.step)
    steps.require(_WRITE)
    parts = [steps.find(_WRITE, part) for part in range(1, of + 1)]
    with new_folder(plan.folder) as folder:
        writer = ArrayWriter(folder)
        with ThreadPoolExecutor(1) as beside:
            features = beside.submit(write_features, plan.source, settings.size, layout, writer, progress=progress)
            written = _join(parts, layout, writer, chunk_size=settings.chunk_size, progress=progress)
            for name, table in tables.items():
                if written.num_read[name] != table.num_rows:
                    raise UserError(
                        f"{table.path}: the parts read {written.num_read[name]:,} of its {table.num_rows:,} rows: the "
                        "lowest and highest uid in its row groups' statistics are wrong; write the file again"
                    )
            found = features.result()
        writer.write("track_seconds", written.track_seconds)
        finish_dataset(plan, writer, logs_meta(settings, tables, layout, written, found))
    shutil.rmtree(steps.folder, ignore_errors=True)
    return Dataset.open(plan.folder)


def _check(plan: DatasetPlan, part: int, of: int) -> None:
    require(1 <= part <= of, "--part", f"{part}/{of}", "i/n with i from 1 to n")
    if plan.settings.format != "yambda":
        raise UserError(f"config.data.format={plan.settings.format!r}: only Parquet logs can be preprocessed in parts")


def _decide(
    steps: _Steps, plan: DatasetPlan, tables: dict[str, EventTable]
) -> tuple[Layout, Callable[[], Iterable[Tally]]]:
    """The layout from all parts' counts, and the remaining rows by part. Raises _Unfinished if a count is missing."""
    steps.require(_FIRST_COUNT)

    def recount(number: int, kept: Filter) -> Iterator[Tally]:
        step = f"count-{number}"
        if steps.missing(step):
            raise _Unfinished(step, kept)
        return (_read_tally(steps.find(step, part)) for part in range(1, steps.of + 1))

    kept, lefts = select(
        _Censuses(steps),
        recount,
        rule=plan.settings.filter,
        min_interactions=plan.settings.min_interactions,
        path=tables["listens"].path,
    )
    return plan_layout(kept, plan.settings), lefts


class _Censuses(Sequence[Census]):
    """The stored censuses, one in memory at a time."""

    def __init__(self, steps: _Steps):
        self._steps = steps

    def __len__(self) -> int:
        return self._steps.of

    def __getitem__(self, at: int) -> Census:
        if not 0 <= at < len(self):
            raise IndexError(at)
        store = self._steps.find(_FIRST_COUNT, at + 1)
        rows = Rows(*(store.load(f"undecided_{name}") for name in Rows._fields)) if store.meta["undecided"] else None
        return Census(_read_tally(store), rows)


def _rows_before(lefts: Iterable[Tally], part: int, cutoffs: Cutoffs) -> dict[str, int]:
    """Number of events by split that the parts before this one write."""
    before = dict.fromkeys(SPLITS, 0)
    for _, left in zip(range(part - 1), lefts, strict=False):
        split = cutoffs.assign(left.times.values)
        for at, name in enumerate(SPLITS):
            before[name] += int(left.times.counts[split == at].sum())
    return before


def _write_census(writer: ArrayWriter, census: Census) -> dict:
    if census.undecided is not None:
        for name, column in census.undecided._asdict().items():
            writer.write(f"undecided_{name}", column)
    return _write_tally(writer, census.tally) | {"undecided": census.undecided is not None}


def _write_tally(writer: ArrayWriter, tally: Tally) -> dict:
    for name, counts in tally._asdict().items():
        # Ids, seconds and their counts are unsigned 32-bit numbers, see Counter.
        writer.write(f"{name}_values", counts.values.astype(np.uint32))
        writer.write(f"{name}_counts", counts.counts.astype(np.uint32))
    return {}


def _read_tally(store: ArrayFolder) -> Tally:
    columns = ((store.load(f"{name}_{column}").astype(np.int64) for column in Counts._fields) for name in Tally._fields)
    return Tally(*(Counts(*both) for both in columns))


def _join(
    parts: Sequence[ArrayFolder], layout: Layout, writer: ArrayWriter, *, chunk_size: int, progress: Progress
) -> Written:
    """Joins the shards of the parts in order."""
    shards = EventShards(writer, chunk_size=chunk_size, held_out=bool(layout.held_out.any()))
    track_seconds = np.zeros(len(layout.kept.items), np.float32)
    ends, num_read = [], dict.fromkeys(parts[0].meta["num_read"], 0)
    with progress("merge parts", len(parts), "part") as advance:
        for store in parts:
            for name in SPLITS:
                for shard in range(store.meta["num_shards"][name]):
                    shards.events[name].adopt(store, shard)
                for shard in range(store.meta["num_withdrawn_shards"][name]):
                    shards.withdrawn[name].adopt(store, shard)
            if shards.held_out is not None:
                for shard in range(store.meta["num_held_out_shards"]):
                    shards.held_out.adopt(store, shard)
            seconds = store.load("track_seconds")
            stated = np.flatnonzero(seconds)
            see_track_seconds(track_seconds, stated, seconds[stated])
            ends.append(store.meta["train_end"])
            for name, count in store.meta["num_read"].items():
                num_read[name] += count
            advance(1)
    train_end = max((end for end in ends if end is not None), default=None)
    return shards.finish(track_seconds, train_end, num_read)
