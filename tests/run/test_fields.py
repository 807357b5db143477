"""Every field of the configuration and of the baselines' settings at and beyond its bounds."""

import math

import pytest

from music_map.errors import UserError
from music_map.evaluation.baselines.settings import SETTINGS, settings_from_json
from music_map.run.config import SECTIONS, from_dict
from music_map.run.memory import require_room
from music_map.settings import MOST_FLOAT, MOST_INT, field_types, rules

NUMBERS = (
    math.nan,
    math.inf,
    -math.inf,
    -1,
    -1.0,
    0,
    1e-320,
    1e39,
    1e308,
    2**31,
    2**32,
    2**63,
    10**5000,
    -(10**400),
    True,
)
OTHERS = ("", "x", None, [], ["x"], [-3], [True], [2**63], [math.nan], {}, {"a": 1}, b"x", "\x1b[0m", "\ud800")


def outcome(make, field):
    """Whether the values are taken; a refusal is one line that names the field."""
    try:
        make()
    except UserError as e:
        assert "\n" not in str(e) and field in str(e)
        return False
    return True


@pytest.mark.parametrize("section", SECTIONS)
def test_a_value_is_taken_or_refused_by_name(section):
    kind = SECTIONS[section]
    for name, kinds in field_types(kind).items():
        field, rule = f"{section}.{name}", rules(kind)[name]
        taken = [
            x
            for x in (*NUMBERS, *OTHERS)
            if outcome(lambda x=x, n=name: from_dict({section: {n: x}}), f"config.{field}")
        ]
        numbers = [x for x in taken if isinstance(x, int | float) and not isinstance(x, bool)]
        if int in kinds or float in kinds:
            assert (None in taken) == (type(None) in kinds) and True not in taken
            most = MOST_FLOAT if float in kinds else MOST_INT
            assert not rule.finite or all(abs(x) <= most for x in numbers), field
            assert not any(x != x or x == -math.inf for x in numbers), field
            if name.endswith("seed"):
                assert numbers == [0]
        else:
            assert not numbers or bool in kinds, field


def test_a_value_of_a_baseline_is_taken_or_refused_by_name():
    for baseline, kind in SETTINGS.items():
        for name, kinds in field_types(kind).items():
            for x in (*NUMBERS, *OTHERS):
                make = lambda x=x, b=baseline, n=name: settings_from_json({b: {n: x}}, source="file")  # noqa: E731
                taken = outcome(make, f"file: {baseline}.{name}")
                assert not taken or (isinstance(x, bool) == (bool in kinds) and math.isfinite(x) and abs(x) < 2**31)
    for stored in (None, [], {"decay_pop": 3}, {"decay_pop": {"x": 1}}, {"x": {}}):
        with pytest.raises(UserError, match="file: "):
            settings_from_json(stored, source="file")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"model": {"embedding_dim": 65_536}},
            r"config\.model\.embedding_dim=65536: training 11,000,000 users and songs",
        ),
        ({"model": {"num_layers": 256}}, r"config\.model\.num_layers=256: the layers of 11,000,000"),
        ({"train": {"batch_size": 2**24}}, r"config\.train\.batch_size=16777216: the scores of 1,024 negatives"),
        (
            {"loss": {"negatives": "in_batch"}, "train": {"batch_size": 2**20}},
            r"config\.train\.batch_size=1048576: the scores of 1,048,576 negatives needs 12,288\.0 GiB of memory, but",
        ),
    ],
)
def test_sizes_that_cannot_be_allocated_are_refused_before(values, says, monkeypatch):
    monkeypatch.setattr("music_map.errors._free_memory", lambda: 16 << 30)
    require_room(from_dict({}), num_users=100_000, num_items=1_000_000)
    require_room(from_dict({"loss": {"name": "bpr"}, "train": {"batch_size": 2**22}}), num_users=1000, num_items=1000)
    with pytest.raises(UserError, match=says):
        require_room(from_dict(values), num_users=1_000_000, num_items=10_000_000)
