"""Logs and a trained run, made once for all tests of the commands."""

import os
import shutil
from types import SimpleNamespace

import pytest
from commands import flags, launch
from filelock import FileLock


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Tiny logs and a run trained on them, whatever the number of workers: raw/, base/, and what training printed."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the workers' common folder
    folder = root / "made-once"
    with FileLock(root / "made-once.lock"):
        if not (folder / "stdout.txt").exists():
            launch("generate", "--size=tiny", f"--output={folder}/raw", "--seed=1")
            done = launch("train", *flags(folder / "raw", folder / "base"))
            (folder / "stdout.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="session")
def raw(made_once):
    return made_once / "raw"


@pytest.fixture(scope="module")
def trained(made_once, tmp_path_factory):
    """A copy of the run for each module, whose tests may write into it, and what training printed."""
    base = tmp_path_factory.mktemp("trained")
    shutil.copytree(made_once / "base", base, dirs_exist_ok=True)
    return base, SimpleNamespace(stdout=(made_once / "stdout.txt").read_text())
