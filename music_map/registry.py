"""Tables of named things, such as losses and filters, that code outside the package can add to.

A name is looked up first among the things that this package and then the running code have registered. After that, the
modules in the entry points "music_map" of installed packages are imported, which register their things.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping
from typing import Generic, TypeVar

from music_map.errors import require

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by their names.

    Args:
      field: the setting or argument that chooses one, for messages: "config.loss.name".
      modules: of this package; importing them registers their things. They are imported at the first look-up, so that
        settings can be read without JAX.
    """

    def __init__(self, field: str, *modules: str):
        self._field = field
        self._modules = modules
        self._things: dict[str, T] = {}

    def register(self, name: str, thing: T) -> None:
        """Adds or replaces a thing."""
        self._things[name] = thing

    def replace(self, things: Mapping[str, T]) -> None:
        """Replaces all things, for example by an earlier result of `all`."""
        self._things = dict(things)

    def __contains__(self, name: str) -> bool:
        self._import_own()
        if name not in self._things:
            _import_installed(tuple(sys.path))
        return name in self._things

    def find(self, name: str) -> T:
        """The thing with a name. Raises UserError, with all known names, if there is none."""
        if not isinstance(name, str) or name not in self:
            near = difflib.get_close_matches(name, self.all(), n=1) if isinstance(name, str) else []
            hint = f"did you mean {near[0]!r}?" if near else "see docs/extending.md"
            require(False, self._field, name, f"one of {', '.join(self.all())}; {hint}")
        return self._things[name]

    def all(self, *, installed: bool = True) -> dict[str, T]:
        """All things by name, this package's first; without `installed`, only those registered so far."""
        self._import_own()
        if installed:
            _import_installed(tuple(sys.path))
        return dict(self._things)

    def _import_own(self) -> None:
        for module in self._modules:
            importlib.import_module(module)


# Cached, because a search of the installed packages takes 15 ms.
@functools.lru_cache(maxsize=1)
def _import_installed(path: tuple[str, ...]) -> None:
    del path  # only a cache key: another search path may have other packages
    for entry in importlib.metadata.entry_points(group="music_map"):
        entry.load()
