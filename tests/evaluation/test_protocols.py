import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.evaluation.protocols import PROTOCOLS, Protocol, build_task, check_protocol, find_protocol, relevant
from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN, Events

OVER_USERS = sorted(name for name, protocol in PROTOCOLS.all().items() if protocol.queries == "users")

USERS, ITEMS = 5, 8


def events(*rows):
    """Rows (user, item, kind, played_pct)."""
    user, item, kind, pct = np.array(rows, np.int64).reshape(-1, 4).T
    return Events(
        user.astype(np.int32),
        item.astype(np.int32),
        np.arange(len(user), dtype=np.uint32),
        kind.astype(np.uint8),
        np.ones(len(user), np.uint8),
        pct.astype(np.uint16),
    )


# Songs 0-3 have positive train events (3 only short listens), 4 only a listen of 0 %, 5 only a dislike, 6 and 7 none.
TRAIN = events(
    (0, 0, LISTEN, 100),
    (0, 1, LISTEN, 30),
    (0, 5, DISLIKE, 0),
    (1, 2, LIKE, 0),
    (1, 3, LISTEN, 10),
    (2, 3, LISTEN, 20),
    (2, 0, LISTEN, 100),
    (4, 4, LISTEN, 0),
)
VAL = events(
    (0, 0, LISTEN, 90),  # a repeat
    (0, 2, LISTEN, 50),  # new
    (0, 3, LISTEN, 49),  # new, played too little
    (0, 5, LISTEN, 100),  # disliked in train
    (0, 6, LISTEN, 159),  # new, and unknown to train
    (1, 1, LIKE, 0),  # new
    (1, 7, DISLIKE, 0),
    (3, 1, LISTEN, 100),  # a user without train
    (4, 1, LISTEN, 100),  # a user with nothing but a listen of 0 %
)
TEST = events(
    (0, 2, LISTEN, 100),  # met in val
    (0, 3, LIKE, 0),  # met in val, if briefly
    (0, 7, LISTEN, 100),
    (1, 7, LISTEN, 100),  # disliked in val
    (1, 0, LISTEN, 80),
    (1, 0, LIKE, 0),
    (2, 0, LISTEN, 100),  # a repeat from train
)
HELD_OUT = np.isin(np.arange(ITEMS), [2, 6, 7])
DATA = {
    "train": TRAIN, "val": VAL, "test": TEST, "num_users": USERS, "num_items": ITEMS, "held_out_items": HELD_OUT,
}  # fmt: skip


def rows(users, pairs):
    bounds = pairs.offsets
    return {int(u): pairs.items[bounds[r] : bounds[r + 1]].tolist() for r, u in enumerate(users)}


@pytest.mark.parametrize(
    ("name", "split", "targets", "masked", "candidates", "dropped", "cold"),
    [
        ("temporal", "val", {0: [2, 6], 1: [1]}, {0: [0, 1, 5], 1: [2, 3]}, [0, 1, 2, 3], 2, 1 / 3),
        ("temporal", "test", {0: [7], 1: [0]}, {0: [0, 1, 2, 3, 5, 6], 1: [1, 2, 3, 7]}, [0, 1, 2, 3], 0, 1 / 2),
        ("temporal_repeats", "val", {0: [0, 2, 5, 6], 1: [1]}, {0: [], 1: []}, [0, 1, 2, 3], 2, 2 / 5),
        ("temporal_repeats", "test", {0: [2, 3, 7], 1: [0, 7], 2: [0]}, {0: [], 1: [], 2: []}, [0, 1, 2, 3], 0, 2 / 6),
        ("global_temporal", "val", {0: [0, 2, 5, 6]}, {0: []}, [0], 2, 3 / 4),
        ("global_temporal", "test", {0: [2, 7], 2: [0]}, {0: [], 2: []}, [0], 1, 2 / 3),
        ("global_temporal_like", "val", {1: [1]}, {1: []}, [2], 0, 1.0),
        ("global_temporal_like", "test", {1: [0]}, {1: []}, [2], 1, 1.0),
        ("lightgcn", "val", {0: [2, 3, 6], 1: [1], 4: [1]}, {0: [0, 1, 5], 1: [2, 3], 4: [4]}, range(8), 1, 1 / 5),
        ("lightgcn", "test", {0: [2, 3, 7], 1: [0, 7]}, {0: [0, 1, 5], 1: [2, 3]}, range(8), 0, 2 / 5),
    ],
)
def test_worked_tasks(name, split, targets, masked, candidates, dropped, cold):
    task = build_task(name, split, **DATA)
    assert task.protocol is find_protocol(name) and task.split == split
    assert task.users.dtype == np.int32 and task.users.tolist() == sorted(targets)
    assert rows(task.users, task.targets) == targets
    assert rows(task.users, task.masked) == masked
    assert np.flatnonzero(task.candidates).tolist() == list(candidates)
    assert task.catalogue == len(list(candidates)) and task.num_targets == sum(map(len, targets.values()))
    assert task.num_dropped_users == dropped
    assert task.cold_target_share == pytest.approx(cold)


def test_min_played_pct_moves_the_bar():
    task = build_task("temporal", "val", **DATA, min_played_pct=49)
    assert rows(task.users, task.targets)[0] == [2, 3, 6]


random_events = st.lists(
    st.tuples(
        st.integers(0, USERS - 1),
        st.integers(0, ITEMS - 1),
        st.sampled_from([LISTEN, LIKE, DISLIKE]),
        st.integers(0, 159),
    ),
    max_size=25,
).map(lambda rows: events(*rows))


def same(one, other):
    for a, b in ((one.users, other.users), (one.masked, other.masked), (one.targets, other.targets)):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(one.candidates, other.candidates)


@given(st.sampled_from(OVER_USERS), random_events)
def test_a_val_task_never_looks_at_test(name, other_test):
    same(build_task(name, "val", **DATA), build_task(name, "val", **DATA | {"test": other_test}))


@given(st.sampled_from(OVER_USERS), st.sampled_from(["val", "test"]), random_events)
def test_the_split_shapes_neither_candidates_nor_masks(name, split, held_out):
    """Songs and users that only the split knows earn nothing: candidates and masks come from what was before."""
    try:
        task = build_task(name, split, **DATA | {split: held_out})
    except UserError:
        return
    plain = build_task(name, split, **DATA)
    np.testing.assert_array_equal(task.candidates, plain.candidates)
    before = {"none": [], "train": [TRAIN], "history": [TRAIN, VAL] if split == "test" else [TRAIN]}[task.protocol.mask]
    seen = {(u, i) for e in before for u, i in zip(e.user.tolist(), e.item.tolist(), strict=True)}
    assert rows(task.users, task.masked) == {
        u: sorted(i for other, i in seen if other == u) for u in task.users.tolist()
    }
    wanted = relevant(held_out, task.protocol.relevance)
    hits = set(zip(held_out.user[wanted].tolist(), held_out.item[wanted].tolist(), strict=True)) - seen
    assert rows(task.users, task.targets) == {
        u: sorted(i for other, i in hits if other == u) for u in task.users.tolist()
    }
    assert (task.targets.sizes > 0).all()


def test_relevance_of_each_kind():
    e = events((0, 0, LISTEN, 0), (0, 1, LISTEN, 49), (0, 2, LISTEN, 50), (0, 3, LIKE, 0), (0, 4, DISLIKE, 0))
    accepted = {
        name: np.flatnonzero(relevant(e, name)).tolist()
        for name in ("any", "positive", "listen_plus", "like", "listen_plus_or_like")
    }
    assert accepted == {
        "any": [0, 1, 2, 3],
        "positive": [1, 2, 3],
        "listen_plus": [2],
        "like": [3],
        "listen_plus_or_like": [2, 3],
    }


def test_unknown_names_are_mended():
    with pytest.raises(UserError, match=r"protocol='tempral': must be one of .*lightgcn.*; did you mean 'temporal'"):
        find_protocol("tempral")
    with pytest.raises(UserError, match="must be one of temporal"):
        build_task("x", "val", **DATA)
    with pytest.raises(UserError, match="'train' cannot be evaluated; choose one of val, test"):
        build_task("temporal_repeats", "train", **DATA)


@pytest.mark.parametrize(
    ("name", "data_format", "split_rule", "says"),
    [
        ("temporal", "text", "temporal", r"'temporal' needs timestamps .* choose lightgcn"),
        ("temporal_repeats", "text", "temporal", "'temporal_repeats' needs timestamps"),
        ("global_temporal", "text", "global_temporal", "'global_temporal' needs timestamps"),
        ("global_temporal", "yambda", "temporal", "train with --config.data.split=global_temporal in a new --workdir"),
        ("global_temporal_like", "yambda", "temporal", "has config.data.split='temporal'"),
        ("cold_start", "yambda", "temporal", "train with --config.data.cold_item_fraction=0.1 in a new --workdir"),
        ("cold_start", "text", "temporal", "'cold_start' needs timestamps"),
    ],
)
def test_protocols_that_the_data_cannot_answer(name, data_format, split_rule, says):
    with pytest.raises(UserError, match=says):
        check_protocol(find_protocol(name), data_format=data_format, split_rule=split_rule)


@pytest.mark.parametrize(
    ("name", "data_format", "split_rule"),
    [
        ("lightgcn", "text", "temporal"),
        ("lightgcn", "yambda", "temporal"),
        ("temporal", "yambda", "temporal"),
        ("temporal_repeats", "yambda", "global_temporal"),
        ("global_temporal", "yambda", "global_temporal"),
        ("global_temporal_like", "yambda", "global_temporal"),
    ],
)
def test_protocols_that_the_data_can_answer(name, data_format, split_rule):
    check_protocol(find_protocol(name), data_format=data_format, split_rule=split_rule)


def test_no_targets_is_an_error_that_names_split_and_protocol():
    with pytest.raises(UserError, match=r"'global_temporal_like' finds no user .* test split"):
        build_task("global_temporal_like", "test", **DATA | {"test": events((0, 2, LISTEN, 100))})
    with pytest.raises(UserError, match=r"'temporal_repeats' .* val split"):
        build_task("temporal_repeats", "val", **DATA | {"val": events()})


def test_a_protocol_of_ones_own():
    own = Protocol("fresh", "like", history="positive", mask="train", candidates="all")
    assert rows(*(lambda t: (t.users, t.targets))(build_task(own, "test", **DATA))) == {0: [3], 1: [0]}


def test_a_task_for_some_of_its_users():
    task = build_task("temporal", "test", **DATA)
    part = task.select(np.array([1]))
    assert part.users.tolist() == [1]
    assert rows(part.users, part.targets) == {1: [0]} and rows(part.users, part.masked) == {1: [1, 2, 3, 7]}
    assert part.catalogue == task.catalogue and part.protocol == task.protocol


def test_cold_start_ranks_held_out_songs_only():
    apart = events((0, 6, LISTEN, 60), (0, 7, LISTEN, 20), (1, 6, LIKE, 0), (1, 7, LISTEN, 100), (3, 6, LISTEN, 100))
    task = build_task("cold_start", "val", **DATA | {"val": apart})
    assert rows(task.users, task.targets) == {0: [6], 1: [6, 7]}
    assert rows(task.users, task.masked) == {0: [], 1: []}
    assert np.flatnonzero(task.candidates).tolist() == [2, 6, 7]
    assert task.num_dropped_users == 1 and task.cold_target_share == 1.0
    check_protocol(find_protocol("cold_start"), data_format="yambda", split_rule="temporal", songs_held_out=True)
    with pytest.raises(ValueError, match="held_out_items"):
        build_task("cold_start", "val", **DATA | {"held_out_items": None})
