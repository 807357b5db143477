"""Protocols on hand-made events: targets, masks, candidates, and nothing from the future."""

import numpy as np
import pytest
from test_ranking_and_baselines import events

from music_map.errors import UserError
from music_map.evaluation.protocols import PROTOCOLS, build_task, protocol_named
from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN

# Songs 0..6; user 3 has no train event; song 6 is in test only, song 5 only disliked in train.
TRAIN = events(
    [(0, 0, 0, LISTEN), (0, 1, 1, LISTEN), (1, 2, 2, LISTEN), (1, 5, 3, DISLIKE), (2, 4, 3, LIKE), (0, 3, 4, LISTEN)]
)
VAL = events([(0, 2, 10, LISTEN), (0, 0, 11, LISTEN), (1, 3, 12, LIKE), (3, 0, 13, LISTEN)])
TEST = events(
    [
        (0, 2, 20, LISTEN),
        (0, 4, 21, LISTEN),
        (0, 6, 22, LIKE),
        (1, 2, 23, LISTEN),
        (1, 0, 24, DISLIKE),
        (3, 1, 25, LISTEN),
        (2, 1, 26, LISTEN),
    ]
)
TEST = TEST._replace(played_pct=np.array([100, 49, 0, 50, 0, 100, 20], np.uint16))


def task(name, split):
    return build_task(
        PROTOCOLS[name], split, train=TRAIN, val=VAL, test=TEST, num_users=4, num_items=7, min_played_pct=50
    )


def as_dict(task, pairs):
    return {
        int(u): set(pairs.items[pairs.offsets[r] : pairs.offsets[r + 1]].tolist()) for r, u in enumerate(task.users)
    }


def test_discovery():
    t = task("discovery", "test")
    # User 0: song 2 was met in val, song 4 was played too little, song 6 is new. User 1: song 2 was met in train.
    assert as_dict(t, t.targets) == {0: {6}}
    assert as_dict(t, t.masked) == {0: {0, 1, 2, 3}}
    assert np.flatnonzero(t.candidates).tolist() == [0, 1, 2, 3, 4]
    assert t.dropped_users == 1 and t.cold_targets == 1.0
    v = task("discovery", "val")
    assert as_dict(v, v.targets) == {0: {2}, 1: {3}}
    assert as_dict(v, v.masked) == {0: {0, 1, 3}, 1: {2, 5}}


def test_next_counts_repeats_and_masks_nothing():
    t = task("next", "test")
    assert as_dict(t, t.targets) == {0: {2, 6}, 1: {2}}
    assert all(not s for s in as_dict(t, t.masked).values())


def test_listen_plus_and_like():
    assert as_dict(*(lambda t: (t, t.targets))(task("listen_plus", "test"))) == {0: {2}, 1: {2}}
    like = task("like", "test")
    assert as_dict(like, like.targets) == {0: {6}} and like.cold_targets == 1.0


def test_lightgcnpp_masks_train_only_and_ranks_all_songs():
    t = task("lightgcnpp", "test")
    assert as_dict(t, t.targets) == {0: {2, 4, 6}, 1: {2}, 2: {1}}
    assert as_dict(t, t.masked) == {0: {0, 1, 3}, 1: {2, 5}, 2: {4}}
    assert t.candidates.all()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_validation_does_not_see_test(name):
    a = task(name, "val")
    other = TEST._replace(item=TEST.item[::-1].copy(), user=TEST.user[::-1].copy())
    b = build_task(
        PROTOCOLS[name], "val", train=TRAIN, val=VAL, test=other, num_users=4, num_items=7, min_played_pct=50
    )
    for x, y in zip(
        (a.users, *a.targets, *a.masked, a.candidates), (b.users, *b.targets, *b.masked, b.candidates), strict=True
    ):
        np.testing.assert_array_equal(x, y)


def test_unknown_name_and_no_users():
    with pytest.raises(UserError, match="did you mean discovery"):
        protocol_named("discover")
    nobody = TEST._replace(user=np.full(7, 3, np.int32))
    with pytest.raises(UserError, match="protocol next, split test: no user"):
        build_task(
            PROTOCOLS["next"], "test", train=TRAIN, val=VAL, test=nobody, num_users=4, num_items=7, min_played_pct=50
        )
