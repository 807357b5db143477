import dataclasses

import numpy as np
import pytest

from music_map.errors import UserError
from music_map.evaluation.baselines import fit_baselines, tune_baselines
from music_map.evaluation.baselines.settings import SETTINGS, DecayPopSettings, IalsSettings
from music_map.evaluation.baselines.tuning import GRIDS
from music_map.evaluation.evaluate import evaluate_scores
from music_map.evaluation.protocols import Protocol, build_task
from music_map.preprocess.dataset import LISTEN, Events

DAY = 86_400
NUM_USERS, NUM_ITEMS = 40, 30
PROTOCOL = Protocol("repeats", "any", history="any", mask="none", candidates="train")


def events(rng, days, size, songs):
    users = np.sort(rng.integers(0, NUM_USERS, size)).astype(np.int32)
    times = rng.uniform(*days, size) * DAY
    items = songs(times / DAY, users).astype(np.int32)
    order = np.lexsort((times, users))
    ones = np.ones(size, np.uint8)
    return Events(
        users, items[order], times[order].astype(np.uint32), ones * LISTEN, ones, ones.astype(np.uint16) * 100
    )


@pytest.fixture(scope="module")
def drifting():
    """The popular song changes every five days: old popularity misleads."""
    rng = np.random.default_rng(0)
    songs = lambda day, users: (np.floor(day / 5) * 2 + rng.integers(0, 3, len(day))) % NUM_ITEMS  # noqa: E731
    train, val, test = (events(rng, days, n, songs) for days, n in (((0, 30), 1500), ((30, 32), 100), ((32, 34), 100)))
    size = {"num_users": NUM_USERS, "num_items": NUM_ITEMS}
    task = build_task(PROTOCOL, "val", train=train, val=val, test=test, **size)
    return train, task, {**size, "train_end": 30 * DAY, "seed": 0}


def test_the_best_on_validation_is_taken_and_fits_to_that_value(drifting):
    train, task, inputs = drifting
    names = ["most_pop", "decay_pop", "item_knn_decay"]
    tuned = dict(tune_baselines(names, train, task, **inputs, metric="ndcg@10"))
    assert list(tuned) == ["decay_pop", "item_knn_decay"]
    for name, found in tuned.items():
        values = [value for _, value in found.trials]
        assert found.value == max(values) and len(values) == len(GRIDS[name]["half_life_days"])
        ((_, scores),) = fit_baselines([name], train, task.protocol, **inputs, settings={name: found.settings})
        assert evaluate_scores(scores, task, ks=(10,)).metrics["ndcg@10"] == found.value
    assert tuned["decay_pop"].settings.half_life_days < 10 and min(values) < max(values)


def test_epochs_are_chosen_where_a_baseline_has_them(drifting):
    pytest.importorskip("implicit")
    train, task, inputs = drifting
    grids = {"ials": {"alpha": (1.0, 10.0), "factors": (4, 8)}}
    ((_, found),) = tune_baselines(["ials"], train, task, **inputs, metric="recall@10", grids=grids)
    # Two values of alpha, then one other number of factors each: the default, 64, is no value of the grid.
    assert [(s.alpha, s.factors) for s, _ in found.trials][:2] == [(1.0, 64), (10.0, 64)] and len(found.trials) == 4
    assert isinstance(found.settings, IalsSettings) and found.settings.num_epochs % 3 == 0
    ((_, scores),) = fit_baselines(["ials"], train, task.protocol, **inputs, settings={"ials": found.settings})
    assert evaluate_scores(scores, task, ks=(10,)).metrics["recall@10"] == pytest.approx(found.value)


def test_many_users_are_compared_on_a_sample(drifting):
    train, task, inputs = drifting
    grids = {"decay_pop": {"half_life_days": (1.0,)}}

    def value(**options):
        ((_, found),) = tune_baselines(["decay_pop"], train, task, **inputs, metric="recall@10", grids=grids, **options)
        return found.value

    assert value(max_users=1000) == value() and value(max_users=3) == value(max_users=3) != value()


def test_what_a_grid_names_can_be_set():
    assert GRIDS.keys() == SETTINGS.keys()
    for name, grid in GRIDS.items():
        for field, values in grid.items():
            for value in values:
                assert getattr(dataclasses.replace(SETTINGS[name](), **{field: value}), field) == value


def test_unknown_baseline_is_refused_at_once(drifting):
    train, task, inputs = drifting
    with pytest.raises(UserError, match="'decaypop' is unknown; did you mean 'decay_pop'"):
        tune_baselines(["decaypop"], train, task, **inputs, metric="ndcg@10")


def test_settings_refuse_values_without_meaning():
    with pytest.raises(UserError, match=r"decay_pop.half_life_days=0.0: must be at least 1e-06 and at most 1,000,000"):
        DecayPopSettings(half_life_days=0.0)
