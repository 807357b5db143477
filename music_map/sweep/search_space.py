"""The fields that a sweep searches, from `--search=FIELD=RANGE`, checked against the configuration's own types.

model.alpha=0:1                      a float or an int between two ends, both included
train.learning_rate=1e-4:1e-2:log    uniform in the logarithm
train.batch_size=512:4096:512        in steps
loss.name=bpr,softmax                categories: strings, numbers or booleans
model.adaptive=true,false
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Protocol

from music_map.errors import UserError
from music_map.run.config import Config, field_kinds, with_values

Value = str | float | int | bool

# These sections define the measurement, so trials with different values could not be compared.
_MEASURE = ("data", "eval")
# These have no effect on training, by which a trial is measured.
_LATER = ("recency", "graph_filter", "retrieval")


class Trial(Protocol):
    """Chooses values: an Optuna trial."""

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...
    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float: ...


@dataclasses.dataclass(frozen=True)
class Axis:
    """One field and its range.

    Attributes:
      field: name in the configuration, e.g. "model.alpha".
      choices: the categories; () for a range of numbers.
      low, high: the ends of a range, both included: float or int, as the field is.
      step: between neighbouring values; None: any value.
      log: search the logarithm.
    """

    field: str
    choices: tuple[Value, ...] = ()
    low: float | int = 0
    high: float | int = 0
    step: float | int | None = None
    log: bool = False

    def suggest(self, trial: Trial) -> Value:
        """The trial's value of this field."""
        if self.choices:
            return trial.suggest_categorical(self.field, self.choices)
        if isinstance(self.low, int):
            return trial.suggest_int(self.field, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(self.field, self.low, self.high, step=self.step, log=self.log)

    def holds(self, value: Value | None) -> bool:
        """Whether the range has this value."""
        if self.choices:
            return value in self.choices
        if value is None or not self.low <= value <= self.high:
            return False
        return self.step is None or not (Decimal(repr(value)) - Decimal(repr(self.low))) % Decimal(repr(self.step))

    def ends(self) -> tuple[Value, ...]:
        """All categories, or the two ends."""
        return self.choices or (self.low, self.high)


def parse(text: str) -> Axis:
    """An axis from "FIELD=RANGE".

    Args:
      text: the flag's value.

    Raises:
      UserError: no such field, a range of another type, or one that leaves no choice.
    """
    flag = f"--search={text}"
    field, has_range, wanted = text.partition("=")
    if not (field and has_range and wanted):
        raise UserError(f"{flag}: is no FIELD=RANGE, e.g. --search=model.alpha=0:1 or --search=loss.name=bpr,softmax")
    kind = field_kinds(field, "--search=")[0]
    section = field.partition(".")[0]
    if section in _MEASURE:
        raise UserError(
            f"{flag}: config.{field} decides what validation measures, so that trials could not be compared; "
            f"set it with --config.{field}=VALUE for the whole sweep"
        )
    if section in _LATER:
        raise UserError(f"{flag}: config.{field} changes nothing in training, which is what a trial is measured by")
    if kind not in (str, float, int, bool):
        raise UserError(f"{flag}: config.{field} is a {kind.__name__}; only strings, numbers and booleans are searched")
    if kind in (float, int) and ":" in wanted:
        return _range(flag, field, kind, wanted.split(":"))
    choices = tuple(_value(flag, field, kind, part) for part in wanted.split(","))
    if len(set(choices)) != len(choices):
        raise UserError(f"{flag}: names a category twice")
    if len(choices) < 2:
        ranges = " or a range LOW:HIGH" if kind in (float, int) else ""
        raise UserError(
            f"{flag}: leaves no choice; give two or more categories{ranges}, or set --config.{field}={wanted}"
        )
    return Axis(field, choices)


def _value(flag: str, field: str, kind: type, text: str) -> Value:
    text = text.strip()
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = kind(text)
    except (ValueError, KeyError) as e:
        wanted = "true or false" if kind is bool else f"{'an' if kind is int else 'a'} {kind.__name__}"
        raise UserError(f"{flag}: {text!r} is not {wanted}, which config.{field} is") from e
    if value == "" or (kind is float and not math.isfinite(value)):
        raise UserError(f"{flag}: {text!r} cannot be searched; give {'a finite number' if text else 'a value'}")
    return value


def _range(flag: str, field: str, kind: type, parts: list[str]) -> Axis:
    if len(parts) > 3:
        raise UserError(f"{flag}: has too many parts; a range is LOW:HIGH, LOW:HIGH:log or LOW:HIGH:STEP")
    low, high = (_value(flag, field, kind, part) for part in parts[:2])
    if not low < high:
        raise UserError(f"{flag}: {parts[0]} is not below {parts[1]}; a range is LOW:HIGH")
    how = parts[2].strip() if len(parts) == 3 else None
    if how == "log":
        if low <= 0:
            raise UserError(f"{flag}: a logarithm needs a range above 0")
        return Axis(field, low=low, high=high, log=True)
    if how is None:
        return Axis(field, low=low, high=high)
    step = _value(flag, field, kind, how)
    if step <= 0 or (Decimal(parts[1].strip()) - Decimal(parts[0].strip())) % Decimal(how):
        raise UserError(f"{flag}: {parts[1]} is not reached from {parts[0]} in steps of {how}")
    return Axis(field, low=low, high=high, step=step)


def parse_all(texts: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of all --search flags. Raises UserError also for none, or for a field named twice."""
    if not texts:
        raise UserError("--search missing; name a field and its range, e.g. --search=model.alpha=0:1")
    axes = tuple(parse(text) for text in texts)
    fields = [axis.field for axis in axes]
    for field in fields:
        if fields.count(field) > 1:
            raise UserError(f"--search={field}: is given twice; give each field one range")
    return axes


def check_ends(axes: Sequence[Axis], config: Config) -> None:
    """Raises UserError for a category or an end that is wrong in every trial."""
    for axis in axes:
        for value in axis.ends():
            try:
                with_values(config, {axis.field: value})
            except UserError as e:
                # A value that is wrong in combination with another field's may be right in a trial.
                if str(e).startswith(f"config.{axis.field}="):
                    raise UserError(f"--search={axis.field}: {e}") from e
