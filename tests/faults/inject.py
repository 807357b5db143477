"""What can happen to a command, put into its process: killed at a step of writing, or a disk without room.

install({"kill": 3})        # SIGKILL before its third change of a name, folder or disk
install({"interrupt": 3})   # SIGINT there, as of Ctrl-C
install({"count": "file"})  # writes into the file how many such steps there were
install({"full": 4096})     # no file may grow above so many bytes, as on a full disk
"""

import os
import resource
import signal
import sys

STEPS = ("rename", "replace", "fsync", "mkdir", "link")


def install(fault):
    """Puts a fault into this process; returns what to call when the command has ended."""
    if "full" in fault:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["full"], fault["full"]))
        return lambda: None
    taken = 0

    def counted(real):
        def step(*args, **kwargs):
            nonlocal taken
            taken += 1
            if taken == fault.get("kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            if taken == fault.get("interrupt"):
                signal.raise_signal(signal.SIGINT)
            return real(*args, **kwargs)

        return step

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    storage = sys.modules.get("music_map.storage")
    if storage is not None:  # swaps two names by a call of its own
        storage._exchange = counted(storage._exchange)

    def ended():
        if "count" in fault:
            with open(fault["count"], "w") as f:
                f.write(str(taken))

    return ended
