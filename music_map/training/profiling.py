"""A trace of some training steps, by JAX's profiler: what ran on the devices and on the host, and for how long."""

from __future__ import annotations

from pathlib import Path

import jax


class StepProfile:
    """Traces the steps `first` to `last` - 1, counted from 0, into a folder.

    Args:
      first, last: the steps; a dispatch ends at both.
      folder: gets plugins/profile/TIME/ with an xplane.pb for XProf (TensorBoard's profile plugin) and a trace.json.gz
        for ui.perfetto.dev.
    """

    def __init__(self, first: int, last: int, folder: Path):
        self.first, self.last, self.folder = first, last, folder
        self.traced = 0
        self._running = False

    def steps_left(self, step: int) -> int:
        """The number of steps, from `step` on, that one dispatch may run."""
        return next((edge - step for edge in (self.first, self.last) if step < edge), 2**31 - 1)

    def before(self, step: int) -> None:
        """Begins the trace at its first step; call this before the dispatch that starts at `step`."""
        if self.first <= step < self.last and not self._running:
            jax.profiler.start_trace(str(self.folder))
            self._running = True

    def after(self, step: int, ahead: int) -> None:
        """Ends the trace after its last step; call this when the `ahead` steps before `step` have run."""
        if self._running:
            self.traced += ahead
            if step >= self.last:
                self.close()

    def close(self) -> None:
        """Ends a running trace, for a training that ended before the trace's last step."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
