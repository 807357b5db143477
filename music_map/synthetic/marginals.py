"""Counts of generated logs, to lay beside those published for Yambda-50M."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from music_map.synthetic.blocks import BlockEvents, World

# arXiv 2505.22238 and measurements of its files.
PUBLISHED_50M: Mapping[str, float] = {
    "listens": 46_467_212,
    "likes": 881_456,
    "dislikes": 107_776,
    "unlikes": 312_972,
    "undislikes": 21_033,
    "users": 10_000,
    "users_with_listens": 9_238,
    "songs": 934_057,
    "songs_with_listens": 877_168,
    "songs_with_10_interactions": 253_939,
    "listens_per_user_mean": 5_030,
    "listens_per_user_median": 3_023,
    "listens_per_user_min": 6,
    "listens_per_user_max": 27_617,
    "listens_per_song_median": 3,
    "listens_per_song_max": 41_984,
    "recommended_share_of_listens": 0.487,
    "recommended_share_of_likes": 0.42,
    "zero_played_share": 0.0745,
    "over_100_played_share": 0.0047,
    "played_pct_max": 159,
    "most_listens_at_one_time": 163,
}


class Counter:
    """Counts events block by block; memory grows with the number of songs and users."""

    def __init__(self, world: World):
        self._num_listens = world.users.num_listens
        self._rows = dict.fromkeys(("listens", "likes", "dislikes", "unlikes", "undislikes"), 0)
        self._song_listens = np.zeros(world.catalogue.num_songs, np.uint32)
        self._song_marks = np.zeros(world.catalogue.num_songs, np.uint32)
        self._user_seen = self._num_listens > 0
        self._recommended = dict.fromkeys(("listens", "likes"), 0)
        self._zero = self._over = self._most_played = self._most_tied = 0

    def add(self, events: BlockEvents) -> None:
        """Counts a block."""
        listens = events.listens
        if len(listens.user):
            self._rows["listens"] += len(listens.user)
            np.add.at(self._song_listens, listens.song, np.uint32(1))
            self._recommended["listens"] += int(np.sum(listens.is_organic == 0))
            self._zero += int(np.sum(listens.played_pct == 0))
            self._over += int(np.sum(listens.played_pct > 100))
            self._most_played = max(self._most_played, int(listens.played_pct.max()))
            changes = np.flatnonzero((np.diff(listens.timestamp) != 0) | (np.diff(listens.user) != 0)) + 1
            self._most_tied = max(self._most_tied, int(np.diff(changes, prepend=0, append=len(listens.user)).max()))
        for name, marks in events.marks.items():
            self._rows[name] += len(marks.user)
            self._user_seen[events.first_user + marks.user] = True
            # What withdraws a mark is of a song that has been counted for the mark.
            if name in ("likes", "dislikes"):
                np.add.at(self._song_marks, marks.song, np.uint32(1))
        self._recommended["likes"] += int(np.sum(events.marks["likes"].is_organic == 0))

    def seen(self) -> np.ndarray:
        """Whether a song is in any event so far: bool [N]."""
        return (self._song_listens > 0) | (self._song_marks > 0)

    def marginals(self) -> dict[str, float]:
        """The counts so far, under the names of PUBLISHED_50M."""
        per_user = self._num_listens[self._num_listens > 0]
        interactions = self._song_listens + self._song_marks
        per_song = self._song_listens[self._song_listens > 0]
        listens, likes = max(1, self._rows["listens"]), max(1, self._rows["likes"])
        return {
            **self._rows,
            "users": int(self._user_seen.sum()),
            "users_with_listens": len(per_user),
            "songs": int(self.seen().sum()),
            "songs_with_listens": len(per_song),
            "songs_with_10_interactions": int(np.sum(interactions >= 10)),
            "listens_per_user_mean": float(per_user.mean()),
            "listens_per_user_median": float(np.median(per_user)),
            "listens_per_user_min": int(per_user.min()),
            "listens_per_user_max": int(per_user.max()),
            "listens_per_song_median": float(np.median(per_song)),
            "listens_per_song_max": int(per_song.max()),
            "recommended_share_of_listens": self._recommended["listens"] / listens,
            "recommended_share_of_likes": self._recommended["likes"] / likes,
            "zero_played_share": self._zero / listens,
            "over_100_played_share": self._over / listens,
            "played_pct_max": self._most_played,
            "most_listens_at_one_time": self._most_tied,
        }
