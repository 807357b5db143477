"""How often a scorer recommends songs that the user later dislikes, or songs that sound like them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import RankingTask, masked_songs, masking_splits, relevant
from music_map.evaluation.ranking import ScoreBlock, rank
from music_map.model.sound import neighbours
from music_map.preprocess.dataset import DISLIKE, Dataset, ItemFeatures
from music_map.preprocess.marks import standing


class Unwanted(NamedTuple):
    """Songs that should stay out of the lists of R users.

    Attributes:
      users: int32 [R], user indices, ascending; each has a disliked song.
      disliked: R rows: songs that the user dislikes in the evaluated split.
      near: R rows: their neighbours.
      masked: R rows: songs withheld from the user's list; none of them is in the other two.
    """

    users: np.ndarray
    disliked: Pairs
    near: Pairs
    masked: Pairs


def unwanted(
    task: RankingTask, disliked: Pairs, masked: Pairs, features: ItemFeatures, *, num_neighbours: int = 10
) -> Unwanted:
    """The songs that a scorer should leave out, for users with train history and a dislike.

    A disliked song counts if it could be recommended: it is a candidate and not withheld. A neighbour counts if also it
    is neither a target of the user nor disliked.

    Args:
      task: candidates and targets.
      disliked: a row for each user of the data set: standing dislikes of the evaluated split.
      masked: a row for each user of the data set: songs withheld by the task's protocol.
      features: audio.
      num_neighbours: neighbours of a disliked song, see sound.neighbours.
    """
    num_users, num_items = disliked.num_rows, len(task.candidates)
    keep = task.candidates[disliked.items]
    disliked = Pairs.of(disliked.rows[keep], disliked.items[keep], num_rows=num_users, num_items=num_items)
    disliked = disliked.minus(masked)
    songs, of_pair = np.unique(disliked.items, return_inverse=True)
    near_of = neighbours(features, songs, np.flatnonzero(task.candidates), count=num_neighbours).songs[of_pair]
    row, place = np.nonzero(near_of >= 0)
    near = Pairs.of(disliked.rows[row], near_of[row, place], num_rows=num_users, num_items=num_items)
    rows = np.repeat(task.users.astype(np.int64), task.targets.sizes)
    targets = Pairs.of(rows, task.targets.items, num_rows=num_users, num_items=num_items)
    near = near.minus(masked).minus(disliked).minus(targets)
    users = np.flatnonzero(disliked.sizes > 0).astype(np.int32)
    return Unwanted(users, disliked.select(users), near.select(users), masked.select(users))


def unwanted_of(dataset: Dataset, task: RankingTask, *, known: bool = False, num_neighbours: int = 10) -> Unwanted:
    """`unwanted` for a task of a data set: the dislikes of a split that no later undislike of the split withdraws.

    Args:
      dataset: events, withdrawals and audio.
      task: of this data set.
      known: take the dislikes of train, which a model has seen, in place of the split's; these songs are then not
        withheld.
      num_neighbours: see `unwanted`.
    """
    sizes = {"num_rows": dataset.num_users, "num_items": dataset.num_items}
    split = "train" if known else task.split
    events, train = dataset.events(split), dataset.events("train")
    has_history = np.zeros(dataset.num_users, bool)
    has_history[train.user[relevant(train, task.protocol.history)]] = True
    stands = standing(events, dataset.withdrawals(split), DISLIKE, num_items=dataset.num_items)
    stands &= has_history[events.user]
    earlier = [dataset.events(name) for name in masking_splits(task.protocol, task.split)]
    masked = masked_songs(task.protocol, earlier, num_users=dataset.num_users, num_items=dataset.num_items)
    disliked = Pairs.of(events.user[stands], events.item[stands], **sizes)
    if known:
        masked = masked.minus(disliked)
    return unwanted(task, disliked, masked, dataset.item_features(), num_neighbours=num_neighbours)


class Shares(NamedTuple):
    """Unwanted songs in the lists, by user; a share is sum(hits) / sum(counts), so users can be pooled and resampled.

    Attributes:
      disliked_hits, disliked: int64 [R], disliked songs in the user's first k, and in all.
      near_hits, near: int64 [R], likewise of their neighbours.
    """

    disliked_hits: np.ndarray
    disliked: np.ndarray
    near_hits: np.ndarray
    near: np.ndarray


def unwanted_in_top(score_block: ScoreBlock, task: RankingTask, songs: Unwanted, *, k: int = 100) -> Shares:
    """Counts the unwanted songs among each user's k best candidates.

    Args:
      score_block: int32 [B] user indices -> float [B, I].
      task: its candidates are ranked.
      songs: from `unwanted`.
      k: length of the lists.
    """
    topk = rank(
        score_block, songs.users, num_items=len(task.candidates), k=k, candidates=task.candidates, masked=songs.masked
    )
    row = np.arange(len(topk))[:, None]
    hits = [pairs.contains(row, topk).sum(axis=1) for pairs in (songs.disliked, songs.near)]
    return Shares(hits[0], songs.disliked.sizes, hits[1], songs.near.sizes)
