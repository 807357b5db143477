"""The processed data set: events by split, ids and item features, as stored by preprocess.

Arrays of a processed folder (see music_map.storage), with S = shard number, five digits:

    user_ids, item_ids                     uint32 [U], [I]; original ids, ascending; the position is the index
    train/user-S, train/item-S             int32; likewise val/, test/; sorted by user, then timestamp (stable)
    train/timestamp-S                      uint32, seconds
    train/kind-S, train/is_organic-S       uint8
    train/played_pct-S                     uint16; 0 for events that are not listens
    train/withdrawn_user-S, _item-S, _timestamp-S, _kind-S   int32, int32, uint32, uint8; likewise val/, test/
    audio, audio_row, artist_*, album_*, track_seconds   see ItemFeatures

If songs are held out (see music_map.preprocess.cold), also:

    held_out                               bool [I]
    held_out/user-S, ...                   the same columns as train

If the logs were converted from logs whose ids are texts, or with names (see music_map.ids), also:

    user_own_offsets, user_own_data        int64 [U + 1], uint8; likewise item_, artist_, album_: the ids of those logs
    item_title_offsets, item_title_data    int64 [I + 1], uint8; likewise item_artist_, item_album_, item_genre_; empty
                                           if unknown
    artist_name_offsets, artist_name_data  int64 [A + 1], uint8; likewise album_; empty if unknown
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from music_map.errors import UserError
from music_map.ids import Ids
from music_map.preprocess.cold import validation_users
from music_map.preprocess.present import FarTimes, far_times
from music_map.storage import ArrayFolder, fingerprint

LISTEN, LIKE, DISLIKE = 0, 1, 2
SPLITS = ("train", "val", "test")


class Events(NamedTuple):
    """Interactions of one split, sorted by user, then timestamp; equal timestamps keep the order of the files.

    Attributes:
      user: int32 [E], index into `Dataset.user_ids`.
      item: int32 [E], index into `Dataset.item_ids`.
      timestamp: uint32 [E], seconds.
      kind: uint8 [E], LISTEN, LIKE or DISLIKE.
      is_organic: uint8 [E], 1 organic, 0 played by the recommender.
      played_pct: uint16 [E], share of the track played in percent, may exceed 100; 0 for likes and dislikes.
    """

    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    kind: np.ndarray
    is_organic: np.ndarray
    played_pct: np.ndarray


class Withdrawals(NamedTuple):
    """Unlikes and undislikes of one split, sorted like Events.

    Attributes:
      user, item: int32 [W].
      timestamp: uint32 [W], seconds.
      kind: uint8 [W], LIKE or DISLIKE: the kind of event that is withdrawn.
    """

    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    kind: np.ndarray


class ItemFeatures(NamedTuple):
    """The features of the songs.

    Attributes:
      audio: float32 [A, 128], rows of unit length, for the songs with an audio embedding.
      audio_row: int32 [I], the song's row in `audio`, or -1 if it has none.
      artist_offsets: int64 [I + 1]; the artists of song i are artists[artist_offsets[i]:artist_offsets[i + 1]].
      artists: int32, index into artist_ids.
      artist_ids: uint32, original ids, ascending.
      album_offsets, albums, album_ids: likewise.
      track_seconds: float32 [I], the length that train's events state, 0 if unknown.
    """

    audio: np.ndarray
    audio_row: np.ndarray
    artist_offsets: np.ndarray
    artists: np.ndarray
    artist_ids: np.ndarray
    album_offsets: np.ndarray
    albums: np.ndarray
    album_ids: np.ndarray
    track_seconds: np.ndarray


_Rows = TypeVar("_Rows", Events, Withdrawals)

# Types of the stored columns.
EVENT_TYPES = Events(np.int32, np.int32, np.uint32, np.uint8, np.uint8, np.uint16)
WITHDRAWAL_TYPES = Withdrawals(np.int32, np.int32, np.uint32, np.uint8)

# Type and meaning of each array (S = shard number). Every manifest has them, for readers without this module.
SCHEMA: dict[str, str] = {
    "user_ids": "uint32 [users]: original user ids, ascending; the position is the index",
    "item_ids": "uint32 [songs]: original song ids, ascending; the position is the index",
    "{train,val,test}/user-S": "int32: user index; rows are sorted by user, then timestamp",
    "{train,val,test}/item-S": "int32: song index",
    "{train,val,test}/timestamp-S": "uint32: seconds",
    "{train,val,test}/kind-S": "uint8: 0 listen, 1 like, 2 dislike",
    "{train,val,test}/is_organic-S": "uint8: 1 organic, 0 played by the recommender",
    "{train,val,test}/played_pct-S": "uint16: share of the track played, percent; 0 for likes and dislikes",
    "{train,val,test}/withdrawn_{user,item,timestamp}-S": "int32, int32, uint32: an unlike or undislike",
    "{train,val,test}/withdrawn_kind-S": "uint8: what is withdrawn, 1 like, 2 dislike",
    "audio": "float32 [songs with audio, 128]: unit rows",
    "audio_row": "int32 [songs]: row of audio, -1 where there is none",
    "artist_offsets, album_offsets": "int64 [songs + 1]: song i has entries offsets[i]:offsets[i + 1]",
    "artists, albums": "int32: position in artist_ids, album_ids",
    "artist_ids, album_ids": "uint32: original ids, ascending",
    "track_seconds": "float32 [songs]: length of the track as first seen in train, 0 where unknown",
}
HELD_OUT_SCHEMA: dict[str, str] = {
    "held_out": "bool [songs]: without an interaction in train, val and test",
    "held_out/{user,item,timestamp,...}-S": "interactions of these songs, columns as those of train",
}
OWN_IDS_SCHEMA: dict[str, str] = {
    "{user,item,artist,album}_own_offsets": "int64 [n + 1]: the id in the logs is data[offsets[i]:offsets[i + 1]]",
    "{user,item,artist,album}_own_data": "uint8: these ids in UTF-8, one after the other",
    "{artist,album}_name_{offsets,data}": "likewise: what people call them, empty where unknown",
    "item_{title,artist,album,genre}_{offsets,data}": "likewise: of the songs, empty where unknown",
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A processed folder, opened for reading; arrays are loaded (and their checksums verified) on demand.

    Whole splits and the item features are loaded once and shared with the data sets that `as_of` returns.

    Attributes:
      store: the folder and its manifest.
      user_ids: uint32 [U], original user ids, ascending.
      item_ids: uint32 [I], original song ids, ascending.
      before: None, or the time in seconds before which train ends; see `as_of`.
      hidden: None, or bool [U], users without events; see `without`.
      loaded: the events by split and the item features that have been loaded so far.
    """

    store: ArrayFolder
    user_ids: np.ndarray
    item_ids: np.ndarray
    before: int | None = None
    hidden: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)
    loaded: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Opens a processed folder. Raises DamagedFileError if it is not whole."""
        store = ArrayFolder.open(folder)
        return cls(store, store.load("user_ids"), store.load("item_ids"))

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @functools.cached_property
    def users(self) -> Ids:
        """The users' ids as in the logs."""
        return Ids.load(self.store, "user")

    @functools.cached_property
    def songs(self) -> Ids:
        """The songs' ids as in the logs, and their names if the logs have any."""
        return Ids.load(self.store, "item")

    @functools.cached_property
    def artists(self) -> Ids:
        """The artists' ids as in the logs, in the order of ItemFeatures.artist_ids."""
        return Ids.load(self.store, "artist")

    @functools.cached_property
    def albums(self) -> Ids:
        """The albums' ids as in the logs, in the order of ItemFeatures.album_ids."""
        return Ids.load(self.store, "album")

    @property
    def fingerprint(self) -> str:
        """Identity of the folder's inputs and configuration, and of `before`."""
        if self.before is None and self.hidden is None:
            return self.store.fingerprint
        identity: dict[str, Any] = {"dataset": self.store.fingerprint, "before": self.before}
        if self.hidden is not None:
            identity["hidden"] = np.flatnonzero(self.hidden).tolist()
        return fingerprint(identity)

    def as_of(self, before: int) -> Dataset:
        """The data set as of an earlier time: train events and withdrawals from `before` on are hidden.

        Ids and item features stay, as they do not tell who listened when.

        Args:
          before: seconds.
        """
        return dataclasses.replace(self, before=before)

    def without(self, users: np.ndarray) -> Dataset:
        """The data set without the events and withdrawals of some users, bool [U]; ids, songs and times stay."""
        return dataclasses.replace(self, hidden=users)

    @property
    def train_end(self) -> int:
        """Timestamp of the last train event, seconds. Models take it as the present."""
        if self.before is None:
            return int(self.store.meta["train_end"])
        times = [shard.timestamp for shard in self._shards("train")]
        return max((int(known.max()) for t in times if len(known := t[t < self.before])), default=0)

    @functools.cached_property
    def times(self) -> FarTimes:
        """The first and last time of all splits' events, without a few that are far from all others."""
        if (stored := self.store.meta.get("times")) is not None:
            return FarTimes(**stored)
        # An older data set, whose manifest has no times.
        return far_times(np.concatenate([shard.timestamp for split in SPLITS for shard in self.event_shards(split)]))

    @property
    def present(self) -> int:
        """The default time of recommendations, seconds: the time of the last event.

        A few events that are far later than all others (from a wrong clock) do not count. For a data set of the past
        (`as_of`) it is the end of train.
        """
        return self.times.last if self.before is None else self.train_end

    @property
    def warnings(self) -> list[str]:
        """Warnings about the data, a line each."""
        first, last, num_early, num_late = self.times
        found = [(num_early, "before", first), (num_late, "after", last)]
        return [
            f"{count:,} event{'s' if count > 1 else ''} far {side} all others; the nearest of the others is at "
            f"{_when(end)}: correct the times if they are wrong; recommendations take the present from the others"
            for count, side, end in found
            if count
        ]

    @property
    def stats(self) -> dict[str, Any]:
        """The content of stats.json."""
        return self.store.meta["stats"]

    def events(self, split: str) -> Events:
        """The interactions of "train", "val" or "test", loaded once; `event_shards` then slices the loaded arrays."""
        if split not in self.loaded:
            self.loaded[split] = self._read_whole(split)
        return self._known(self.loaded[split], split)

    def event_shards(self, split: str) -> Iterator[Events]:
        """The interactions of a split, one shard (at most `chunk_size` rows) at a time. Two shards may share a user."""
        for shard in self._shards(split):
            yield self._known(shard, split)

    def _read_whole(self, split: str) -> Events:
        """The shards of a split as one, read one by one: memory never holds more than one of them twice."""
        shards = range(self._num_shards("num_shards", split))
        ends = np.cumsum([self.store.length_of(f"{split}/user-{shard:05d}") for shard in shards])
        whole: Events | None = None
        for shard, end in zip(self._read_shards(split), ends.tolist(), strict=True):
            if len(ends) == 1:
                return shard
            if whole is None:
                whole = Events(*(np.empty(ends[-1], column.dtype) for column in shard))
            for to, column in zip(whole, shard, strict=True):
                to[end - len(column) : end] = column
        return _concatenate(Events, []) if whole is None else whole

    def _shards(self, split: str) -> Iterator[Events]:
        return self._cut(split) if split in self.loaded else self._read_shards(split)

    def _read_shards(self, split: str) -> Iterator[Events]:
        for shard in range(self._num_shards("num_shards", split)):
            yield Events(*(self.store.load(f"{split}/{column}-{shard:05d}") for column in Events._fields))

    def _cut(self, split: str) -> Iterator[Events]:
        """Slices the loaded events of a split by the shards in which they are stored."""
        start = 0
        for shard in range(self._num_shards("num_shards", split)):
            end = start + self.store.length_of(f"{split}/user-{shard:05d}")
            yield Events(*(column[start:end] for column in self.loaded[split]))
            start = end

    def user_events(self, split: str, user: int) -> Events:
        """Loads the interactions of one user, by index; reads only the pages it needs, without checksums."""
        found = []
        for shard in range(self._num_shards("num_shards", split)):
            load = functools.partial(self.store.load, verify=False, mmap=True)
            rows = slice(*np.searchsorted(load(f"{split}/user-{shard:05d}"), [user, user + 1]))
            events = Events(*(np.array(load(f"{split}/{c}-{shard:05d}")[rows]) for c in Events._fields))
            found.append(self._known(events, split))
        return _concatenate(Events, found)

    def held_out_items(self) -> np.ndarray:
        """Songs held out altogether (data.cold_item_fraction): bool [I]. They have no event in any split."""
        if "num_held_out_shards" not in self.store.meta:
            return np.zeros(self.num_items, bool)
        return self.store.load("held_out")

    def held_out_events(self, split: str) -> Events:
        """Loads the interactions of all times with held-out songs, for the users that "val" or "test" measures."""
        shards = [
            Events(*(self.store.load(f"held_out/{column}-{shard:05d}") for column in Events._fields))
            for shard in range(int(self.store.meta["num_held_out_shards"]))
        ]
        events = _concatenate(Events, shards)
        mine = validation_users(self.user_ids)[events.user] == (split == "val")
        return Events(*(column[mine] for column in events))

    def withdrawals(self, split: str) -> Withdrawals:
        """Loads the unlikes and undislikes of a split."""
        shards = range(self._num_shards("num_withdrawn_shards", split))
        found = [
            Withdrawals(*(self.store.load(f"{split}/withdrawn_{column}-{shard:05d}") for column in Withdrawals._fields))
            for shard in shards
        ]
        return _concatenate(Withdrawals, [self._known(rows, split) for rows in found])

    def item_features(self) -> ItemFeatures:
        """Audio, artists, albums and track lengths, loaded once."""
        if "features" not in self.loaded:
            self.loaded["features"] = ItemFeatures(*(self.store.load(name) for name in ItemFeatures._fields))
        return self.loaded["features"]

    def _known(self, rows: _Rows, split: str) -> _Rows:
        known = np.ones(len(rows.user), bool)
        if self.before is not None and split == "train":
            known &= rows.timestamp < self.before
        if self.hidden is not None:
            known &= ~self.hidden[rows.user]
        if known.all():
            return rows
        return type(rows)(*(column[known] for column in rows))

    def _num_shards(self, kind: str, split: str) -> int:
        if split not in SPLITS:
            raise UserError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
        return int(self.store.meta[kind][split])


def _when(seconds: int) -> str:
    """Seconds as text, with the date if they look like Unix time."""
    date = datetime.datetime.fromtimestamp(seconds, datetime.UTC).date()
    return f"{seconds} s" + (f" ({date})" if date.year >= 1990 else "")


def _concatenate(rows: Callable[..., _Rows], shards: list[_Rows]) -> _Rows:
    if len(shards) == 1:
        return shards[0]
    return rows(*(np.concatenate(columns) for columns in zip(*shards, strict=True)))
