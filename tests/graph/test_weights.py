"""Edge weights by hand: decay, organic factor, clipping, likes, withdrawals."""

import functools
import math

import numpy as np
import pytest

from music_map.errors import UserError
from music_map.graph.settings import GraphSettings
from music_map.graph.weights import chunk_edges, event_weight, temporal_weight
from music_map.preprocess.dataset import DISLIKE, EVENT_TYPES, LIKE, LISTEN, WITHDRAWAL_TYPES, Events, Withdrawals

DAY = 86_400
# Edge weights without the logarithm: sums can be read.
raw = functools.partial(GraphSettings, log1p=False)
PLAIN = raw(half_life_days=None, organic_factor=1.0)


def events_of(*rows: tuple[int, int, int, int, int, int]) -> Events:
    """Rows (user, item, timestamp, kind, is_organic, played_pct)."""
    columns = zip(*rows, strict=True) if rows else [()] * 6
    return Events(*(np.array(c, t) for c, t in zip(columns, EVENT_TYPES, strict=True)))


def withdrawals_of(*rows: tuple[int, int, int, int]) -> Withdrawals:
    """Rows (user, item, timestamp, kind)."""
    columns = zip(*rows, strict=True) if rows else [()] * 4
    return Withdrawals(*(np.array(c, t) for c, t in zip(columns, WITHDRAWAL_TYPES, strict=True)))


def edges(settings: GraphSettings, events: Events, withdrawn: Withdrawals | None = None, now: int = 100 * DAY) -> list:
    found, _, _ = chunk_edges(events, withdrawn or withdrawals_of(), settings, now=now, num_items=10)
    return [(u, i, pytest.approx(w, rel=1e-6)) for u, i, w in zip(*(c.tolist() for c in found), strict=True)]


def test_temporal_weight_halves_every_half_life() -> None:
    at = np.array([100, 93, 86, 79], np.uint32) * DAY
    weight = temporal_weight(at, now=100 * DAY, half_life_days=7.0)
    assert weight.tolist() == [1.0, 0.5, 0.25, 0.125]
    for no_decay in (None, math.inf):
        assert temporal_weight(at, now=100 * DAY, half_life_days=no_decay).tolist() == [1.0] * 4
    assert raw(half_life_days=math.inf).identity() == raw(half_life_days=None).identity()


def test_one_edge_sums_its_events() -> None:
    settings = raw(half_life_days=50.0, organic_factor=0.5)
    events = events_of(
        (0, 3, 50 * DAY, LISTEN, 1, 80),  # 0.8 x 0.5 x 1 = 0.4
        (0, 3, 100 * DAY, LISTEN, 0, 150),  # clipped: 1 x 1 x 0.5 = 0.5
        (0, 3, 100 * DAY, LIKE, 0, 0),  # 5 x 1 x 0.5 = 2.5
        (0, 4, 100 * DAY, LISTEN, 1, 0),  # no signal
        (1, 2, 0, LISTEN, 1, 100),  # 1 x 0.25 x 1
    )
    assert edges(settings, events) == [(0, 3, 3.4), (1, 2, 0.25)]
    logs = GraphSettings(half_life_days=50.0, organic_factor=0.5)
    assert edges(logs, events) == [(0, 3, math.log(4.4)), (1, 2, math.log(1.25))]
    parallel = raw(edges="events", half_life_days=50.0, organic_factor=0.5)
    assert edges(parallel, events) == [(0, 3, 0.4), (0, 3, 0.5), (0, 3, 2.5), (1, 2, 0.25)]


def test_edges_are_in_order_however_large_the_numbers() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (u, int(rng.integers(9)), n, LISTEN, 1, int(rng.integers(1, 99))) for n, u in enumerate(np.repeat([3, 4], 40))
    ]
    events = events_of(*rows)
    settings = raw(edges="events", half_life_days=None)
    # Two to the power of 60 songs leave no room for the row beside user and song: another sort.
    few, many = (chunk_edges(events, withdrawals_of(), settings, now=99, num_items=n)[0] for n in (9, 2**60))
    expected = sorted(rows, key=lambda row: row[:2])
    assert few.item.tolist() == [row[1] for row in expected]
    assert few.weight.tolist() == pytest.approx([row[5] / 100 for row in expected])
    for a, b in zip(few, many, strict=True):
        assert a.tolist() == b.tolist()


def test_a_like_counts_once_at_its_latest() -> None:
    settings = raw(half_life_days=50.0, organic_factor=1.0)
    events = events_of((0, 3, 0, LIKE, 1, 0), (0, 3, 50 * DAY, LIKE, 1, 0))
    assert edges(settings, events) == [(0, 3, 2.5)]


@pytest.mark.parametrize(("like", "unlike", "stands"), [(10, 15, False), (10, 10, False), (10, 5, True)])
def test_unlike_withdraws_the_like_before_it(like: int, unlike: int, stands: bool) -> None:
    events = events_of((0, 3, like, LIKE, 1, 0))
    assert edges(PLAIN, events, withdrawals_of((0, 3, unlike, LIKE))) == ([(0, 3, 5.0)] if stands else [])


def test_negative_edges_are_the_standing_dislikes() -> None:
    events = events_of(
        (0, 3, 10, DISLIKE, 1, 0),
        (0, 3, 20, DISLIKE, 0, 0),
        (0, 5, 10, DISLIKE, 1, 0),
        (1, 2, 20, DISLIKE, 1, 0),
    )
    withdrawn = withdrawals_of((0, 5, 15, DISLIKE))
    for kind, pairs in (("sum", [(0, 3), (1, 2)]), ("events", [(0, 3), (0, 3), (1, 2)])):
        found, negatives, counts = chunk_edges(events, withdrawn, raw(edges=kind), now=20, num_items=10)
        assert len(found.user) == 0
        assert list(zip(negatives.user.tolist(), negatives.item.tolist(), strict=True)) == pairs
        assert set(negatives.weight.tolist()) == {3.0}
        assert counts.withdrawn_dislikes == 1


def test_weights_of_zero_give_no_edge() -> None:
    by_recommender = events_of((0, 3, 10, LISTEN, 0, 100), (0, 4, 10, LISTEN, 1, 100))
    assert edges(raw(half_life_days=None, organic_factor=0.0), by_recommender) == [(0, 4, 1.0)]
    # 2^-200 is below the smallest float32.
    assert edges(raw(half_life_days=0.5), events_of((0, 3, 0, LISTEN, 1, 100))) == []


def test_event_weight_of_each_kind() -> None:
    events = events_of((0, 1, 9, LISTEN, 1, 159), (0, 1, 9, LIKE, 0, 0), (0, 1, 9, DISLIKE, 0, 0))
    settings = raw(like_weight=4.0, dislike_weight=-2.0, organic_factor=0.25)
    assert event_weight(events, settings, now=9).tolist() == [1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": "all"}, r"config.graph.edges='all': must be one of sum, events"),
        ({"half_life_days": -1.0}, r"config.graph.half_life_days=-1.0: must be at least 0.001"),
        ({"half_life_days": 0.0}, r"config.graph.half_life_days=0.0: must be at least 0.001"),
        ({"half_life_days": float("nan")}, r"config.graph.half_life_days=nan"),
        ({"organic_factor": -0.5}, r"config.graph.organic_factor=-0.5: must be at least 0"),
        ({"like_weight": float("inf")}, r"config.graph.like_weight=inf"),
        ({"dislike_weight": float("nan")}, r"config.graph.dislike_weight=nan"),
    ],
)
def test_settings_out_of_range(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        raw(**change)
