"""What every launcher shares: errors of flags and configuration files, exit codes, help."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from launch import app
from music_map.errors import UserError

ROOT = Path(__file__).parents[2]

LAUNCHER = '''
"""A launcher that shows its configuration."""

import json

from absl import flags

from launch import app
from music_map.errors import UserError

_CONFIG = app.define_config()
_NAME = flags.DEFINE_string("name", None, "A flag that must be given.", required=True)


def main():
    action = _NAME.value
    if action == "interrupt":
        raise KeyboardInterrupt
    if action == "user_error":
        error = UserError("songs.csv: no such file;\\n  put it there")
        error.add_note("  a.parquet")
        error.add_note("  b.parquet")
        raise error
    if action == "bug":
        raise IndexError("a bug")
    if action == "pages":
        while True:
            app.say("line " * 100)
    if action == "status":
        return 3
    with app.bar("work", 3, "song") as advance:
        advance(3)
    app.say(json.dumps(app.to_dict(_CONFIG.value)))


if __name__ == "__main__":
    app.run(main)
'''

CONFIG = """
from ml_collections import ConfigDict, config_dict


def get_config(name=""):
    if name not in ("", "large"):
        raise ValueError(f"{name!r} is unknown; choose large")
    config = ConfigDict()
    config.size = 10 if name else 1
    config.model = ConfigDict()
    config.model.embedding_dim = 64
    config.model.adaptive = False
    config.model.alpha = config_dict.placeholder(float)
    config.ks = (10, 100)
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    (folder / "show.py").write_text(LAUNCHER)
    (folder / "small.py").write_text(CONFIG)
    (folder / "no_name.py").write_text("import ml_collections\nget_config = lambda: ml_collections.ConfigDict()\n")
    (folder / "syntax.py").write_text("x = 1\ndef get_config(:\n")
    (folder / "imports.py").write_text("import not_a_module_of_this_world\n")
    (folder / "key.py").write_text("\n\ndef get_config():\n    return {}['alpha']\n")
    (folder / "empty.py").write_text("")
    (folder / "wrong.py").write_text("def get_config():\n    return {'a': 1}\n")
    return folder


def run(folder, *flags):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "show.py", *flags], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_the_configuration_and_its_overrides_arrive(folder):
    overrides = ["--config.model.embedding_dim=8", "--config.model.adaptive", "--config.model.alpha=0.5"]
    done = run(folder, "--config=small.py:large", *overrides, "--config.ks=(5,)", "--name=x")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "size": 10,
        "model": {"embedding_dim": 8, "adaptive": True, "alpha": 0.5},
        "ks": [5],
    }
    assert "work: 100%" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config and --name missing; see --help"),
        (["--config=small.py"], "--name missing; see --help"),
        (["--config=smal.py"], "--config=smal.py: no such file; did you mean small.py?"),
        (["--config=/nowhere/x.py"], "--config=/nowhere/x.py: no such file; name a file, e.g. --config=configs/"),
        (["--config="], "--config is empty; name a file, e.g. --config=configs/demo.py"),
        (["--config", "smal.py"], "--config=smal.py: no such file; did you mean small.py?"),
        (["--config=small.py:huge"], "--config=small.py:huge: 'huge' is unknown; choose large"),
        (["--config=no_name.py:huge"], "--config=no_name.py:huge: the file takes no :NAME"),
        (["--config=syntax.py"], "--config=syntax.py: line 2: SyntaxError: invalid syntax; mend the file"),
        (
            ["--config=imports.py"],
            "--config=imports.py: line 1: ModuleNotFoundError: No module named 'not_a_module_of_this_world'; "
            "mend the file",
        ),
        (["--config=key.py"], "--config=key.py: line 4: KeyError: 'alpha'; mend the file"),
        (["--config=empty.py"], "--config=empty.py: defines no function get_config(); see configs/demo.py"),
        (["--config=wrong.py"], "--config=wrong.py: get_config() returns dict; let it return a ConfigDict"),
        (
            ["--config=small.py", "--config.model.embeding_dim=8"],
            "--config.model.embeding_dim: the configuration has no such field; "
            "did you mean --config.model.embedding_dim?",
        ),
        (
            ["--config=small.py", "--noconfig.model.adaptiv"],
            "--config.model.adaptiv: the configuration has no such field; did you mean --config.model.adaptive?",
        ),
        (
            ["--config=small.py", "--config.modl.alpha=1"],
            "--config.modl.alpha: the configuration has no such field; did you mean --config.model?",
        ),
        (
            ["--config=small.py", "--config.zzz=1"],
            "--config.zzz: the configuration has no such field; --config has ks, model, size",
        ),
        (
            ["--config=small.py", "--config.size.x=1"],
            "--config.size.x: the configuration has no such field; --config.size has no fields",
        ),
        (
            ["--config.size=1", "--config=small.py"],
            "--config.size needs --config=FILE before it, e.g. --config=configs/demo.py",
        ),
        (["--config=small.py", "--name=x", "--config.size=many"], "flag --config.size=many: invalid literal for int()"),
        (["--config=small.py", "--nam=x"], "unknown flag --nam; did you mean --name?"),
        (["--config=small.py", "--zzzzzz=x"], "unknown flag --zzzzzz; see --help"),
        (["--config=small.py", "--name=x", "y"], "unexpected argument 'y'; flags are written --name=value"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(folder, flags, message):
    done = run(folder, *flags)
    assert done.returncode == app.USER_ERROR == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: " + message), line


@pytest.mark.parametrize("flags", [["--help"], ["--config=nowhere.py", "--help"]])
def test_help_lists_the_flags(folder, flags):
    done = run(folder, *flags)
    assert "A launcher that shows its configuration." in done.stdout
    assert "--config:" in done.stdout and "--name:" in done.stdout
    assert done.stderr == ""


def test_a_user_error_is_one_line_with_its_notes_below(folder):
    done = run(folder, "--config=small.py", "--name=user_error")
    assert done.returncode == 2
    assert done.stderr == "error: songs.csv: no such file; put it there\n  a.parquet\n  b.parquet\n"


def test_an_interrupt_is_status_130_without_a_traceback(folder):
    done = run(folder, "--config=small.py", "--name=interrupt")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_status_of_main_is_passed_on(folder):
    assert run(folder, "--config=small.py", "--name=status").returncode == 3


def test_a_bug_keeps_its_traceback(folder):
    done = run(folder, "--config=small.py", "--name=bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "IndexError: a bug" in done.stderr


def test_a_reader_that_goes_away_is_no_error(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "show.py", "--config=small.py", "--name=pages"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 1


def test_path_of():
    assert app.path_of("~/x", "output") == Path.home() / "x"
    with pytest.raises(UserError, match="--output is empty; give a path"):
        app.path_of("", "output")


def test_to_dict_gives_what_json_holds():
    config = ConfigDict({"a": {"b": (1, 2)}, "c": None, "d": "x"})
    assert app.to_dict(config) == {"a": {"b": [1, 2]}, "c": None, "d": "x"}
