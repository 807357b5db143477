"""Runs commands in forks of one process that has imported what they import, which spares each a second or two.

Reads lines of JSON: {"command": ["launch/train.py", ...], "out": file, "err": file}; answers each with its exit status.
With "fault", a JSON value that tests/faults/inject.py knows, that happens to the command.
"""

import json
import os
import runpy
import signal
import sys
import traceback

import music_map.run.recommender
import music_map.run.report
import music_map.run.training  # noqa: F401  most of what a command takes to start

INJECT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "faults", "inject.py")


def child(command, out, err, fault=None):
    for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        os.dup2(os.open(path, mode | os.O_CREAT), number)
    signal.alarm(300)
    sys.argv, sys.path[0] = command, os.path.dirname(os.path.abspath(command[0]))
    ended = (lambda: None) if fault is None else runpy.run_path(INJECT)["install"](fault)
    try:
        runpy.run_path(command[0], run_name="__main__")
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        ended()
        sys.stdout.flush()
        sys.stderr.flush()


for line in sys.stdin:
    asked = json.loads(line)
    if (pid := os.fork()) == 0:
        os._exit(child(**asked))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
