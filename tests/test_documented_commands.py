"""Every command in the READMEs, docs and docstrings names a script, flags, a configuration and fields that exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    *(ROOT / name for name in ("README.md", "data/README.md", "checkpoints/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "launch").glob("*.py")),
    *sorted((ROOT / "configs").glob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
]


def commands():
    for path in SOURCES:
        # A line that ends in a backslash goes on in the next one.
        text = path.read_text().replace("\\\n", " ")
        for match in re.finditer(r"python (launch|benchmarks)/(\w+)\.py([^\n`]*)", text):
            yield pytest.param(*match.groups(), id=f"{path.relative_to(ROOT)}:{match.group(0)[:60]}")


def config_named(value):
    file, _, name = value.partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    return module.get_config(name) if name else module.get_config()


@pytest.mark.parametrize(("folder", "script", "rest"), list(commands()))
def test_documented_command(folder, script, rest):
    if "{" in rest or "X.py" in rest:  # filled in at run time, or a placeholder
        return
    source = (ROOT / folder / f"{script}.py").read_text()
    config = None
    for flag, value in re.findall(r"--([\w.]+)(?:=(\S+))?", rest):
        if flag == "config":
            config = config_named(value)
        elif flag.startswith("config."):
            # Prose may name a field without the configuration it belongs to.
            node = config if config is not None else config_named("configs/yambda.py")
            for part in flag.removeprefix("config.").split("."):
                assert part in node, f"no field {flag}"
                node = node[part]
        elif flag not in ("quiet", "verbose", "help"):  # of every command
            assert re.search(rf'DEFINE_\w+\(\s*"{flag}"', source), f"{folder}/{script}.py has no flag --{flag}"


def test_there_are_commands():
    assert len(list(commands())) > 20
