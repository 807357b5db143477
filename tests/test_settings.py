"""Settings: types, rules, values from JSON, what older runs meant."""

import dataclasses
import math

import pytest

from music_map.errors import UserError
from music_map.settings import Settings, from_stored, from_values, rules, setting, values_before


@dataclasses.dataclass(frozen=True)
class Shown(Settings):
    section = "config.shown"
    share: float = setting(0.5, "a share", at_least=0, below=1)
    half_life: float | None = setting(60.0, "days", above=0, finite=False)
    kind: str = setting("a", "one of two", choices=("a", "b"))
    count: int = setting(3, "a number", at_least=1, free=True)
    on: bool = setting(True, "a switch", before=False)
    ks: tuple[int, ...] = setting((1, 2), "some numbers")

    def check(self) -> None:
        if self.count > 5 and self.kind == "b":
            raise UserError("config.shown.count: at most 5 with kind b")


def test_values_of_each_type():
    made = Shown(share=0, half_life=None, ks=(3,))
    assert (made.share, type(made.share), made.half_life, made.ks) == (0.0, float, None, (3,))
    assert Shown(half_life=math.inf).half_life == math.inf
    assert hash(Shown()) == hash(Shown()) and rules(Shown)["count"].free


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": 1.0}, "config.shown.share=1.0: must be at least 0 and below 1"),
        ({"share": math.nan}, "config.shown.share=nan: must be"),
        ({"share": -math.inf}, "config.shown.share=-inf: must be"),
        ({"half_life": math.nan}, "config.shown.half_life=nan: must be above 0"),
        ({"half_life": 0}, "config.shown.half_life=0.0: must be above 0"),
        ({"kind": "c"}, "config.shown.kind='c': must be one of a, b"),
        ({"count": 0}, "config.shown.count=0: must be at least 1"),
        ({"count": True}, "config.shown.count=True: must be a whole number"),
        ({"count": 2**31}, "config.shown.count=2147483648: must be at most 2,147,483,647"),
        ({"count": 2.0}, "config.shown.count=2.0: must be a whole number"),
        ({"on": 1}, "config.shown.on=1: must be true or false"),
        ({"share": "half"}, "config.shown.share='half': must be a number"),
        ({"count": 6, "kind": "b"}, "at most 5 with kind b"),
    ],
)
def test_values_against_the_rules(change, message):
    with pytest.raises(UserError) as caught:
        Shown(**change)
    assert message in str(caught.value)


def test_values_from_json():
    assert from_values(Shown, {"ks": [4], "count": 2}) == Shown(ks=(4,), count=2)
    with pytest.raises(UserError, match=r"config\.shown\.cuont: there is no such field; fields are share"):
        from_values(Shown, {"cuont": 2})
    assert from_stored(Shown, {"count": 2, "gone": 1}) == (Shown(count=2, on=False), ["gone"])
    assert values_before(Shown) == dataclasses.asdict(Shown()) | {"on": False}
