"""JAX's on-disk cache of compiled programs, which commands turn on: a program is compiled once per machine.

The cache is in the user's cache folder, where nobody else can put programs. JAX runs every program that it finds there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

_OFF = ("off", "false", "no", "0")
# JAX's default threshold is a second, but most of the over hundred programs here compile in less.
_MIN_COMPILE_SECONDS = "0"
_MAX_ENTRIES, _MAX_BYTES = 5_000, 2 * 10**9


def enable() -> tuple[Path, bool] | None:
    """Sets JAX's environment variables, and JAX's configuration where a configuration file has imported it already.

    Several processes can use the folder. JAX writes an entry in place, compressed and with a checksum; a process that
    finds an unfinished entry compiles the program itself.

    Returns:
      The folder and whether it is new. None if MUSIC_MAP_CACHE=off, if JAX_COMPILATION_CACHE_DIR is set, or if the
      folder cannot be written or belongs to another user; then this sets no cache.
    """
    environment = os.environ
    if "JAX_COMPILATION_CACHE_DIR" in environment or environment.get("MUSIC_MAP_CACHE", "").lower() in _OFF:
        return None
    try:
        folder = _folder(environment)
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (os.access(folder, os.W_OK | os.X_OK) and _is_own(folder)):
            return None
        _prune(folder)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    seconds = environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", _MIN_COMPILE_SECONDS)
    if jax := sys.modules.get("jax"):  # it has read the environment
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", float(seconds))
    return folder, new


def _folder(environment: Mapping[str, str]) -> Path:
    base = Path(environment.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # also where it is unset: the XDG specification ignores relative paths
        base = Path.home() / ".cache"
    return base / "music-map" / "xla" / _processor()


def _processor() -> str:
    """A name for the kind of processor. JAX's key lacks it, and machines with a common home may have different ones."""
    kind = [platform.system(), platform.machine()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        kind += [next((line for line in lines if line.startswith(("flags", "Features"))), "")]
    return hashlib.sha256("\n".join(kind).encode()).hexdigest()[:12]


def _is_own(folder: Path) -> bool:
    return not hasattr(os, "geteuid") or folder.stat().st_uid == os.geteuid()


def _prune(folder: Path) -> None:
    """Removes the oldest programs beyond a number and a size.

    JAX's own limit reads a file of every entry whenever it adds one. If a process is killed meanwhile, nothing is added
    any more (jax-ml/jax#39880).
    """
    stats = [(entry.stat(), entry.path) for entry in os.scandir(folder) if entry.is_file()]
    size = 0
    for number, (stat, path) in enumerate(sorted(stats, key=lambda found: -found[0].st_mtime)):
        size += stat.st_size
        if number >= _MAX_ENTRIES or size > _MAX_BYTES:
            Path(path).unlink(missing_ok=True)
