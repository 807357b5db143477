"""A generated workdir: a trained run's files, as far as recommending and the map read them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from generated import make_vectors

from music_map.graph.settings import GraphSettings
from music_map.model.fold_in import FoldIn
from music_map.playlist.companions import MOST_COMPANIONS, Companions
from music_map.playlist.heads import Mixture, to_json, untrained
from music_map.preprocess.dataset import Dataset, ItemFeatures
from music_map.recency.history import Histories
from music_map.recency.moment import observe
from music_map.recency.scores import FEATURES
from music_map.retrieval.export import FOLDER, HEADS_FILE, Export, Placing, UserSongs, make_export, save_export
from music_map.retrieval.index import FOLDER as INDEX
from music_map.retrieval.index import build_index, sample_queries, save_index
from music_map.retrieval.present import Head
from music_map.retrieval.recommender import in_space, index_fingerprint
from music_map.rows import offsets_of
from music_map.run.config import Config, described
from music_map.run.folder import config_file
from music_map.storage import write_json


def make_workdir(folder: Path, *, num_songs: int, num_users: int) -> Path:
    """Writes an export, a playlist query, a configuration and a ScaNN index into `folder`; returns it.

    Args:
      num_songs: of the catalogue, in clusters as benchmarks/retrieval.py has them; an artist for 20 songs.
        Each is listened to together with as many others as are kept, at random.
      num_users: each has heard up to 500 songs and disliked up to 10, at random.
    """
    songs, _ = make_vectors(num_songs, 64)
    rng = np.random.default_rng(1)
    artists = (np.arange(num_songs) // 20).astype(np.int32)
    features = ItemFeatures(
        audio=np.zeros((1, 128), np.float32),
        audio_row=np.where(rng.random(num_songs) < 0.8, 0, -1).astype(np.int32),
        artist_offsets=np.arange(num_songs + 1),
        artists=artists,
        artist_ids=np.unique(artists).astype(np.uint32),
        album_offsets=np.zeros(num_songs + 1, np.int64),
        albums=np.zeros(0, np.int32),
        album_ids=np.zeros(0, np.uint32),
        track_seconds=np.zeros(num_songs, np.float32),
    )
    export = make_export(
        user_ids=np.arange(num_users, dtype=np.uint32),
        item_ids=np.arange(num_songs, dtype=np.uint32),
        user_embeddings=songs[rng.integers(0, num_songs, num_users)],
        item_embeddings=songs,
        listeners=rng.geometric(0.02, num_songs),
        features=features,
    )
    heard = np.sort(rng.integers(0, num_songs, (num_users, 500)), axis=1).astype(np.int32)
    disliked = np.sort(rng.integers(0, num_songs, (num_users, 10)), axis=1).astype(np.int32)
    user_songs = UserSongs(
        np.arange(num_users + 1) * 500, heard.ravel(), np.arange(num_users + 1) * 10, disliked.ravel()
    )
    return _written(folder, export, rng, user_songs=user_songs)


def make_workdir_of(folder: Path, dataset: Dataset) -> Path:
    """The same over the train events of a data set, with a recency head of random weights, which cost the same."""
    rng, sizes = np.random.default_rng(1), (dataset.num_users, dataset.num_items)
    songs, _ = make_vectors(dataset.num_items, 64)
    parts = parts_of(dataset, rng, songs[rng.integers(0, len(songs), sizes[0])], songs)
    options = {"user_songs": parts.user_songs, "head": parts.head, "placing": parts.placing}
    return _written(folder, parts.export, rng, present=parts.head.moment.now, **options)


class Parts(NamedTuple):
    """What an export consists of."""

    export: Export
    user_songs: UserSongs
    head: Head
    placing: Placing


def parts_of(dataset: Dataset, rng: np.random.Generator, users: np.ndarray, items: np.ndarray) -> Parts:
    """The parts of an export over the train events, with embeddings float32 [U, d] and [I, d]."""
    events, features = dataset.events("train"), dataset.item_features()
    num_users, num_items = dataset.num_users, dataset.num_items
    now = int(events.timestamp.max())
    moment = observe(events, features, now=now, num_users=num_users, num_items=num_items)
    export = make_export(
        user_ids=dataset.user_ids,
        item_ids=dataset.item_ids,
        user_embeddings=users,
        item_embeddings=items,
        listeners=np.diff(moment.user_offsets),
        features=features,
    )
    weights = dict(zip(FEATURES, rng.normal(size=len(FEATURES)).tolist(), strict=True))
    head = Head(weights, weights, moment, Histories.of(events, num_users=num_users), 100)
    by_user = moment.listeners.T.tocsr()
    none = offsets_of(np.zeros(num_users, np.int64))
    heard = UserSongs(by_user.indptr.astype(np.int64), by_user.indices, none, np.zeros(0, np.int32))
    return Parts(export, heard, head, Placing(FoldIn(items, -0.6, "weighted", unit=True), GraphSettings()))


def _written(folder: Path, export: Export, rng: np.random.Generator, **parts: Any) -> Path:
    num_songs = len(export.item_ids)
    together = rng.integers(0, num_songs, (num_songs, MOST_COMPANIONS), dtype=np.int32)
    companions = Companions(
        np.arange(num_songs + 1) * MOST_COMPANIONS,
        together.ravel(),
        rng.exponential(0.02, together.size).astype(np.float32),
    )
    save_export(export, folder / FOLDER, fingerprint="generated", step=0, companions=companions, **parts)
    config = Config()
    write_json(config_file(folder), {"config": described(config), "dataset": "generated"})
    mixture = Mixture(np.float32(2.0), np.float32(0.2))
    heads = untrained(config.retrieval.attention_temperature)._replace(mixture=mixture)
    write_json(folder / HEADS_FILE, {"heads": to_json(heads)})
    placed, users = in_space(export, heads)
    index = build_index(placed, backend="scann", queries=sample_queries(users, placed))
    identity = index_fingerprint("generated", heads)
    save_index(index, placed, export.item_ids, folder / INDEX, fingerprint=identity)
    return folder
