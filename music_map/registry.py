"""Tables of named things, such as losses and encoders, that code outside the package can add to.

A name is looked up among what this package registers, what the process has registered since, and last what installed
packages offer: the modules of their entry points in the group "music_map" are imported, and register by themselves.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Generic, TypeVar

from music_map.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by their names.

    Args:
      field: the setting that chooses one, for messages: "config.loss.name".
      modules: of this package; importing them registers theirs. They are imported at the first look-up, so that
        settings can be read without JAX.
    """

    def __init__(self, field: str, *modules: str):
        self._field = field
        self._modules = modules
        self._things: dict[str, T] = {}

    def register(self, name: str, thing: T) -> None:
        """Adds or replaces a thing."""
        self._things[name] = thing

    def find(self, name: str) -> T:
        """The thing of a name. Raises UserError, with the names there are, for another."""
        for module in self._modules:
            importlib.import_module(module)
        if name not in self._things and name not in self.all():
            raise UserError(f"{self._field}={name!r}: must be one of {', '.join(self._things)} (docs/extending.md)")
        return self._things[name]

    def all(self) -> dict[str, T]:
        """All things by name, those that installed packages offer too."""
        for module in self._modules:
            importlib.import_module(module)
        for entry in importlib.metadata.entry_points(group="music_map"):
            entry.load()
        return dict(self._things)
