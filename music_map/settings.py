"""Settings: the declaration of a field has its default, its meaning and its check.

    @dataclasses.dataclass(frozen=True)
    class ModelSettings(Settings):
        section = "config.model"
        alpha: float = setting(0.6, "power of the receiver's degree")
        score: str = setting("cosine", "length of embeddings", choices=("cosine", "dot"))

Settings are checked when they are made, and they are hashable. Each field states whether a trained run may continue
with another value (`free`), and its value in runs that are older than the field (`before`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar

from music_map.errors import UserError, require

# Integers reach JAX as int32, and floats as float32: a larger one would be infinite there, a smaller one 0.
MOST_INT = 2**31 - 1
MOST_FLOAT, LEAST_FLOAT = 3e38, 1.2e-38
_MISSING: Any = object()


@dataclasses.dataclass(frozen=True)
class Rule:
    """The rule of one field. A bound of None does not restrict the field.

    Attributes:
      doc: the meaning of the field in one line.
      choices: the allowed values; () for any.
      at_least, above, at_most, below: bounds of a number.
      finite: whether infinity is refused; NaN always is.
      free: whether a trained run may continue with another value.
      before: the value in runs that are older than the field, if it differs from the default.
    """

    doc: str
    choices: tuple[Any, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    finite: bool = True
    free: bool = False
    before: Any = _MISSING

    def text(self) -> str:
        """The rule in words, "" if there is none."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        named = ("at_least", "above", "at_most", "below")
        bounds = [
            f"{name.replace('_', ' ')} {getattr(self, name):,}" for name in named if getattr(self, name) is not None
        ]
        return " and ".join(bounds) or ("a finite number" if self.finite else "a number")

    def allows(self, value: Any) -> bool:
        """Whether a value of the right type satisfies the rule."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        if isinstance(value, float) and (math.isnan(value) or (self.finite and math.isinf(value))):
            return False
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


def setting(default: Any, doc: str, **rule: Any) -> Any:
    """A field of Settings; see Rule for the keywords."""
    return dataclasses.field(default=default, metadata={"rule": Rule(doc, **rule)})


class Settings:
    """Base of frozen dataclasses whose fields are declared by `setting`.

    Raises:
      UserError: a value of another type or against its field's rule: "SECTION.FIELD=VALUE: must be RULE".
    """

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for name, kinds in field_types(type(self)).items():
            value = checked(f"{self.section}.{name}", getattr(self, name), kinds, rules(type(self))[name])
            object.__setattr__(self, name, value)
        self.check()

    @classmethod
    def kind_of(cls, values: Mapping[str, Any]) -> type:
        """The settings class for these values; a value may choose a subclass (a loss with further fields)."""
        del values
        return cls

    def check(self) -> None:
        """Raises UserError if fields contradict each other."""


@functools.cache
def rules(kind: type) -> dict[str, Rule]:
    """The rules of a settings class by field."""
    return {f.name: f.metadata["rule"] for f in dataclasses.fields(kind)}


@functools.cache
def field_types(kind: type) -> dict[str, tuple[type, ...]]:
    """The types that each field may have: (float, NoneType) for "float | None"."""
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        found[field.name] = tuple(typing.get_origin(one) or one for one in kinds)
    return found


def checked(field: str, value: Any, kinds: tuple[type, ...], rule: Rule) -> Any:
    """Checks a value's type (one of `kinds`) and rule; returns it, as a float if a whole number stands for one.

    Raises:
      UserError: "FIELD=VALUE: must be RULE".
    """
    if float in kinds and type(value) is int:
        value = float(value) if abs(value) <= MOST_FLOAT else math.inf if value > 0 else -math.inf
    require(type(value) in kinds, field, value, _kinds_text(kinds))
    if type(value) is int and rule.at_most is None:
        require(value <= MOST_INT, field, value, f"at most {MOST_INT:,}")
    require(rule.allows(value), field, value, rule.text())
    if type(value) is float and value and math.isfinite(value):
        require(abs(value) <= MOST_FLOAT, field, value, f"at most {MOST_FLOAT:g}")
        require(abs(value) >= LEAST_FLOAT, field, value, f"0, or at least {LEAST_FLOAT:g}")
    return value


def _kinds_text(kinds: tuple[type, ...]) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple: "a list"}
    return " or ".join(names.get(kind, "none") for kind in kinds)


def from_values(kind: type, values: Mapping[str, Any]) -> Any:
    """Settings from JSON-able values.

    Args:
      kind: of settings.
      values: by field; lists become tuples. A missing field gets its default.

    Raises:
      UserError: a field that the settings do not have, or a value against its rule.
    """
    kind = kind.kind_of(values)
    known = rules(kind)
    for name in values:
        if name not in known:
            raise UserError(f"{kind.section}.{name}: there is no such field; fields are {', '.join(known)}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def from_stored(kind: type, values: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Settings that any version of this project wrote.

    A missing field gets the value that reproduces the older version's behaviour (`Rule.before`).

    Returns:
      The settings, and the fields that this version does not know.

    Raises:
      UserError: a value against its rule.
    """
    kind = kind.kind_of(values)
    known = {name: value for name, value in values.items() if name in rules(kind)}
    return from_values(kind, values_before(kind) | known), [name for name in values if name not in known]


def values_before(kind: type) -> dict[str, Any]:
    """The value of each field in runs that are older than the field."""
    return {
        f.name: f.default if (before := rules(kind)[f.name].before) is _MISSING else before
        for f in dataclasses.fields(kind)
    }
