"""Completion for bash and zsh, printed by `music-map completion SHELL`: jobs, their flags, choices, fields and files.

The flags are read from the commands. shtab and argcomplete only read argparse's parsers, which know no absl flags.
"""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path

from absl import flags

from music_map.convert.presets import AUTO, PRESETS
from music_map.run.config import PARALLEL, SECTIONS
from music_map.settings import field_types, rules

SHELLS = ("bash", "zsh")
_COMMON = ("--quiet", "--verbose", "--help")
# The choices of a job's first argument.
_FIRST = {"import": [*PRESETS.all(), AUTO]}


def flags_of(path: Path) -> dict[str, list[str]]:
    """A command's own flags, as typed before the value, with the choices if there are any.

    Examples: `--output=`, `--dry_run`, `--format=` with ["json", "table"].
    """
    before = set(flags.FLAGS)
    runpy.run_path(str(path), run_name=path.stem)
    own = {name: flags.FLAGS[name] for name in flags.FLAGS if name not in before}
    flags.FLAGS.remove_flag_values(own)  # the next command may define flags with the same names
    found: dict[str, list[str]] = {}
    for name, flag in own.items():
        if flag.boolean:
            found |= {f"--{name}": [], f"--no{name}": []}
        else:
            found[f"--{name}="] = list(getattr(flag.parser, "enum_values", []))
    return found


def fields() -> dict[str, list[str]]:
    """The configuration's fields as flags, `--config.model.alpha=`, with the choices if there are any."""
    found = {"--config.parallel=": list(PARALLEL)}
    for section, kind in SECTIONS.items():
        for name, rule in rules(kind).items():
            choices = ("true", "false") if bool in field_types(kind)[name] else rule.choices
            found[f"--config.{section}.{name}="] = [str(choice) for choice in choices]
    return found


def script(shell: str, jobs: Mapping[str, Path]) -> str:
    """The completion script of "bash" or "zsh"."""
    found = {name: flags_of(path) for name, path in jobs.items()}
    cases = [
        f"    {name}) flags={_quoted([*own, *_COMMON])}; first={_quoted(_FIRST.get(name, []))} ;;"
        for name, own in found.items()
    ]
    settings = fields()
    choices = [
        f'    {job} {flag.rstrip("=")}") COMPREPLY=($(compgen -W {_quoted(values)} -- "$cur")) ;;'
        for job, own in [*((f'"{name}', own) for name, own in found.items()), ('*"', settings)]
        for flag, values in own.items()
        if values
    ]
    text = (
        _BASH.replace("@JOBS@", _quoted([*jobs, "completion"]))
        .replace("@CASES@", "\n".join(cases))
        .replace("@CHOICES@", "\n".join(choices))
        .replace("@FIELDS@", _quoted([*settings]))
    )
    # zsh reads bash's completions.
    return text if shell == "bash" else f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{text}"


def _quoted(words: list[str]) -> str:
    return f'"{" ".join(words)}"'


# In bash COMP_WORDBREAKS holds "=", so --flag=value arrives as three words; in zsh it is one, and is replaced whole.
_BASH = r"""# Completion of music-map; made by: music-map completion
_music_map() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" job="${COMP_WORDS[1]//_/-}"
  local flag="" flags="" first="" head=""
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
    case "$job $flag" in
@CHOICES@
    *) _music_map_files "$cur" ;;
    esac
    COMPREPLY=("${COMPREPLY[@]/#/$head}")
    return
  fi
  case "$job" in
@CASES@
    completion) COMPREPLY=($(compgen -W "bash zsh" -- "$cur")); return ;;
  esac
  if [[ $cur == --config.* ]]; then
    flags=@FIELDS@
  fi
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
  elif [[ -n $first && $COMP_CWORD -eq 2 ]]; then
    COMPREPLY=($(compgen -W "$first" -- "$cur"))
  else
    _music_map_files "$cur"
  fi
}
_music_map_files() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -f -- "$1"))
}
complete -o filenames -F _music_map music-map
"""
