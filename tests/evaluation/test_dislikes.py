"""Unwanted songs in the lists: worked examples, and a naive count in Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_logs import random_log, write_logs

from music_map.evaluation.dislikes import unwanted, unwanted_in_top, unwanted_of
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import RankingTask, build_task, find_protocol
from music_map.preprocess.build import build_dataset, plan_dataset
from music_map.preprocess.dataset import DISLIKE, LIKE, ItemFeatures
from music_map.preprocess.settings import PreprocessSettings

USERS, ITEMS = 4, 9


def features(angles):
    """Songs whose audio lies in a plane at these angles, in degrees; None: without audio."""
    known = [a for a in angles if a is not None]
    audio = np.zeros((len(known), 128), np.float32)
    audio[:, 0], audio[:, 1] = np.cos(np.radians(known)), np.sin(np.radians(known))
    has = np.array([a is not None for a in angles])
    row = np.where(has, np.cumsum(has) - 1, -1).astype(np.int32)
    none = np.zeros(0, np.int32)
    offsets = np.zeros(len(angles) + 1, np.int64)
    ids = np.zeros(0, np.uint32)
    return ItemFeatures(audio, row, offsets, none, ids, offsets, none, ids, np.zeros(len(angles), np.float32))


def pairs(sets, num_items=ITEMS):
    listed = np.array([(r, i) for r, items in enumerate(sets) for i in items], np.int64).reshape(-1, 2)
    return Pairs.of(listed[:, 0], listed[:, 1], num_rows=len(sets), num_items=num_items)


def sets(found):
    return [set(found.items[a:b].tolist()) for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


def task_of(targets, masked, candidates):
    users = np.flatnonzero([bool(t) for t in targets]).astype(np.int32)
    none = pairs([set()] * len(users))
    return RankingTask(
        find_protocol("temporal"), "test", users, pairs([targets[u] for u in users]), none, np.array(candidates), 0, 0.0
    )


def test_unwanted_worked_example():
    at = features([0.0, 1.0, 3.0, 6.0, 100.0, 101.0, None, 200.0, 0.5])
    candidates = [True] * 8 + [False]
    disliked = pairs([{0}, {4, 6}, {7}, {8}])
    masked = pairs([{2}, set(), {7}, set()])
    task = task_of([{1}, {5}, set(), {3}], masked, candidates)
    found = unwanted(task, disliked, masked, at, num_neighbours=3)
    # User 2 has the song withheld, user 3's is no candidate. Of 0 the nearest are 1 (a target), 2 (withheld) and 3; of
    # 4 they are 5 (a target), 3 and 2 at 94 and 97 degrees; 6 has no audio.
    assert found.users.tolist() == [0, 1]
    assert sets(found.disliked) == [{0}, {4, 6}]
    assert sets(found.near) == [{3}, {2, 3}]
    assert sets(found.masked) == [{2}, set()]


some_songs = st.sets(st.integers(0, ITEMS - 1))
of_users = st.lists(some_songs, min_size=USERS, max_size=USERS)
angles = st.lists(st.none() | st.integers(0, 359), min_size=ITEMS, max_size=ITEMS)


@given(
    of_users,
    of_users,
    of_users,
    some_songs,
    angles,
    st.integers(1, 4),
    st.sampled_from([1, 4, ITEMS + 2]),
    st.integers(0, 99),
)
@settings(deadline=None)  # a new shape compiles
def test_shares_agree_with_a_naive_count(disliked, masked, wanted, out, angles, count, k, seed):
    at = features(angles)
    candidates = [i not in out for i in range(ITEMS)]
    targets = [t - m for t, m in zip(wanted, masked, strict=True)]
    task = task_of(targets, masked, candidates)
    songs = unwanted(task, pairs(disliked), pairs(masked), at, num_neighbours=count)
    scores = np.random.default_rng(seed).permutation(USERS * ITEMS).reshape(USERS, ITEMS).astype(np.float32)
    shares = unwanted_in_top(lambda users: scores[users], task, songs, k=k)

    rows = []
    for user in range(USERS):
        bad = {i for i in disliked[user] - masked[user] if candidates[i]}
        near = set()
        for i in bad:
            if angles[i] is None:
                continue
            row = at.audio[at.audio_row[i]]
            others = [j for j in range(ITEMS) if candidates[j] and j != i and angles[j] is not None]
            # Stable: the lower index first among equals, as the arrays are.
            cosines = at.audio[at.audio_row[others]] @ row if others else np.zeros(0)
            near |= {others[p] for p in np.argsort(-cosines, kind="stable")[:count]}
        near -= masked[user] | bad | targets[user]
        allowed = [i for i in range(ITEMS) if candidates[i] and i not in masked[user]]
        top = set(sorted(allowed, key=lambda i: -scores[user, i])[:k])
        if bad:
            rows.append((user, len(top & bad), len(bad), len(top & near), len(near)))
    assert songs.users.tolist() == [r[0] for r in rows]
    assert list(zip(*(column.tolist() for column in shares), strict=True)) == [r[1:] for r in rows]
    assert np.all(shares.disliked_hits <= np.minimum(shares.disliked, k))
    assert np.all(shares.disliked_hits + shares.near_hits <= k)


@pytest.mark.parametrize(
    ("protocol", "split", "known"),
    [
        ("temporal", "test", False),
        ("temporal", "val", False),
        ("temporal_repeats", "test", False),
        ("temporal", "test", True),
    ],
)
def test_of_a_data_set(tmp_path, protocol, split, known):
    raw = write_logs(tmp_path, **random_log(5, num_items=150))
    kept = PreprocessSettings(min_interactions=2, chunk_size=400)
    dataset = build_dataset(plan_dataset(kept, source=raw, processed_dir=tmp_path / "processed"))
    splits = {name: dataset.events(name) for name in ("train", "val", "test")}
    task = build_task(protocol, split, **splits, num_users=dataset.num_users, num_items=dataset.num_items)
    found = unwanted_of(dataset, task, known=known)
    source = "train" if known else split

    def listed(events):
        return zip(*(column.tolist() for column in events), strict=True)

    taken_back = [w for w in listed(dataset.withdrawals(source)) if w[3] == DISLIKE]
    heard = set()
    if protocol == "temporal":
        names = ("train",) if split == "val" else ("train", "val")
        heard = {(user, item) for name in names for user, item, *_ in listed(splits[name])}
    with_history = {
        user for user, _, _, kind, _, pct in listed(splits["train"]) if kind == LIKE or (kind != DISLIKE and pct)
    }
    expected = {
        (user, item)
        for user, item, time, kind, *_ in listed(splits[source])
        if kind == DISLIKE
        and user in with_history
        and task.candidates[item]
        and (known or (user, item) not in heard)
        and not any(w[:2] == (user, item) and w[2] >= time for w in taken_back)
    }
    assert expected
    assert {
        (int(found.users[r]), int(i)) for r, i in zip(found.disliked.rows, found.disliked.items, strict=True)
    } == expected
