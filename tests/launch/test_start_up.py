"""Commands answer --help without importing the libraries that they work with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from music_map.cli import jobs

ROOT = Path(__file__).resolve().parents[2]
# Each takes between a tenth of a second and more than a second.
HEAVY = {"jax", "flax", "optax", "orbax", "scipy", "pyarrow", "numba", "matplotlib", "optuna", "sklearn", "fastapi"}
PROBE = """
import json, runpy, sys
sys.path[0] = sys.argv[1]
sys.argv = ["x.py", "--help"]
try:
    runpy.run_path(sys.path[0] + "/" + {name!r}, run_name="__main__")
except SystemExit as end:
    print(json.dumps([end.code, sorted(sys.modules)]), file=sys.stderr)
"""


def modules_after_help(path):
    """The top-level modules that are loaded when a command has printed its help."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(name=path.name), str(path.parent)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "Usage:" in done.stdout, done.stderr
    status, modules = json.loads(done.stderr)
    assert status == 0
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("path", jobs.job_files().values(), ids=jobs.job_files().keys())
def test_help_imports_nothing_heavy(path):
    assert not modules_after_help(path) & HEAVY


def test_what_a_command_imports_is_seen(tmp_path):
    (tmp_path / "x.py").write_text(
        "import scipy\nfrom launch import app\nif __name__ == '__main__':\n    app.run(int)\n"
    )
    assert modules_after_help(tmp_path / "x.py") & HEAVY == {"scipy"}


def test_the_package_imports_nothing_heavy():
    program = "import json, sys, music_map; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True, timeout=60,
    )  # fmt: skip
    assert not {name.partition(".")[0] for name in json.loads(done.stdout)} & HEAVY
