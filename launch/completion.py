"""Completion for bash and zsh, printed by `music-map completion SHELL`: jobs, their flags, choices, fields and files.

The flags are read off the launchers' sources: importing them all would take half a minute.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from configs import yambda
from launch import app
from launch.config_file import flat

SHELLS = ("bash", "zsh")
# Of every command: those that launch/app.py defines, and help.
_COMMON = ("--quiet", "--verbose", "--help")


def flags_in(path: Path) -> dict[str, list[str]]:
    """The flags that a launcher defines: what stands before the value, and the choices as far as they are written out.

    `--output=`, `--dry_run`, `--format=` with ["json", "table"].
    """
    found: dict[str, list[str]] = {}
    for call in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            continue
        kind = call.func.attr
        if kind == "define_config":
            found["--config="] = []
        elif kind.startswith("DEFINE_") and call.args and isinstance(call.args[0], ast.Constant):
            name = call.args[0].value
            if kind == "DEFINE_bool":
                found |= {f"--{name}": [], f"--no{name}": []}
            else:
                found[f"--{name}="] = _choices(call) if kind == "DEFINE_enum" else []
    return found


def _choices(call: ast.Call) -> list[str]:
    try:
        return [str(value) for value in ast.literal_eval(call.args[2])]
    except ValueError:  # a name
        return []


def script(shell: str, jobs: Mapping[str, Path]) -> str:
    """The completion script of "bash" or "zsh"."""
    cases = []
    for name, path in jobs.items():
        found = flags_in(path)
        cases.append(f"    {name}) flags={_quoted([*found, *_COMMON])} ;;")
    values = {}
    for path in jobs.values():
        values |= {flag: choices for flag, choices in flags_in(path).items() if choices}
    choices = [
        f'    {flag.rstrip("=")}) COMPREPLY=($(compgen -W {_quoted(v)} -- "$cur")) ;;' for flag, v in values.items()
    ]
    fields = [f"--config.{field}=" for field in flat(app.to_dict(yambda.get_config()))]
    text = (
        _BASH.replace("@JOBS@", _quoted([*jobs, "completion"]))
        .replace("@CASES@", "\n".join(cases))
        .replace("@CHOICES@", "\n".join(choices))
        .replace("@FIELDS@", _quoted(fields))
    )
    # zsh reads bash's completions.
    return text if shell == "bash" else f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{text}"


def _quoted(words: list[str]) -> str:
    return f'"{" ".join(words)}"'


# In bash COMP_WORDBREAKS holds "=", so --flag=value arrives as three words; in zsh it is one, and is replaced whole.
_BASH = r"""# Completion of music-map; made by: music-map completion
_music_map() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" flag="" flags="" head=""
  COMPREPLY=()
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W @JOBS@ -- "$cur"))
    return
  fi
  if [[ $cur == "=" ]]; then
    flag="$prev"; cur=""
  elif [[ $prev == "=" ]]; then
    flag="${COMP_WORDS[COMP_CWORD-2]}"
  elif [[ $cur == --*=* ]]; then
    flag="${cur%%=*}"; cur="${cur#*=}"; head="$flag="
  fi
  if [[ -n $flag ]]; then
    case "$flag" in
@CHOICES@
    *) COMPREPLY=($(compgen -G "$cur*")) ;;
    esac
    COMPREPLY=("${COMPREPLY[@]/#/$head}")
    return
  fi
  case "${COMP_WORDS[1]//_/-}" in
@CASES@
    completion) COMPREPLY=($(compgen -W "bash zsh" -- "$cur")); return ;;
  esac
  if [[ $cur == --config.* ]]; then
    flags=@FIELDS@
  fi
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
  else
    COMPREPLY=($(compgen -G "$cur*"))
  fi
}
complete -o filenames -F _music_map music-map
"""
