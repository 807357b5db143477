"""A command run by several processes together: joining them, and ending with a clear error when one is lost."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping

from music_map import processes
from music_map.errors import UserError

# Exit status after the loss of another process; a scheduler may start the command again.
LOST = 3
USER_ERROR = 2

_REMEDY = "start the command again, on any number of processes: the run continues from its last checkpoint"


def wanted(distributed: bool | None, explicit: Mapping[str, object]) -> bool:
    """Whether this process is one of several.

    Args:
      distributed: the flag, None if it was not given.
      explicit: flags with the addresses of the others, by name; None if not given.

    Raises:
      UserError: the flags contradict each other, or a Slurm step of several tasks runs this without --distributed.
    """
    given = [name for name, value in explicit.items() if value is not None]
    if given and len(given) < len(explicit):
        missing = ", ".join(f"--{name}" for name in explicit if name not in given)
        raise UserError(f"--{given[0]} is given without {missing}")
    if given and distributed is False:
        raise UserError(f"--nodistributed and --{given[0]} exclude each other")
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if distributed is None and not given and tasks.isdigit() and int(tasks) > 1:
        raise UserError(
            f"this is task {os.environ.get('SLURM_PROCID')} of {tasks} of a Slurm step: add --distributed to run them "
            "as one, or --nodistributed for runs of their own"
        )
    return bool(distributed or given)


@contextlib.contextmanager
def joined(
    active: bool,
    *,
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    heartbeat_timeout: int,
    silence: Callable[[], object],
) -> Iterator[None]:
    """A context in which the processes are one run: only the first prints, and an error ends the process at once.

    Args:
      active: from `wanted`; False: this is the only process.
      coordinator_address, num_processes, process_id: None: taken from the cluster or JAX's environment variables.
      heartbeat_timeout: a process counts as lost after this many seconds without a heartbeat.
      silence: called in all processes but the first.
    """
    if not active:
        yield
        return
    processes.join(
        coordinator_address=coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS"),
        num_processes=num_processes if num_processes is not None else _number("JAX_NUM_PROCESSES"),
        process_id=process_id if process_id is not None else _number("JAX_PROCESS_ID"),
        heartbeat_seconds=heartbeat_timeout,
    )
    if not processes.first():
        silence()
    try:
        yield
    # A normal exit would wait for a process that is lost, or that waits for this one.
    except UserError as e:
        _end(str(e), USER_ERROR)
    except Exception as e:
        if processes.is_loss(e):
            text = " ".join(str(e).split())[:200]
            _end(f"another process of the run was lost ({text}); {_REMEDY}", LOST)
        traceback.print_exc()
        _end(f"{type(e).__name__}: {e}", 1)


@contextlib.contextmanager
def watched(ask: Callable[[], bool], seconds: float) -> Iterator[Callable[[], bool]]:
    """Yields `ask`; in this context the process ends if `ask` is not called for `seconds` seconds (0: no limit)."""
    if processes.count() == 1 or not seconds:
        yield ask
        return
    with processes.Watchdog(seconds, _stalled) as watchdog:
        yield watchdog.ticking(ask)


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is not None and not text.isdigit():
        raise UserError(f"{variable}={text}: must be a number")
    return None if text is None else int(text)


def _stalled(seconds: float) -> None:
    _end(
        f"no step, evaluation or checkpoint ended for {seconds:.0f} s (--stall_timeout): the processes wait for each "
        f"other; {_REMEDY}",
        LOST,
    )


def _end(message: str, status: int) -> None:
    name = f"process {processes.index()} of {processes.count()}"
    print(f"error: {name}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)
