"""The command music-map: the list of jobs, jobs by name, completion; and that every launcher explains itself."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from music_map.cli import completion, jobs, usage

ROOT = Path(__file__).resolve().parents[2]
# As the entry point does: the module is imported, and its main called.
MUSIC_MAP = "import sys; from music_map.cli.jobs import main; sys.argv[0] = 'music-map'; main()"


def music_map(*args):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-c", MUSIC_MAP, *args], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


def test_jobs_are_listed_with_a_line_each():
    done = music_map()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == music_map("--help").stdout
    for name in (*jobs.job_files(), "completion"):
        [line] = [line for line in done.stdout.splitlines() if line.startswith(f"  {name} ")]
        assert len(line) > 25 and line.endswith(".")


def test_a_job_is_its_launcher(tmp_path):
    done = music_map("generate", "--size=tiny", f"--output={tmp_path}", "--quiet")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "flat/tiny/listens.parquet").exists()
    again = music_map("generate", "--size=tiny", f"--output={tmp_path}")
    assert "up to date" in again.stdout
    wrong = music_map("generate", "--sise=tiny")
    assert (wrong.returncode, wrong.stderr) == (2, "error: unknown flag --sise; did you mean --size?\n")


def test_outside_a_checkout_the_installed_configurations_are_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = ROOT / "configs"
    assert jobs._with_own_configurations(["--config=configs/demo.py", "--config.train.seed=1"]) == [
        f"--config={own}/demo.py", "--config.train.seed=1",
    ]  # fmt: skip
    assert jobs._with_own_configurations(["--config", "configs/lightgcnpp.py:lastfm"]) == [
        "--config", f"{own}/lightgcnpp.py:lastfm",
    ]  # fmt: skip
    for others in (["--config=configs/mine.py"], ["--config=mine.py"], ["--output=configs/demo.py"], ["--config"]):
        assert jobs._with_own_configurations(others) == others
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/demo.py").touch()
    assert jobs._with_own_configurations(["--config=configs/demo.py"]) == ["--config=configs/demo.py"]


def test_help_of_a_job_names_the_job():
    done = music_map("generate", "--help")
    assert done.returncode == 0 and "\n  music-map generate [flags]\n" in done.stdout
    assert "  music-map generate --size=demo --output=data/demo\n" in done.stdout
    assert "python" not in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "unknown job 'trian'; did you mean train?"),
        (["zzzzzz"], "unknown job 'zzzzzz'; music-map lists them"),
        (["completion", "fish"], "music-map completion takes a shell: bash or zsh"),
        (["completion"], "music-map completion takes a shell: bash or zsh"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(args, message):
    done = music_map(*args)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("path", jobs.job_files().values(), ids=jobs.job_files().keys())
def test_every_launcher_explains_itself(path):
    summary, _, examples = usage.split(ast.get_docstring(ast.parse(path.read_text())))
    assert len(summary) < 160 and summary.endswith(".")
    assert examples and all(e.startswith(f"python launch/{path.stem}.py") for e in examples)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_jobs_flags_choices_fields_and_files(tmp_path):
    script = tmp_path / "completion.bash"
    script.write_text(completion.script("bash", jobs.job_files()))
    lines = {
        ("music-map", "trai"): ["train"],
        ("music-map", "build-index", "--work"): ["--workdir="],
        ("music-map", "build_index", "--work"): ["--workdir="],
        ("music-map", "recommend", "--format", "=", "j"): ["json"],
        ("music-map", "recommend", "--format", "="): ["json", "table"],
        ("music-map", "convert", "--format", "=", "j"): ["jsonl"],
        ("music-map", "convert", "--time_unit", "=", "m"): ["ms"],
        ("music-map", "train", "--config", "=", "configs/dem"): ["configs/demo.py"],
        ("music-map", "evaluate", "--output", "=", "setup.p"): ["setup.py"],
        ("music-map", "train", "--config.model.alp"): ["--config.model.alpha="],
        ("music-map", "train", "--config.model.score", "=", ""): ["cosine", "dot"],
        ("music-map", "sweep", "--config.model.adaptive", "=", "t"): ["true"],
        ("music-map", "train", "--qui"): ["--quiet"],
        ("music-map", "completion", "z"): ["zsh"],
        ("music-map", "import", "mo"): ["movielens"],
        ("music-map", "start", "--preset", "=", "l"): ["lastfm", "lastfm1k", "listenbrainz", "lightgcn"],
    }
    # Words are passed as the shell splits them: "=" is a word of its own.
    program = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _music_map; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    for words, wanted in lines.items():
        done = subprocess.run(
            ["bash", "-c", program, "bash", script, *words], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert (done.stdout.split(), done.stderr) == (wanted, ""), words


def test_zsh_reads_the_same_completions():
    assert completion.script("zsh", jobs.job_files()).endswith(completion.script("bash", jobs.job_files()))
