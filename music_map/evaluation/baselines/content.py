"""Baselines that use the songs' features; they can rank songs without plays."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from music_map.errors import UserError
from music_map.evaluation.baselines.history import History, decay_since
from music_map.evaluation.baselines.settings import AudioKnnSettings
from music_map.evaluation.ranking import ScoreBlock
from music_map.model.sound import neighbours
from music_map.reporter import Progress, silent
from music_map.rows import row_of_each


def artist_popularity(history: History) -> ScoreBlock:
    """Popularity of a song's artists and albums, which a song without plays has too.

        score(u, i) = mean over the artists and albums g of song i of (mean over the played songs j of g of n_j)

    with n_j the number of distinct users of song j in train. A song whose artists and albums have no played song, or
    that has neither, gets the mean over all played songs.
    """
    users = np.bincount(history.pairs.items, minlength=history.num_items).astype(np.float64)
    played = users > 0
    features = history.features()
    total, groups = np.zeros(history.num_items), np.zeros(history.num_items)
    for offsets, members, ids in (
        (features.artist_offsets, features.artists, features.artist_ids),
        (features.album_offsets, features.albums, features.album_ids),
    ):
        item = row_of_each(offsets)
        songs = np.bincount(members[played[item]], minlength=len(ids))
        mean = np.bincount(members, users[item], minlength=len(ids)) / np.maximum(songs, 1)
        known = songs[members] > 0
        total += np.bincount(item[known], mean[members[known]], minlength=history.num_items)
        groups += np.bincount(item[known], minlength=history.num_items)
    overall = users.sum() / max(played.sum(), 1)
    row = np.where(groups > 0, total / np.maximum(groups, 1), overall).astype(np.float32)[None]
    return lambda block: np.broadcast_to(row, (len(block), row.shape[1]))


def audio_knn(history: History, settings: AudioKnnSettings, *, progress: Progress = silent) -> ScoreBlock:
    """Plain audio-kNN: songs that sound like those of the user's history.

        score(u, i) = sum over the songs j of u's history in N(i) of 2^(-(t_u - t_uj) / half-life) * <a_i, a_j>

    with a the unit audio embeddings (0 for a song without), t_uj the last event of u on j, t_u the last event of u, and
    N(i) the `num_neighbours` songs with a train event that sound most like i, or all of them where that is 0: then
    the score is the weighted mean of the cosines, up to a factor of the user.

    Raises:
      UserError: no song has audio.
    """
    features = history.features()
    if len(features.audio) == 0:
        raise UserError("baseline 'audio_knn' needs audio embeddings, and this data set has none; leave it out")
    # Row -1 belongs to songs without audio.
    audio = np.concatenate([features.audio, np.zeros((1, features.audio.shape[1]), np.float32)])[features.audio_row]
    weights = _recency(history, settings.half_life_days)
    if settings.num_neighbours == 0:
        profiles = weights @ audio
        return lambda users: profiles[users] @ audio.T

    songs = np.flatnonzero(features.audio_row >= 0)
    near = neighbours(features, songs, np.unique(history.items), count=settings.num_neighbours, progress=progress)
    row, place = np.nonzero(near.songs >= 0)
    entries = np.maximum(near.cosines[row, place], 0.0), (near.songs[row, place], songs[row])
    near_of = sparse.csr_array(entries, (history.num_items, history.num_items))
    return lambda users: (weights[users] @ near_of).toarray()


def _recency(history: History, half_life_days: float) -> sparse.csr_array:
    """Weight of each song of each user by the user's last event on it, float32 [U, I]."""
    pair = history.users.astype(np.int64) * history.num_items + history.items
    # In a stable sort by time, the last of equal pairs is the latest event.
    order = np.lexsort((history.timestamps, pair))
    last = order[np.append(pair[order][1:] != pair[order][:-1], True)] if len(order) else order
    latest = np.zeros(history.num_users, np.int64)
    np.maximum.at(latest, history.users, history.timestamps.astype(np.int64))
    users = history.users[last]
    weights = decay_since(latest[users], history.timestamps[last], half_life_days).astype(np.float32)
    return sparse.csr_array((weights, (users, history.items[last])), (history.num_users, history.num_items))
