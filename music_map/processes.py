"""The processes of a run: joining them, common decisions, and work that must be done once.

There is one process per host (or GPU), and all run the same program. JAX's distributed runtime connects them, runs
their collectives and ends them when one is lost. With one process every function here is the identity.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from music_map import lock
from music_map.errors import DamagedFileError, UserError

T = TypeVar("T")

# Words in the errors of JAX, gloo and NCCL when another process is gone.
_LOST = ("gloo", "nccl", "unavailable", "deadline_exceeded", "coordination", "heartbeat", "barrier", "connection")

_numbers = itertools.count()


def join(
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat_seconds: int = 100,
    connect_seconds: int = 300,
) -> None:
    """Joins the other processes. Call it before any use of devices.

    Args:
      coordinator_address: HOST:PORT that process 0 listens on. If this and the next two are None, JAX asks the cluster
        (Cloud TPU, Slurm, Open MPI, Kubernetes).
      num_processes: number of processes of the run.
      process_id: number of this process, from 0.
      heartbeat_seconds: a process counts as lost after so many seconds without a heartbeat, and JAX ends the others.
      connect_seconds: how long to wait for all processes.

    Raises:
      UserError: not all processes joined in time, or their addresses are unknown.
    """
    # Collectives of CPU devices: the default in current versions, but older ones need it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=heartbeat_seconds,
            initialization_timeout=connect_seconds,
            # A process that ends waits so long for the others to end.
            shutdown_timeout_seconds=heartbeat_seconds,
        )
    except (ValueError, TypeError, RuntimeError) as e:
        where = coordinator_address or "the cluster"
        raise UserError(
            f"cannot join the processes of the run at {where}: {' '.join(str(e).split())[:300]}; give all of them "
            "the same --coordinator_address and --num_processes, and each its own --process_id"
        ) from e


def count() -> int:
    """Processes of the run."""
    return jax.process_count()


def index() -> int:
    """This process's number, from 0."""
    return jax.process_index()


def first() -> bool:
    """Whether this is the first process, which writes what is written once."""
    return index() == 0


def barrier(*, seconds: int = 86_400) -> None:
    """Waits for all processes. This uses the coordinator, because collectives of devices time out."""
    if count() > 1:
        import orbax.checkpoint as ocp  # only here: commands with one process start faster

        ocp.multihost.sync_global_processes(
            f"music_map-{next(_numbers)}", timeout=seconds, processes=set(range(count()))
        )


def from_first(value: T) -> T:
    """The first process's JSON-able value, in all of them."""
    if count() == 1:
        return value
    from jax.experimental import multihost_utils

    text = json.dumps(value if first() else None).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    data = np.zeros(size, np.uint8)
    if first():
        data[:] = np.frombuffer(text, np.uint8)
    # A broadcast is a sum over processes, which does not keep dtypes below 32 bits.
    return json.loads(multihost_utils.broadcast_one_to_all(data.astype(np.int32)).astype(np.uint8).tobytes())


def any_says(value: bool) -> bool:
    """Whether the value is true in any process."""
    return value if count() == 1 else bool(gather(np.int32(value)).any())


def gather(value: np.ndarray) -> np.ndarray:
    """Stacks the arrays of all P processes, which have one shape: [...] -> [P, ...]."""
    if count() == 1:
        return np.asarray(value)[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value))


def largest(value: int) -> int:
    """The largest number of all processes."""
    return int(gather(np.int32(value)).max()) if count() > 1 else value


def sum_of(value: np.ndarray) -> np.ndarray:
    """The sum of the processes' float64 arrays of one shape, in all digits and in the same order everywhere."""
    if count() == 1:
        return value
    # As pairs of integers: JAX would round them to float32.
    parts = gather(np.ascontiguousarray(value).reshape(-1).view(np.int32))
    return parts.view(np.float64).sum(axis=0).reshape(np.shape(value))


def gather_rows(rows: np.ndarray, total: int) -> np.ndarray:
    """Joins the rows of all processes, each with those of its `share`, to [total, ...]."""
    if count() == 1:
        return rows
    widest = -(-total // count())
    filled = np.zeros((widest, *rows.shape[1:]), rows.dtype)
    filled[: len(rows)] = rows
    parts = gather(filled)
    return np.concatenate([part[: len(share(total, p))] for p, part in enumerate(parts)])


def share(total: int, process: int | None = None) -> range:
    """This (or another) process's rows of [0, total): contiguous, in shares as equal as possible."""
    process = index() if process is None else process
    size = -(-total // count())
    return range(min(process * size, total), min((process + 1) * size, total))


def once(make: Callable[[], T]) -> T | None:
    """Calls `make` in the first process while the others wait; its UserError is raised in all.

    Returns:
      The result of `make` in the first process, None in the others.
    """
    if count() == 1:
        return make()
    made, problem = None, None
    if first():
        try:
            made = make()
        except UserError as e:
            problem = e
    barrier()
    told = from_first(None if problem is None else [isinstance(problem, DamagedFileError), str(problem)])
    if problem is not None:
        raise problem
    if told is not None:
        raise (DamagedFileError if told[0] else UserError)(told[1])
    return made


@contextlib.contextmanager
def writing(folder: Path, job: str) -> Iterator[None]:
    """`music_map.lock.writing` for all processes of a run: the first holds the lock; its error is raised in all."""
    with contextlib.ExitStack() as stack:
        once(lambda: stack.enter_context(lock.writing(folder, job)))
        yield


def check_alike(value: str, what: str) -> None:
    """Raises UserError in all processes unless all have the same value."""
    if count() == 1:
        return
    sums = gather(np.uint32(zlib.crc32(value.encode())))
    odd = np.flatnonzero(sums != sums[0])
    if len(odd):
        raise UserError(f"process {odd[0]} has another {what} than process 0; start all with the same command")


def is_loss(error: BaseException) -> bool:
    """Whether an error means that another process is gone."""
    return count() > 1 and any(word in str(error).lower() for word in _LOST)


class Watchdog:
    """Calls `late` once if `tick` has not been called for a number of seconds.

    JAX itself notices a lost process. This is for processes that are all alive but wait for each other in a collective.
    """

    def __init__(self, seconds: float, late: Callable[[float], Any]):
        self._seconds, self._late = seconds, late
        self._ticked = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watchdog:
        self.tick()
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stopped.set()
        self._thread.join()

    def tick(self) -> None:
        """Reports progress: the time starts again from 0."""
        self._ticked = time.monotonic()

    def ticking(self, ask: Callable[[], T]) -> Callable[[], T]:
        """`ask`, with a tick at each call."""

        @functools.wraps(ask)
        def asked() -> T:
            self.tick()
            return ask()

        return asked

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._seconds / 4)):
            silent = time.monotonic() - self._ticked
            if silent > self._seconds:
                self._late(silent)
                return
