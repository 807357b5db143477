"""Which users and songs stay: at least `min_interactions` interactions, counted once or as a k-core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from music_map.errors import UserError
from music_map.preprocess.ids import Counter, IdIndex
from music_map.progress import Progress
from music_map.raw.reader import EventTable

# The event files whose rows are interactions; unlikes and undislikes withdraw one and are none.
INTERACTIONS = ("listens", "likes", "dislikes")


class Census(NamedTuple):
    """Users and songs of a log, counted over all interactions.

    Attributes:
      user_ids, item_ids: int64 [V], original ids, ascending.
      user_counts, item_counts: int64 [V], interactions of each.
      first_timestamp, last_timestamp: seconds, over all interactions.
      rows: interactions by file.
    """

    user_ids: np.ndarray
    user_counts: np.ndarray
    item_ids: np.ndarray
    item_counts: np.ndarray
    first_timestamp: int
    last_timestamp: int
    rows: dict[str, int]


class Kept(NamedTuple):
    """What the filter left.

    Attributes:
      users, items: the users and songs that still have a row.
      times: int64 [T], distinct timestamps of the rows left, ascending.
      time_counts: int64 [T], rows at each.
    """

    users: IdIndex
    items: IdIndex
    times: np.ndarray
    time_counts: np.ndarray


def take_census(tables: Mapping[str, EventTable], *, batch_rows: int, progress: Progress) -> Census:
    """Counts users and songs over the interactions; checks the order of every event file on the way."""
    users, items = Counter(), Counter()
    rows: dict[str, int] = {}
    first, last = 2**32, -1
    with progress("count users and songs", sum(t.num_rows for t in tables.values()), "row") as advance:
        for name, table in tables.items():
            for batch in table.batches(["uid", "timestamp", "item_id"], batch_rows=batch_rows):
                advance(len(batch["uid"]))
                if name not in INTERACTIONS or not len(batch["uid"]):
                    continue
                users.add(batch["uid"])
                items.add(batch["item_id"])
                first = min(first, int(batch["timestamp"].min()))
                last = max(last, int(batch["timestamp"].max()))
                rows[name] = rows.get(name, 0) + len(batch["uid"])
    return Census(*users.result(), *items.result(), first, last, rows)


def select(
    tables: Mapping[str, EventTable],
    census: Census,
    *,
    rule: str,
    min_interactions: int,
    batch_rows: int,
    progress: Progress,
) -> Kept:
    """Applies the filter.

    A row stays if both its user and its song stay. A user (or song) that has enough interactions but loses every row,
    since all its songs (or users) go, is not in the result.

    Args:
      rule: "once": both counts over all rows, before anything is dropped. "k_core": repeated on what is left until
        every user and song left has `min_interactions` rows left.
    Raises:
      UserError: nothing is left.
    """
    interactions = {name: table for name, table in tables.items() if name in INTERACTIONS}
    users = IdIndex(census.user_ids[census.user_counts >= min_interactions].astype(np.uint32))
    items = IdIndex(census.item_ids[census.item_counts >= min_interactions].astype(np.uint32))
    round_number = 0
    while True:
        times = Counter(census.first_timestamp)
        user_counts = np.zeros(len(users), np.int64)
        item_counts = np.zeros(len(items), np.int64)
        round_number += 1
        label = "filter" if rule == "once" else f"filter, round {round_number}"
        with progress(label, sum(census.rows.values()), "row") as advance:
            for table in interactions.values():
                for batch in table.batches(["uid", "timestamp", "item_id"], batch_rows=batch_rows):
                    advance(len(batch["uid"]))
                    user, item = users.lookup(batch["uid"]), items.lookup(batch["item_id"])
                    stays = (user >= 0) & (item >= 0)
                    np.add.at(user_counts, user[stays], 1)
                    np.add.at(item_counts, item[stays], 1)
                    times.add(batch["timestamp"][stays])
        least = min_interactions if rule == "k_core" else 1
        user_stays, item_stays = user_counts >= least, item_counts >= least
        if not user_stays.any() or not item_stays.any():
            most = f"{census.user_counts.max()} and {census.item_counts.max()}"
            raise UserError(
                f"{tables['listens'].path}: the filter leaves nothing: users and songs need {min_interactions} "
                f"interactions, and those of this log have at most {most}; lower --config.data.min_interactions"
            )
        done = rule == "once" or (user_stays.all() and item_stays.all())
        if not (user_stays.all() and item_stays.all()):
            users, items = IdIndex(users.ids[user_stays]), IdIndex(items.ids[item_stays])
        if done:
            return Kept(users, items, *times.result())
