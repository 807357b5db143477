"""Likes and dislikes that are still valid: an unlike (undislike) withdraws the likes (dislikes) before it."""

from __future__ import annotations

import numpy as np

from music_map.preprocess.dataset import Events, Withdrawals


def standing(events: Events, withdrawals: Withdrawals, kind: int, *, num_items: int) -> np.ndarray:
    """Marks the valid events of a kind: those whose (user, song) has no withdrawal of that kind at their time or later.

    Args:
      events: rows of any kind.
      withdrawals: unlikes and undislikes of the same users.
      kind: LIKE or DISLIKE.
      num_items: number of songs.
    Returns:
      bool [E], False for events of other kinds.
    """
    of_kind = events.kind == kind
    revoked = withdrawals.kind == kind
    if not revoked.any() or not of_kind.any():
        return of_kind
    pair = withdrawals.user[revoked].astype(np.int64) * num_items + withdrawals.item[revoked]
    order = np.lexsort((withdrawals.timestamp[revoked], pair))
    pair, timestamp = pair[order], withdrawals.timestamp[revoked][order]
    last = np.append(pair[1:] != pair[:-1], True)
    pair, timestamp = pair[last], timestamp[last]
    rows = np.flatnonzero(of_kind)
    wanted = events.user[rows].astype(np.int64) * num_items + events.item[rows]
    at = np.minimum(np.searchsorted(pair, wanted), len(pair) - 1)
    withdrawn = (pair[at] == wanted) & (timestamp[at] >= events.timestamp[rows])
    stands = of_kind.copy()
    stands[rows[withdrawn]] = False
    return stands
