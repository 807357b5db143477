"""A trained model as arrays: embeddings, ids and what filters and explanations need, checked by checksums.

Arrays of the folder: user_ids, item_ids (numbers of the Parquet logs, ascending), user_embeddings float32 [U, d],
item_embeddings float32 [I, d], recommendable bool [I], listeners int32 [I] (users of train with an edge), has_audio
bool [I], artist_* and album_* as in ItemFeatures, the ids and names of converted logs (see music_map.ids), by user
heard_* and disliked_* (song indices, from all splits), messages float32 [I, d], which place new listeners (see
music_map.model.fold_in), and companions/*, which songs are listened to together (see music_map.playlist.companions),
and onward/*, where sessions go on (see music_map.playlist.onward).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from music_map.errors import DamagedFileError, UserError
from music_map.graph.settings import GraphSettings
from music_map.graph.weights import chunk_edges
from music_map.graph_filter.kept import KeptFilter
from music_map.ids import Ids
from music_map.model.content import Content
from music_map.model.fold_in import FoldIn, Learning
from music_map.playlist.companions import Companions
from music_map.playlist.onward import Onward
from music_map.preprocess.dataset import DISLIKE, SPLITS, Dataset, Events, ItemFeatures, Withdrawals
from music_map.preprocess.marks import standing
from music_map.retrieval.plays import History
from music_map.retrieval.present import Head
from music_map.rows import distinct, offsets_of_sorted
from music_map.settings import from_stored
from music_map.storage import MANIFEST, ArrayFolder, ArrayWriter, check_form, check_rows, new_folder

# Of a run's folder.
FOLDER, HEADS_FILE = "embeddings", "playlist.json"

_MAPPED_ABOVE = 1 << 30  # bytes of UserSongs
_REMEDY = "delete the folder and run the command again to make it anew from the best checkpoint"


def popularity_of(listeners: np.ndarray) -> np.ndarray:
    """Popularity as the playlist attention uses it: log(1 + listeners), float32."""
    return np.log1p(listeners).astype(np.float32)


# Raised when arrays are added or change their meaning: an export of an older version is made anew.
FORMAT_VERSION = 3


class IdTables(NamedTuple):
    """The ids of users, songs, artists and albums as the logs have them, and their names."""

    users: Ids
    songs: Ids
    artists: Ids
    albums: Ids


# The name of each table's arrays.
_KINDS = IdTables("user", "item", "artist", "album")


class UserSongs(NamedTuple):
    """What users heard and dislike; user u has heard[heard_offsets[u]:heard_offsets[u + 1]], ascending.

    Attributes:
      heard_offsets, disliked_offsets: int64 [U + 1].
      heard, disliked: int32, song indices.
    """

    heard_offsets: np.ndarray
    heard: np.ndarray
    disliked_offsets: np.ndarray
    disliked: np.ndarray

    def heard_by(self, user: int) -> np.ndarray:
        """Song indices, int32."""
        return self.heard[self.heard_offsets[user] : self.heard_offsets[user + 1]]

    def disliked_by(self, user: int) -> np.ndarray:
        """Song indices, int32."""
        return self.disliked[self.disliked_offsets[user] : self.disliked_offsets[user + 1]]


def user_songs_of(dataset: Dataset) -> UserSongs:
    """The songs that users heard, and those that they dislike; a withdrawn dislike does not count.

    Reads all splits, unlike the graph: it is for recommending now, not for evaluation.
    """
    num_items, heard, dislikes = dataset.num_items, [], []
    for events in itertools.chain.from_iterable(map(dataset.event_shards, SPLITS)):
        mark = events.kind == DISLIKE
        heard.append(distinct(_pairs(events, num_items)[~mark]))
        dislikes.append(Events(*(column[mark] for column in events)))
    marks = Events(*map(np.concatenate, zip(*dislikes, strict=True)))
    withdrawals = Withdrawals(*map(np.concatenate, zip(*map(dataset.withdrawals, SPLITS), strict=True)))
    disliked = _pairs(marks, num_items)[standing(marks, withdrawals, DISLIKE, num_items=num_items)]
    return UserSongs(
        *_by_user(distinct(np.concatenate(heard)), dataset.num_users, num_items),
        *_by_user(np.unique(disliked), dataset.num_users, num_items),
    )


def _pairs(events: Events, num_items: int) -> np.ndarray:
    return events.user.astype(np.int64) * num_items + events.item


def _by_user(pairs: np.ndarray, num_users: int, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    return offsets_of_sorted(pairs // num_items, num_users), (pairs % num_items).astype(np.int32)


class Export(NamedTuple):
    """A trained model's embeddings and ids; see the module's description for the arrays."""

    user_ids: np.ndarray
    item_ids: np.ndarray
    user_embeddings: np.ndarray
    item_embeddings: np.ndarray
    recommendable: np.ndarray
    listeners: np.ndarray
    has_audio: np.ndarray
    artist_offsets: np.ndarray
    artists: np.ndarray
    artist_ids: np.ndarray
    album_offsets: np.ndarray
    albums: np.ndarray
    album_ids: np.ndarray


def make_export(
    *,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
    user_embeddings: np.ndarray,
    item_embeddings: np.ndarray,
    listeners: np.ndarray,
    features: ItemFeatures,
) -> Export:
    """Gathers an Export.

    A song is recommendable if train or its features say anything of it: it has an edge, audio, an artist or an album.

    Raises:
      UserError: an embedding is not finite.
    """
    for name, array, ids in (("user", user_embeddings, user_ids), ("song", item_embeddings, item_ids)):
        if not np.isfinite(array).all():
            bad = ids[np.flatnonzero(~np.isfinite(array).all(axis=1))[0]]
            raise UserError(f"the embedding of {name} {bad} is not finite; train again with a lower learning rate")
    known = (listeners > 0) | (features.audio_row >= 0)
    known |= np.diff(features.artist_offsets) > 0
    known |= np.diff(features.album_offsets) > 0
    return Export(
        user_ids,
        item_ids,
        user_embeddings.astype(np.float32),
        item_embeddings.astype(np.float32),
        known,
        listeners.astype(np.int32),
        features.audio_row >= 0,
        features.artist_offsets,
        features.artists,
        features.artist_ids,
        features.album_offsets,
        features.albums,
        features.album_ids,
    )


def id_tables(export: Export) -> IdTables:
    """Id tables of logs whose ids are numbers."""
    return IdTables(*(Ids(getattr(export, f"{kind}_ids")) for kind in _KINDS))


def save_export(export: Export, folder: Path, **rest: Any) -> None:
    """`write_export` into a folder that appears whole or not at all."""
    with new_folder(folder) as temporary:
        write_export(export, temporary, **rest)


def write_export(
    export: Export,
    folder: Path,
    *,
    fingerprint: str,
    step: int,
    user_songs: UserSongs,
    ids: IdTables | None = None,
    head: Head | KeptFilter | None = None,
    placing: Placing | None = None,
    content: Content | None = None,
    companions: Companions | None = None,
    onward: Onward | None = None,
    present: int | None = None,
) -> None:
    """Writes an export.

    Args:
      export, user_songs: the arrays.
      folder: where to; it is there already.
      fingerprint: names the checkpoint and data that it comes from.
      step: of the checkpoint.
      ids: the logs' own ids; None where those are the numbers.
      head: the recency head as of the present, or else the graph filter; None where the run has neither.
      placing: of new listeners; None: `placing_by_mean`.
      content: what places new songs; None: none can be added.
      companions: songs listened to together; None where the run does not use them.
      onward: where sessions go on; None where the run does not use it.
      present: the last second of the logs; None: not known.
    """
    tables = id_tables(export) if ids is None else ids
    writer = ArrayWriter(folder)
    for kind, table in zip(_KINDS, tables, strict=True):
        table.write(writer, kind)
    for name, array in (*export._asdict().items(), *user_songs._asdict().items()):
        if name.removesuffix("_ids") not in _KINDS:
            writer.write(name, array)
    beside = {} if head is None else head.save(writer)
    placed = (placing_by_mean(export) if placing is None else placing).save(writer)
    numbers = {} if content is None else _save_content(content, writer)
    if companions is not None:
        companions.save(writer)
    if onward is not None:
        onward.save(writer)
    meta = {"step": step, "version": FORMAT_VERSION, "present": present, **beside, **placed, **numbers}
    writer.finish(fingerprint=fingerprint, meta=meta)


def load_export(folder: Path) -> tuple[Export, str]:
    """Loads the folder and its fingerprint. Raises DamagedFileError naming a damaged file."""
    store = ArrayFolder.open(folder)
    export = Export(*(store.load(name) for name in Export._fields))
    _check(store, export)
    return export, store.fingerprint


def _check(store: ArrayFolder, export: Export) -> None:
    """Raises DamagedFileError if shapes or values of the arrays do not match each other; checksums do not tell."""
    num_users, num_items = len(export.user_embeddings), len(export.item_embeddings)
    dim = export.item_embeddings.shape[1:]
    wanted = {
        "user_embeddings": ("<f4", (num_users, *dim)),
        "item_embeddings": ("<f4", (num_items, *dim)),
        "recommendable": ("|b1", (num_items,)),
        "listeners": ("<i4", (num_items,)),
        "has_audio": ("|b1", (num_items,)),
    }
    for name, (dtype, shape) in wanted.items():
        array = getattr(export, name)
        if len(dim) != 1 or (array.dtype.str, array.shape) != (dtype, shape) or not np.isfinite(array).all():
            raise DamagedFileError(f"{store.folder / name}.npy: does not fit the other arrays; {_REMEDY}")
    for ids, count in ((export.user_ids, num_users), (export.item_ids, num_items)):
        if ids.shape != (count,):
            raise DamagedFileError(f"{store.folder}: has not as many ids as embeddings; {_REMEDY}")
    for kind in ("artist", "album"):
        offsets, values = getattr(export, f"{kind}_offsets"), getattr(export, f"{kind}s")
        limit = len(getattr(export, f"{kind}_ids"))
        check_rows(store, f"{kind}s", offsets, values, rows=num_items, limit=limit)


_LEARNING = {"base": float, "temperature": float, "pull": float}


class Placing(NamedTuple):
    """What embeddings of new listeners are made of.

    Attributes:
      fold_in: from edges to embeddings.
      graph: how events become edges.
    """

    fold_in: FoldIn
    graph: GraphSettings

    def embed(self, history: History) -> np.ndarray:
        """The embedding of a listener, float32 [d]; 0 without a listen of more than 0 % or a standing like."""
        num_items = len(self.fold_in.messages)
        edges, _, _ = chunk_edges(history.events, history.withdrawals, self.graph, now=history.now, num_items=num_items)
        return self.fold_in.embed(np.array([0, len(edges.item)]), edges.item, edges.weight)[0]

    def save(self, writer: ArrayWriter) -> dict[str, Any]:
        """Writes the arrays; returns what belongs into the folder's meta."""
        writer.write("messages", self.fold_in.messages)
        numbers, learning = self.fold_in._asdict(), self.fold_in.learning
        del numbers["messages"], numbers["learning"]
        if learning is not None:
            numbers["learning"] = {name: getattr(learning, name) for name in _LEARNING}
        return {"fold_in": {**numbers, "graph": self.graph.identity()}}

    @classmethod
    def load(cls, store: ArrayFolder) -> Placing:
        """Reads what `save` wrote. Raises DamagedFileError."""
        path = store.folder / MANIFEST
        form = {"power": float, "degree": str, "unit": bool, "graph": dict, "learning?": _LEARNING}
        check_form(store.meta, {"fold_in": form}, path, remedy=_REMEDY)
        numbers = dict(store.meta["fold_in"])
        try:
            graph = from_stored(GraphSettings, numbers.pop("graph"))[0]
        except UserError as e:
            raise DamagedFileError(f"{path}: {e}; {_REMEDY}") from e
        messages = store.load("messages")
        if messages.dtype != np.float32 or messages.ndim != 2 or not np.isfinite(messages).all():
            raise DamagedFileError(f"{store.folder}/messages.npy: does not fit the other arrays; {_REMEDY}")
        if learning := numbers.pop("learning", None):
            if not (learning["temperature"] > 0 and learning["pull"] > 0):
                raise DamagedFileError(f"{path}: fold_in.learning needs numbers above 0; {_REMEDY}")
            songs = store.load("item_embeddings", mmap=True)
            numbers["learning"] = Learning(songs, *(float(learning[name]) for name in _LEARNING))
        return cls(FoldIn(messages, **numbers), graph)


def placing_by_mean(export: Export) -> Placing:
    """Places a listener at the weighted mean of the songs, where nothing better is known."""
    return Placing(FoldIn(export.item_embeddings, -1.0, "weighted", unit=True), GraphSettings())


def load_placing(folder: Path) -> Placing:
    """What places new listeners. Raises DamagedFileError."""
    return Placing.load(ArrayFolder.open(folder))


_CONTENT = {"scale": float, "neighbours": int, "unit": bool}


def _save_content(content: Content, writer: ArrayWriter) -> dict[str, Any]:
    values = content._asdict()
    for name in values.keys() - _CONTENT.keys():
        writer.write(f"content/{name}", values[name])
    return {"content": {name: values[name] for name in _CONTENT}}


def load_content(folder: Path) -> Content | None:
    """What places new songs; None if the run has no such. Raises DamagedFileError."""
    store = ArrayFolder.open(folder)
    if "content" not in store.meta:
        return None
    check_form(store.meta, {"content": _CONTENT}, folder / MANIFEST, remedy=_REMEDY)
    numbers = store.meta["content"]
    arrays = {name: store.load(f"content/{name}") for name in Content._fields if name not in numbers}
    return Content(**arrays, **numbers)


def load_head(folder: Path) -> Head | None:
    """The recency head; None if the run has none. Raises DamagedFileError."""
    return Head.load(ArrayFolder.open(folder))


def load_companions(folder: Path) -> Companions | None:
    """Songs listened to together; None if the run does not use them. Raises DamagedFileError."""
    store = ArrayFolder.open(folder)
    return Companions.load(store, num_items=store.length_of("item_embeddings"))


def load_onward(folder: Path) -> Onward | None:
    """Where sessions go on; None if the run does not use it. Raises DamagedFileError."""
    store = ArrayFolder.open(folder)
    return Onward.load(store, dim=store.load("item_embeddings", verify=False, mmap=True).shape[1])


def load_filter(folder: Path, export: Export) -> KeptFilter | None:
    """The graph filter; None if the run has none. Raises DamagedFileError."""
    sizes = {"num_users": len(export.user_embeddings), "num_items": len(export.item_embeddings)}
    return KeptFilter.load(ArrayFolder.open(folder), **sizes)


def step_of(folder: Path) -> int:
    """The step of the exported checkpoint."""
    return int(ArrayFolder.open(folder).meta["step"])


def present_of(folder: Path) -> int | None:
    """The last second of the logs; None where the export does not say it. Raises DamagedFileError."""
    store = ArrayFolder.open(folder)
    found = store.meta.get("present")
    check_form(found, (None, int), folder / MANIFEST, at="present", remedy=_REMEDY)
    # Not yet written with the first exports of this version; the recency head's moment is the same second.
    return int(store.load("moment/now")[0]) if found is None and "moment/now" in store.arrays else found


def load_ids(folder: Path) -> IdTables:
    """The logs' own ids. Raises DamagedFileError."""
    store = ArrayFolder.open(folder)
    return IdTables(*(Ids.load(store, kind) for kind in _KINDS))


def is_current(folder: Path, *, fingerprint: str | None = None) -> bool:
    """Whether a folder holds an export of this version, and of the checkpoint and data of `fingerprint` if given.

    Raises:
      DamagedFileError: its manifest is damaged.
    """
    if not (folder / MANIFEST).is_file():
        return False
    store = ArrayFolder.open(folder)
    return store.meta.get("version") == FORMAT_VERSION and fingerprint in (None, store.fingerprint)


def load_user_songs(folder: Path) -> UserSongs:
    """What users heard and dislike, checked; memory-mapped above a GiB. Raises DamagedFileError.

    They are as large as the graph. What is read survives whatever becomes of the file; what is mapped does not.
    """
    store = ArrayFolder.open(folder)
    large = sum(store.size_of(name) for name in UserSongs._fields) > _MAPPED_ABOVE
    found = UserSongs(*(store.load(name, mmap=large) for name in UserSongs._fields))
    num_users, num_items = store.length_of("user_embeddings"), store.length_of("item_embeddings")
    for name in ("heard", "disliked"):
        offsets, values = getattr(found, f"{name}_offsets"), getattr(found, name)
        check_rows(store, name, offsets, values, rows=num_users, limit=num_items)
    return found


def no_user_songs(num_users: int) -> UserSongs:
    """UserSongs of users without any."""
    offsets, none = np.zeros(num_users + 1, np.int64), np.zeros(0, np.int32)
    return UserSongs(offsets, none, offsets, none)
