"""What every launcher shares: errors of flags and configuration files, exit codes, help."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from launch import app
from music_map.cli import compilation_cache
from music_map.errors import UserError

ROOT = Path(__file__).parents[2]

LAUNCHER = '''
"""A launcher that shows its configuration.

    python launch/show.py --config=small.py --name=x
    python launch/show.py --config=small.py \\
      --name=y

What it does is said here, in a paragraph which is long enough that a terminal of eighty columns needs two
lines.
"""

import atexit
import json
import logging
import signal
import time
import warnings

# Tests that run in the background of a shell ignore Ctrl-C, and so would this program.
signal.signal(signal.SIGINT, signal.default_int_handler)

from absl import flags

from launch import app
from music_map.errors import UserError

_CONFIG = app.define_config()
_NAME = flags.DEFINE_string("name", None, "A flag that must be given.", required=True)
_KIND = flags.DEFINE_enum("kind", "small", ["small", "large"], "Which one.")
_SONGS = flags.DEFINE_list("songs", ["a", "b"], "Some songs.")
_SHARE = flags.DEFINE_float("share", 0.5, "How much of it.", 0, 1)

app.section("Output")
_FORCE = flags.DEFINE_bool("force", False, "Again.")
_SHOW = flags.DEFINE_bool("show", True, "Whether to show it.")


def main():
    action = _NAME.value
    if action == "interrupt":
        raise KeyboardInterrupt
    if action == "interrupt in a finalizer":
        class Closed:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)

        Closed()
        time.sleep(20)
        return app.say("went on")
    if action == "interrupt at exit":
        atexit.register(signal.raise_signal, signal.SIGINT)
        return app.say("result")
    if action.startswith("interrupt while stopping"):
        with app.stop_on_signal() as asked:
            if "early" in action:
                asked.is_set()
            signal.raise_signal(signal.SIGINT)
            if "noticed" in action:
                return app.say(f"stopped {asked.is_set()}")
            if "twice" in action:
                signal.raise_signal(signal.SIGINT)
        return app.say("went on")
    if action == "compile":
        import jax

        return app.say(str(jax.jit(lambda x: x * 3 + 4)(2)))
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
    if action == "note":
        app.note("on the way")
        return app.say("result")
    if action == "log":
        logging.getLogger("jax").info("said by a library")
        warnings.warn("old", DeprecationWarning)
        return app.say("result")
    with app.bar("work", 3, "song") as advance:
        advance(3)
    app.say(_CONFIG.value.to_json())


if __name__ == "__main__":
    app.run(main)
'''

HELP = """\
A launcher that shows its configuration.

Usage:
  python show.py --config=FILE[:NAME] --name=NAME [--config.FIELD=VALUE ...]
      [flags]

Required:
  --config=FILE[:NAME]  Configuration file, e.g. configs/demo.py.
  --name=NAME           A flag that must be given.

Options:
  --kind=small|large    Which one. Default: small.
  --songs=A,B,...       Some songs. Default: a,b.
  --share=X             How much of it. Default: 0.5.

Output:
  --force               Again.
  --show=true|false     Whether to show it. Default: true.

Common options:
  --quiet               Print only the result: no progress bars, nothing about
                        earlier stages.
  --verbose             Show what the libraries log, their warnings, and
                        tracebacks of errors.
  --help                Show this text.

Examples:
  python launch/show.py --config=small.py --name=x
  python launch/show.py --config=small.py --name=y

What it does is said here, in a paragraph which is long enough that a terminal
of eighty columns needs two lines.
"""

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
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
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
    assert done.stderr == ""  # a short bar is no line of a log file


def on_a_terminal(folder, *flags, **environment):
    """What the launcher writes to a terminal, stdout and stderr together."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "show.py", *flags], cwd=folder, env=env | environment, stdout=writer, stderr=writer
    )
    os.close(writer)
    written = b""
    # On Linux the end is an error: nobody holds the other side any more.
    with contextlib.suppress(OSError):
        while block := os.read(reader, 4096):
            written += block
    os.close(reader)
    process.wait(60)
    return written.decode()


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
        (["--config=small.py", "--name=x", "--config.size=many"], "--config.size=many: must be a whole number"),
        (["--config=small.py", "--name=x", "--kind=huge"], "--kind=huge: must be small or large"),
        (["--config=small.py", "--name=x", "--force=perhaps"], "--force=perhaps: must be true or false"),
        (["--config=small.py", "--name=x", "--share=a: b"], "--share=a: b: must be a number"),
        (["--config=small.py", "--name=x", "--share=2"], "--share=2: must be a number in the range [0, 1]"),
        (["--config=small.py", "--name=x", "--share=nan"], "--share=nan: must be a finite number"),
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


@pytest.mark.parametrize("flags", [["--help"], ["--config=nowhere.py", "--help"], ["-h"]])
def test_help_lists_the_flags(folder, flags):
    done = run(folder, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == HELP


def test_a_bar_is_drawn_on_a_terminal_and_colour_unless_no_color_is_set(folder):
    assert "work: 100%" in on_a_terminal(folder, "--config=small.py", "--name=x")
    assert "100%" not in on_a_terminal(folder, "--config=small.py", "--name=x", "--quiet")
    assert on_a_terminal(folder, "--config=none.py").startswith("\033[1;31merror:\033[0m --config=none.py")
    assert on_a_terminal(folder, "--config=none.py", NO_COLOR="1").startswith("error: --config=none.py")


def test_quiet_leaves_the_result(folder):
    done = run(folder, "--config=small.py", "--name=note")
    assert done.stdout.splitlines() == ["on the way", "result"]
    done = run(folder, "--config=small.py", "--name=note", "--quiet")
    assert done.stdout.splitlines() == ["result"]
    assert run(folder, "--config=small.py", "--name=x", "--quiet", "--verbose").stderr.startswith("error: --quiet and")


def test_verbose_shows_logs_and_tracebacks(folder):
    done = run(folder, "--config=small.py", "--name=log")
    assert (done.stdout, done.stderr) == ("result\n", "")
    done = run(folder, "--config=small.py", "--name=log", "--verbose")
    assert "said by a library" in done.stderr and "DeprecationWarning: old" in done.stderr
    done = run(folder, "--config=small.py", "--name=user_error", "--verbose")
    assert "Traceback" in done.stderr and "error: songs.csv: no such file; put it there" in done.stderr


def test_a_user_error_is_one_line_with_its_notes_below(folder):
    done = run(folder, "--config=small.py", "--name=user_error")
    assert done.returncode == 2
    assert done.stderr == "error: songs.csv: no such file; put it there\n  a.parquet\n  b.parquet\n"


def test_an_interrupt_is_status_130_without_a_traceback(folder):
    done = run(folder, "--config=small.py", "--name=interrupt")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("when", ["in a finalizer", "while stopping", "while stopping, early", "while stopping, twice"])
def test_an_interrupt_is_never_lost(folder, when):
    done = run(folder, "--config=small.py", f"--name=interrupt {when}")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_signal_that_a_job_has_noticed_is_dealt_with(folder):
    done = run(folder, "--config=small.py", "--name=interrupt while stopping, noticed")
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped True\n", "")


def test_an_interrupt_at_exit_ends_the_process(folder):
    done = run(folder, "--config=small.py", "--name=interrupt at exit")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "result\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
@pytest.mark.parametrize("flags", [["--config=small.py", "--name=note"], ["--help"]])
def test_a_full_device_is_one_line(folder, flags):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "show.py", *flags], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: standard output: No space left on device; send it elsewhere\n"


def test_compiled_programs_are_kept(folder, tmp_path, monkeypatch):
    # A configuration that names a model imports JAX before the cache is turned on.
    (folder / "own.py").write_text("import jax\n" + (folder / "small.py").read_text())

    def compiled(*flags, cache="", base=tmp_path):
        monkeypatch.setenv("MUSIC_MAP_CACHE", cache)
        monkeypatch.setenv("XDG_CACHE_HOME", str(base))
        done = run(folder, "--config=own.py", "--name=compile", *flags)
        assert (done.returncode, done.stdout) == (0, "10\n")
        return done.stderr

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    assert compiled(cache="off") == "" and not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    assert compiled(base=tmp_path / "file") == ""  # no folder can be made there
    told = compiled()
    [cache] = (tmp_path / "music-map/xla").iterdir()
    assert told == f"compiled programs are kept in {cache}; MUSIC_MAP_CACHE=off turns this off\n"
    entries = {path: path.stat().st_mtime_ns for path in cache.glob("*-cache")}
    assert entries and compiled() == ""
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*-cache")} == entries
    for path in entries:  # as a process leaves it that is killed while it writes
        path.write_bytes(path.read_bytes()[:-9])
    assert compiled() == ""
    assert "compiled programs are kept in" in compiled("--verbose")


def test_the_oldest_programs_are_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_MAX_ENTRIES", 3)
    monkeypatch.setattr(compilation_cache, "_MAX_BYTES", 100)
    for age, size in enumerate((60, 30, 30, 10)):
        path = tmp_path / f"{age}-cache"
        path.write_bytes(bytes(size))
        os.utime(path, (1000 - age, 1000 - age))
    compilation_cache._prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-cache", "1-cache"]


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
