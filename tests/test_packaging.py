"""What setup.py asks for: packages that have wheels where they are asked for, and a wheel that holds all it needs."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement

from music_map.cli import jobs

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
MACHINES = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64"))
# Packages without wheels for all of these, read off PyPI on 2026-11-26: the last Python, and the systems.
LIMITED = {"scann": ("3.13", {"linux"}), "implicit": ("3.14", {"linux", "darwin", "win32"})}


def setup_arguments(monkeypatch, *argv):
    """What setup.py gives to setuptools when a wheel is built, or with other arguments."""
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
    monkeypatch.setattr(sys, "argv", ["setup.py", *(argv or ("bdist_wheel",))])
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def requirements(monkeypatch):
    given = setup_arguments(monkeypatch)
    needed = [*given["install_requires"], *(line for lines in given["extras_require"].values() for line in lines)]
    return [Requirement(line) for line in needed]


def asked_for(requirement, python, platform, machine):
    environment = {"python_version": python, "sys_platform": platform, "platform_machine": machine}
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(("platform", "machine"), MACHINES)
def test_no_package_is_asked_for_where_it_has_no_wheel(python, platform, machine, monkeypatch):
    limited = [r for r in requirements(monkeypatch) if r.name in LIMITED and r.marker is not None]
    assert {r.name for r in limited} == set(LIMITED)
    for requirement in limited:
        last, systems = LIMITED[requirement.name]
        exists = PYTHONS.index(python) <= PYTHONS.index(last) and platform in systems
        assert asked_for(requirement, python, platform, machine) == exists, requirement


def test_a_required_package_with_few_wheels_has_a_marker(monkeypatch):
    given = setup_arguments(monkeypatch)
    for line in [*given["install_requires"], *given["extras_require"]["dev"]]:
        requirement = Requirement(line)
        assert requirement.name not in LIMITED or requirement.marker is not None


def test_a_wheel_holds_every_file_and_no_name_but_its_own(monkeypatch):
    given = setup_arguments(monkeypatch)
    assert {name.partition(".")[0] for name in given["packages"]} == {"music_map"}
    held = set()
    for package in given["packages"]:
        folder = ROOT / given["package_dir"].get(package, package.replace(".", "/"))
        patterns = ["*.py", *given["package_data"].get(package, [])]
        held |= {path.relative_to(ROOT) for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "music_map", "launch", "configs"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a checkout of git")
    assert {Path(name) for name in listed.stdout.splitlines() if (ROOT / name).exists()} <= held


def test_a_checkout_serves_its_own_commands(monkeypatch):
    given = setup_arguments(monkeypatch, "editable_wheel")
    assert {"launch", "configs"} <= set(given["packages"]) and not given["package_dir"]
    assert jobs.FOLDER == ROOT / "launch"
