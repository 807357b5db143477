"""A trace of some training steps, by JAX's profiler: what ran on the devices and on the host, and for how long."""

from __future__ import annotations

from pathlib import Path

import jax


class StepProfile:
    """Traces the steps `first` to `last` - 1, counted from 0, into a folder.

    Args:
      first, last: the steps; dispatches are cut at both.
      folder: gets plugins/profile/TIME/: an xplane.pb for XProf (TensorBoard's profile plugin) and a trace.json.gz for
        ui.perfetto.dev.
    """

    def __init__(self, first: int, last: int, folder: Path):
        self.first, self.last, self.folder = first, last, folder
        self.traced = 0
        self._running = False

    def steps_left(self, step: int) -> int:
        """Steps from `step` on that one dispatch may run."""
        return next((edge - step for edge in (self.first, self.last) if step < edge), 2**31 - 1)

    def before(self, step: int) -> None:
        """To be called before the dispatch from `step` on: begins the trace."""
        if self.first <= step < self.last and not self._running:
            jax.profiler.start_trace(str(self.folder))
            self._running = True

    def after(self, step: int, ahead: int) -> None:
        """To be called when the `ahead` steps before `step` have run: ends the trace after its last step."""
        if self._running:
            self.traced += ahead
            if step >= self.last:
                self.close()

    def close(self) -> None:
        """Ends a trace that runs: training ended before its last step."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
