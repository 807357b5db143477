"""The trials of a sweep: an Optuna study in a folder. Several processes may work on it, and any may be killed.

FOLDER/sweep.json         what is searched, on which configuration and data
FOLDER/study.db           Optuna's study: SQLite
FOLDER/trials/NNN/        a workdir of launch/train.py; sweep.lock is held by the process that trains in it

A trial that is recorded as running but whose lock is free was left by a stopped or killed process; the next process
continues it from its last checkpoint. The values of trial N depend on (seed, N, earlier trials), so a sweep that was
stopped draws the same values as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from music_map.errors import DamagedFileError, UserError, disk_errors
from music_map.preprocess.dataset import Dataset
from music_map.reporter import SILENT, Reporter
from music_map.run import folder as run_folder
from music_map.run.config import Config, described, free_fields, from_stored, get, with_values
from music_map.run.run import prepare
from music_map.run.training import train_encoder
from music_map.storage import read_json, write_json
from music_map.sweep.search_space import Axis, Value
from music_map.training.loop import TrainProgress

PRUNERS = ("none", "median", "hyperband")
# First trials, which are drawn at random, and first trials, which the median never prunes.
_RANDOM_TRIALS = 10
_UNPRUNED_TRIALS = 5


@dataclasses.dataclass(frozen=True)
class Result:
    """One trial.

    Attributes:
      number: of the trial; its folder's name.
      state: "complete", "pruned", "failed", or "running" (also if it was stopped).
      value: best validation value of the metric, up to its end if it was pruned; None if it failed or runs.
      values: the searched fields.
      epochs: trained; None until it ended.
      seconds: of training, evaluation and compilation; None until it ended.
      error: why it failed, else "".
    """

    number: int
    state: str
    value: float | None
    values: dict[str, Value]
    epochs: int | None
    seconds: float | None
    error: str


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A study with what its trials share.

    Attributes:
      folder: of the sweep.
      config: the configuration that trials change.
      axes: the searched fields.
      dataset: processed events.
      seed: of the search.
      study: Optuna's.
      keep_checkpoints: keep those of trials that are not the best.
      reporter: shows each trial.
    """

    folder: Path
    config: Config
    axes: tuple[Axis, ...]
    dataset: Dataset
    seed: int
    study: optuna.Study
    keep_checkpoints: bool
    reporter: Reporter = SILENT

    def workdir(self, number: int) -> Path:
        """The folder of a trial."""
        return self.folder / "trials" / f"{number:03d}"

    def results(self) -> list[Result]:
        """All trials by number."""
        return [_result(trial) for trial in self._trials() if trial.state != TrialState.WAITING]

    def best(self) -> Result | None:
        """The complete trial with the highest value, the first of equal ones; None if there is none."""
        complete = [r for r in self.results() if r.state == "complete"]
        return max(complete, key=lambda r: (r.value, -r.number), default=None)

    def _trials(self) -> list[FrozenTrial]:
        with _database(self.folder):
            return self.study.get_trials(deepcopy=False)


@contextlib.contextmanager
def _database(folder: Path) -> Iterator[None]:
    """Turns errors of the study's database (a full disk, a damaged file) into a UserError that names it."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as e:
        root: BaseException = e
        while root.__cause__ is not None:
            root = root.__cause__
        raise UserError(
            f"{folder / 'study.db'}: cannot be read or written ({root}); free some space on the disk and give the "
            "command again, or put the file back from a copy"
        ) from e


_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def _result(trial: FrozenTrial) -> Result:
    state = _STATES.get(trial.state, "running")
    noted = trial.user_attrs
    value = trial.value if state in ("complete", "pruned") else None
    return Result(
        trial.number,
        state,
        value,
        dict(trial.params),
        noted.get("epochs"),
        noted.get("seconds"),
        noted.get("error", ""),
    )


def open_sweep(
    folder: Path,
    config: Config,
    axes: Sequence[Axis],
    dataset: Dataset,
    *,
    seed: int,
    pruner: str,
    keep_checkpoints: bool,
    reporter: Reporter = SILENT,
) -> Sweep:
    """Opens the study of a folder, or makes it.

    Raises:
      UserError: the folder holds a sweep of another configuration, search, seed or data.
    """
    with _database(folder), disk_errors(folder), _lock(folder):
        _claim(folder, config, axes, dataset, seed)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            storage=f"sqlite:///{folder / 'study.db'}",
            study_name="sweep",
            direction="maximize",
            pruner=_pruner(pruner, config),
            load_if_exists=True,
        )
        own = {axis.field: get(config, axis.field) for axis in axes}
        if not study.get_trials(deepcopy=False) and all(axis.holds(own[axis.field]) for axis in axes):
            # The first trial is the configuration as it is.
            study.enqueue_trial(own)
    return Sweep(folder, config, tuple(axes), dataset, seed, study, keep_checkpoints, reporter)


def _lock(folder: Path) -> filelock.FileLock:
    """Held briefly, while a trial is chosen or its end is recorded."""
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / "sweep.lock")


def _claim(folder: Path, config: Config, axes: Sequence[Axis], dataset: Dataset, seed: int) -> None:
    search = {axis.field: {**dataclasses.asdict(axis), "choices": list(axis.choices)} for axis in axes}
    wanted = {
        "config": described(config),
        "dataset": dataset.fingerprint,
        "search": search,
        "seed": seed,
    }
    path = folder / "sweep.json"
    if not path.exists():
        write_json(path, wanted)
        return
    stored = read_json(path)
    if not (isinstance(stored, dict) and wanted.keys() <= stored.keys()):
        raise DamagedFileError(f"{path}: is no sweep; delete {folder} to start anew")
    remedy = "choose another --output, or delete this one to start anew"
    # More patience or epochs would favour later trials.
    free = free_fields(config) - {"train.patience", "train.num_epochs", "train.min_steps"} | {a.field for a in axes}
    if difference := run_folder.first_difference(described(from_stored(stored["config"])[0]), config, but=free):
        raise UserError(f"{folder}: is a sweep with {difference}; {remedy}")
    for what in ("search", "seed"):
        if stored[what] != wanted[what]:
            raise UserError(f"{folder}: is a sweep with another --{what} ({stored[what]}); {remedy}")
    if stored["dataset"] != wanted["dataset"]:
        raise UserError(f"{folder}: is a sweep on other data; {remedy}")


def _pruner(name: str, config: Config) -> optuna.pruners.BasePruner:
    """By name; all compare the best value so far at the same epoch."""
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "median":
        warmup = config.train.num_epochs // 4
        return optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=warmup)
    first = max(config.train.num_epochs // 9, config.train.eval_every_epochs)
    return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=config.train.num_epochs)


def run(sweep: Sweep, *, total: int, should_stop: Callable[[], bool]) -> None:
    """Runs trials until the study has `total`, or should stop.

    Args:
      sweep: the study.
      total: trials of the study in any state, including those of other processes.
      should_stop: called between dispatches; the current trial saves a checkpoint and stays unfinished.

    Raises:
      UserError: the disk or the processed data fails; the current trial stays unfinished.
    """
    while not should_stop():
        with _database(sweep.folder), _next_trial(sweep, total) as trial:
            if trial is None:
                return
            _run_trial(sweep, trial, should_stop)
        # Each trial compiles programs of its own.
        jax.clear_caches()
        gc.collect()


@contextlib.contextmanager
def _next_trial(sweep: Sweep, total: int) -> Iterator[Trial | None]:
    """A trial whose lock this process holds: an unfinished one, else a new one, or None if there are enough."""
    with contextlib.ExitStack() as held:
        with _lock(sweep.folder):
            trial = _choose(sweep, total, held)
        yield trial


def _choose(sweep: Sweep, total: int, held: contextlib.ExitStack) -> Trial | None:
    trials = [t for t in sweep._trials() if t.state != TrialState.WAITING]
    for left in trials:
        if left.state == TrialState.RUNNING and _take(sweep, left.number, held):
            sweep.study.sampler = _sampler(sweep, left.number)
            return Trial(sweep.study, left._trial_id)
    if len(trials) >= total:
        return None
    sweep.study.sampler = _sampler(sweep, len(trials))
    trial = sweep.study.ask()
    if not _take(sweep, trial.number, held):
        raise UserError(f"{sweep.workdir(trial.number)}: another process holds it; give the command again")
    return trial


def _take(sweep: Sweep, number: int, held: contextlib.ExitStack) -> bool:
    """Locks a trial until `held` ends; False if another process holds it. The lock of a killed process is free."""
    workdir = sweep.workdir(number)
    workdir.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(workdir / "sweep.lock")
    try:
        held.enter_context(lock.acquire(timeout=0))
    except filelock.Timeout:
        return False
    return True


def _sampler(sweep: Sweep, number: int) -> optuna.samplers.BaseSampler:
    """Tree-structured Parzen estimators (Bergstra et al., NeurIPS 2011), with a random seed for each trial."""
    seed = int(np.random.SeedSequence([sweep.seed, number]).generate_state(1)[0])
    return optuna.samplers.TPESampler(n_startup_trials=_RANDOM_TRIALS, seed=seed)


def _run_trial(sweep: Sweep, trial: Trial, should_stop: Callable[[], bool]) -> None:
    values = {axis.field: axis.suggest(trial) for axis in sweep.axes}
    sweep.reporter.note(f"trial {trial.number:03d}: {', '.join(f'{field}={value}' for field, value in values.items())}")
    try:
        ended = _train(sweep, trial, with_values(sweep.config, values), should_stop)
    except DamagedFileError:
        raise
    except UserError as e:
        # A UserError with a cause comes from the machine (a full disk), not from the trial's values.
        if e.__cause__ is not None:
            raise
        ended = {"state": TrialState.FAIL, "error": str(e)}
    except (ArithmeticError, MemoryError, TypeError, ValueError, jax.errors.JaxRuntimeError) as e:
        ended = {"state": TrialState.FAIL, "error": f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"}
    if ended is not None:
        _record(sweep, trial, **ended)


def _train(sweep: Sweep, trial: Trial, config: Config, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
    """Trains to the end or until pruned. Returns what to record; None if a signal stopped it."""
    run = prepare(config, sweep.workdir(trial.number), trained_on=sweep.dataset.fingerprint)
    run_folder.claim(config, run.dataset.fingerprint, run.workdir)
    pruned = False

    def evaluated(epoch: float, progress: TrainProgress) -> None:
        nonlocal pruned
        trial.report(progress.best_metric, round(epoch))
        pruned = trial.should_prune()

    fitted = train_encoder(run, should_stop=lambda: pruned or should_stop(), evaluated=evaluated)
    progress = fitted.progress
    seconds = progress.train_seconds + progress.eval_seconds + progress.compile_seconds
    ended = {"epochs": round(fitted.step / fitted.steps_per_epoch), "seconds": round(seconds, 3)}
    if fitted.reason != "signal":
        return {"state": TrialState.COMPLETE, "value": progress.best_metric, **ended}
    return {"state": TrialState.PRUNED, **ended} if pruned else None


def _record(sweep: Sweep, trial: Trial, *, state: TrialState, value: float | None = None, **noted: Any) -> None:
    """Records and reports the end of a trial, and deletes checkpoints of trials that are not the best."""
    for name, what in noted.items():
        trial.set_user_attr(name, what)
    with _lock(sweep.folder):
        sweep.study.tell(trial, value, state)
        best = sweep.best()
        if not sweep.keep_checkpoints:
            for result in sweep.results():
                if result.state != "running" and result != best:
                    shutil.rmtree(sweep.workdir(result.number) / "checkpoints", ignore_errors=True)
    if state == TrialState.FAIL:
        sweep.reporter.note(f"trial {trial.number:03d} failed: {noted['error']}")
        return
    ended = next(r for r in sweep.results() if r.number == trial.number)
    beside = f"; best {best.value:.4f} (trial {best.number:03d})" if best and best.number != trial.number else ""
    how = "" if ended.state == "complete" else f" {ended.state} after {ended.epochs} epochs,"
    sweep.reporter.note(
        f"trial {trial.number:03d}:{how} {sweep.config.eval.metric} {ended.value:.4f} in {ended.seconds:.1f} s{beside}"
    )


def importances(sweep: Sweep) -> dict[str, float]:
    """The importance of each field for a trial to be among the best, in shares that sum to 1; {} with too few trials.

    Reference: PED-ANOVA (Watanabe et al., IJCAI 2023).
    """
    complete = [r for r in sweep.results() if r.state == "complete"]
    if len(complete) < _RANDOM_TRIALS or len({r.value for r in complete}) < 2:
        return {}
    with _database(sweep.folder):
        return optuna.importance.get_param_importances(sweep.study)
