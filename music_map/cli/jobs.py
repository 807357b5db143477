"""The command `music-map`: the jobs by name. `music-map train ...` is `python launch/train.py ...`.

music-map                      # the jobs, one line each
music-map train --help
eval "$(music-map completion bash)"    # or zsh: names and flags at the Tab key
"""

from __future__ import annotations

import ast
import difflib
import re
import runpy
import sys
from pathlib import Path

from music_map.cli import terminal

# What holds the folders launch and configs: a wheel has them inside the package, a checkout beside it.
_INSTALLED = Path(__file__).parents[1] / "installed"
HOME = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2]
FOLDER = HOME / "launch"
# In the order in which a user needs them; all other jobs follow, sorted by name.
_ORDER = (
    "start", "import", "convert", "download", "generate", "preprocess", "build_graph", "train", "evaluate", "compare",
    "report", "recommend", "build_index", "evaluate_retrieval", "serve", "export_events", "export_map", "publish",
    "sweep",
)  # fmt: skip


def job_files() -> dict[str, Path]:
    """The launchers by the name of their job: build-index for build_index.py."""
    names = [path.stem for path in FOLDER.glob("*.py") if "\n    app.run(main" in path.read_text()]
    rank = {name: place for place, name in enumerate(_ORDER)}
    return {
        name.replace("_", "-"): FOLDER / f"{name}.py"
        for name in sorted(names, key=lambda name: (rank.get(name, len(rank)), name))
    }


def listing() -> str:
    """The output of `music-map`: one line per job, the first line of its description."""
    lines = [
        "Music Map: song recommendations from listening logs.",
        "",
        "Usage:",
        "  music-map JOB [flags]",
        "",
        "Jobs:",
    ]
    for name, path in job_files().items():
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        told = re.split(r"[;:.](?:\s|$)", doc, maxsplit=1)[0]
        lines.append(f"  {name:<20}{' '.join(told.split())}.")
    lines += [
        f"  {'completion':<20}Prints the completion of jobs and flags for bash or zsh.",
        "",
        "music-map JOB --help tells more. In a checkout, python launch/train.py and music-map train are the same.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs the job that sys.argv names."""
    given = sys.argv[1:]
    if not given or given[0] in ("-h", "--help", "help"):
        terminal.write(listing())
        return
    name, jobs = given[0].replace("_", "-"), job_files()
    if name == "completion":
        from music_map.cli import completion  # reads the flags of all commands; nothing else here needs absl

        if given[1:] not in ([shell] for shell in completion.SHELLS):
            terminal.fail(f"music-map completion takes a shell: {' or '.join(completion.SHELLS)}")
        terminal.write(completion.script(given[1], jobs))
    elif name in jobs:
        sys.argv[1:] = _with_own_configurations(given[1:])
        sys.path.insert(0, str(HOME))
        runpy.run_module(f"launch.{jobs[name].stem}", run_name="__main__", alter_sys=True)
    else:
        near = difflib.get_close_matches(name, [*jobs, "completion"], n=1)
        terminal.fail(f"unknown job {given[0]!r}; {f'did you mean {near[0]}?' if near else 'music-map lists them'}")


def _with_own_configurations(args: list[str]) -> list[str]:
    """Outside a checkout, replaces `--config=configs/demo.py` by the file that is installed with this package."""
    found = list(args)
    for at, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag not in ("--config", "-config"):
            continue
        if not equals and at + 1 < len(args):
            flag, at, value = "", at + 1, args[at + 1]
        path, colon, name = value.partition(":")
        own = HOME / path
        if path.startswith("configs/") and not Path(path).exists() and own.is_file():
            found[at] = f"{flag}{'=' if flag else ''}{own}{colon}{name}"
    return found


if __name__ == "__main__":
    main()
