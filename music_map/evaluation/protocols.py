"""Protocols: which songs of a split are targets, which are masked, which compete.

| name        | targets: distinct songs of the split                     | masked                 | candidates  |
|-------------|----------------------------------------------------------|------------------------|-------------|
| discovery   | listens of 50 % and more, likes; not met before           | all met before         | train songs |
| next        | listens of 50 % and more, likes; met before or not       | nothing                | train songs |
| listen_plus | listens of 50 % and more (Yambda benchmark)              | nothing                | train songs |
| like        | likes (Yambda benchmark)                                 | nothing                | train songs |
| lightgcnpp  | all songs (LightGCN++ paper)                             | train songs of a user  | all songs   |

Users without a train event are dropped in all of them, and targets that are no candidates stay in the denominator.
The Yambda benchmark (arXiv 2505.22238) goes with data.split="global_temporal".
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import NamedTuple

import numpy as np

from music_map.errors import UserError
from music_map.evaluation.pairs import Pairs, make_pairs, member
from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN, Events


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to measure.

    Attributes:
      listens: whether listens of at least the least share count as targets.
      likes: whether likes do.
      any_event: whether all events but dislikes do, whatever share was played.
      new_only: targets are songs that the user has not met before the split.
      mask: "none", "train" (the user's train songs) or "history" (those of all earlier splits).
      candidates: "all" songs or "train": songs with a train event that is no dislike.
    """

    name: str
    listens: bool
    likes: bool
    any_event: bool
    new_only: bool
    mask: str
    candidates: str


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("discovery", True, True, False, True, "history", "train"),
        Protocol("next", True, True, False, False, "none", "train"),
        Protocol("listen_plus", True, False, False, False, "none", "train"),
        Protocol("like", False, True, False, False, "none", "train"),
        Protocol("lightgcnpp", False, False, True, False, "train", "all"),
    )
}


class RankingTask(NamedTuple):
    """Users with their targets, and what may be recommended to them.

    Attributes:
      users: int32 [U].
      targets: songs to find, of those users, at least one each.
      masked: songs never to recommend, of those users.
      candidates: bool [I].
      dropped_users: users with targets but without train events.
      cold_targets: share of the targets that are no candidates.
    """

    users: np.ndarray
    targets: Pairs
    masked: Pairs
    candidates: np.ndarray
    dropped_users: int
    cold_targets: float


def protocol_named(name: str) -> Protocol:
    """The protocol of that name. Raises UserError for an unknown one, with the nearest."""
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"protocol {name!r} is unknown; {hint}choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _joined(splits: list[Events]) -> Events:
    return Events(*(np.concatenate(columns) for columns in zip(*splits, strict=True)))


def build_task(
    protocol: Protocol,
    split: str,
    *,
    train: Events,
    val: Events,
    test: Events,
    num_users: int,
    num_items: int,
    min_played_pct: int,
) -> RankingTask:
    """Builds the task of a protocol on a split.

    Args:
      protocol: one of PROTOCOLS.
      split: "val" or "test".
      train, val, test: events of the splits.
      num_users, num_items: sizes.
      min_played_pct: least share of the track, in percent, that makes a listen a target.

    Raises:
      UserError: no user has both a train event and a target.
    """
    size = {"num_rows": num_users, "num_items": num_items}
    events = {"val": val, "test": test}[split]
    relevant = np.zeros(len(events.user), bool)
    if protocol.any_event:
        relevant |= events.kind != DISLIKE
    if protocol.listens:
        relevant |= (events.kind == LISTEN) & (events.played_pct >= min_played_pct)
    if protocol.likes:
        relevant |= events.kind == LIKE
    user, item = events.user[relevant], events.item[relevant]
    history = train if split == "val" else _joined([train, val])
    if protocol.new_only:
        met = member(make_pairs(history.user, history.item, **size), user, item, num_items=num_items)
        user, item = user[~met], item[~met]
    targets = make_pairs(user, item, **size)

    known = np.bincount(train.user, minlength=num_users) > 0
    wanted = targets.counts > 0
    users = np.flatnonzero(known & wanted)
    if not len(users):
        raise UserError(
            f"protocol {protocol.name}, split {split}: no user has both a train event and a target; "
            "bring logs of more time, or choose another --protocol or --split"
        )
    masked = make_pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), **size)
    if protocol.mask != "none":
        seen = train if protocol.mask == "train" else history
        masked = make_pairs(seen.user, seen.item, **size)
    candidates = np.ones(num_items, bool)
    if protocol.candidates == "train":
        candidates = np.bincount(train.item[train.kind != DISLIKE], minlength=num_items) > 0
    kept = targets.take(users)
    return RankingTask(
        users.astype(np.int32),
        kept,
        masked.take(users),
        candidates,
        int(np.sum(wanted & ~known)),
        float(np.mean(~candidates[kept.items])),
    )
