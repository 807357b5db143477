"""--search: ranges checked against the configuration's types, and what a trial may draw from them."""

import math

import optuna
import pytest

from music_map.errors import UserError
from music_map.run.config import Config, get, with_values
from music_map.sweep import search_space
from music_map.sweep.search_space import Axis


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("model.alpha=0:1", Axis("model.alpha", low=0.0, high=1.0)),
        ("model.alpha=-0.5:0.5", Axis("model.alpha", low=-0.5, high=0.5)),
        ("model.alpha=0:0.3:0.1", Axis("model.alpha", low=0.0, high=0.3, step=0.1)),
        ("model.alpha=1e-4:1e-2:log", Axis("model.alpha", low=1e-4, high=1e-2, log=True)),
        ("model.alpha=0.1,0.2", Axis("model.alpha", (0.1, 0.2))),
        ("model.num_layers=1:4", Axis("model.num_layers", low=1, high=4)),
        ("model.num_layers=8:64:8", Axis("model.num_layers", low=8, high=64, step=8)),
        ("model.num_layers=1:100:log", Axis("model.num_layers", low=1, high=100, log=True)),
        ("model.num_layers=1,3", Axis("model.num_layers", (1, 3))),
        ("model.adaptive=true,False", Axis("model.adaptive", (True, False))),
        ("loss.name=bpr, softmax", Axis("loss.name", ("bpr", "softmax"))),
        ("graph.half_life_days=1:9", Axis("graph.half_life_days", low=1.0, high=9.0)),
    ],
)
def test_parse(text, axis):
    parsed = search_space.parse(text)
    assert parsed == axis
    assert [type(v) for v in parsed.ends()] == [type(v) for v in axis.ends()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.alpha", "--search=model.alpha: is no FIELD=RANGE"),
        ("model.alpha=", "is no FIELD=RANGE"),
        ("model.alhpa=0:1", "the configuration has no such field; did you mean model.alpha?"),
        ("modle.alpha=0:1", "the configuration has no such field; did you mean model?"),
        ("model.zzz=0:1", "no such field; there are name, num_layers"),
        ("zzz=0:1", "no such field; there are data, graph, model, loss"),
        ("model=0:1", "is a section; name one of its fields"),
        ("eval.ks[0]=1,2", "no such field"),
        ("data.split=temporal,global_temporal", "decides what validation measures"),
        ("eval.metric=ndcg@20,recall@20", "decides what validation measures"),
        ("recency.strength=1:2", "changes nothing in training"),
        ("model.alpha=1:0", "1 is not below 0"),
        ("model.alpha=1:1", "1 is not below 1"),
        ("model.alpha=0:x", "'x' is not a float, which config.model.alpha is"),
        ("model.alpha=0:inf", "'inf' cannot be searched; give a finite number"),
        ("model.alpha=0:1:log", "a logarithm needs a range above 0"),
        ("model.alpha=0:1:0.3", "1 is not reached from 0 in steps of 0.3"),
        ("model.alpha=0:1:-0.5", "1 is not reached from 0 in steps of -0.5"),
        ("model.alpha=0:1:log:2", "too many parts"),
        ("model.num_layers=0.5:2", "'0.5' is not an int, which config.model.num_layers is"),
        ("model.num_layers=1,2.5", "'2.5' is not an int"),
        ("model.adaptive=0,1", "'0' is not true or false"),
        ("loss.name=bpr", "leaves no choice; give two or more categories, or set --config.loss.name=bpr"),
        ("model.alpha=0.5", "give two or more categories or a range LOW:HIGH, or set --config.model.alpha=0.5"),
        ("loss.name=bpr,bpr", "names a category twice"),
        ("loss.name=bpr,", "'' cannot be searched; give a value"),
    ],
)
def test_bad_ranges(text, message):
    with pytest.raises(UserError) as caught:
        search_space.parse(text)
    assert message in str(caught.value) and str(caught.value).startswith("--search=")


def test_parse_all():
    axes = search_space.parse_all(["model.alpha=0:1", "loss.name=bpr,softmax"])
    assert [axis.field for axis in axes] == ["model.alpha", "loss.name"]
    with pytest.raises(UserError, match="--search missing"):
        search_space.parse_all([])
    with pytest.raises(UserError, match=r"--search=model\.alpha: is given twice"):
        search_space.parse_all(["model.alpha=0:1", "model.alpha=0:2"])


@pytest.mark.parametrize(
    ("axis", "inside", "outside"),
    [
        (Axis("f", low=0.0, high=1.0), [0.0, 0.3, 1.0], [-0.1, 1.1, None]),
        (Axis("f", low=0.1, high=0.4, step=0.1), [0.1, 0.2, 0.3, 0.4], [0.15, 0.5]),
        (Axis("f", low=512, high=4096, step=512), [512, 1536], [513, 0]),
        (Axis("f", ("bpr", "softmax")), ["bpr"], ["x", None]),
    ],
)
def test_holds(axis, inside, outside):
    assert all(axis.holds(v) for v in inside) and not any(axis.holds(v) for v in outside)


def test_trials_draw_what_the_range_holds():
    axes = [
        Axis("float", low=-0.5, high=0.5),
        Axis("stepped", low=0.0, high=0.3, step=0.1),
        Axis("log", low=1e-4, high=1.0, log=True),
        Axis("int", low=1, high=4),
        Axis("ints", low=8, high=64, step=8),
        Axis("choice", ("a", "b", "c")),
        Axis("switch", (True, False)),
    ]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = {axis.field: [] for axis in axes}
    for _ in range(100):
        trial = study.ask()
        for axis in axes:
            value = axis.suggest(trial)
            assert type(value) is type(axis.ends()[0])
            assert axis.step is not None or axis.holds(value)
            drawn[axis.field].append(value)
    assert {round(v, 9) for v in drawn["stepped"]} == {0.0, 0.1, 0.2, 0.3}
    assert set(drawn["int"]) == {1, 2, 3, 4} and set(drawn["ints"]) == set(range(8, 65, 8))
    assert set(drawn["choice"]) == {"a", "b", "c"} and set(drawn["switch"]) == {True, False}
    # Uniform in the logarithm: half of the draws lie below the geometric mean of the ends.
    assert 30 < sum(math.log10(v) < -2 for v in drawn["log"]) < 70


def test_with_values_changes_a_copy():
    config = Config()
    changed = with_values(config, {"model.alpha": 0.1, "graph.half_life_days": 3.0})
    assert (changed.model.alpha, changed.graph.half_life_days, changed.loss) == (0.1, 3.0, config.loss)
    assert get(config, "model.alpha") == 0.6 and config.graph.half_life_days == 60.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.gamma=0:2", "--search=model.gamma: config.model.gamma=2.0: must be at least 0 and at most 1"),
        ("loss.name=bpr,sotfmax", "--search=loss.name: config.loss.name='sotfmax': must be one of bpr"),
        ("train.batch_size=-1:8", "--search=train.batch_size: config.train.batch_size=-1: must be at least 0"),
        ("train.learning_rate=-1:1", "--search=train.learning_rate: config.train.learning_rate=-1.0: must be above 0"),
        (
            "graph.half_life_days=0:9",
            "--search=graph.half_life_days: config.graph.half_life_days=0.0: must be at least",
        ),
        ("train.num_epochs=-1:9", "--search=train.num_epochs: config.train.num_epochs=-1: must be at least 0"),
    ],
)
def test_ends_that_the_configuration_refuses(text, message):
    with pytest.raises(UserError) as caught:
        search_space.check_ends([search_space.parse(text)], Config())
    assert str(caught.value).startswith(message)


def test_ends_that_the_configuration_takes():
    search_space.check_ends(
        search_space.parse_all(["model.gamma=0:1", "loss.name=bpr,softmax", "model.adaptive=true,false"]), Config()
    )


def test_an_end_that_is_wrong_only_beside_another_field():
    # A trial that draws "full" as well may have this value.
    config = with_values(Config(), {"train.mode": "subgraph"})
    search_space.check_ends([Axis("train.user_sampling", ("uniform", "uniform"))], config)
    with pytest.raises(UserError, match=r"--search=train\.user_sampling"):
        search_space.check_ends([Axis("train.user_sampling", ("uniform", "degree"))], config)
