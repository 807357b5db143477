"""The recency score as it is defined, in NumPy and SciPy with float64: slow, dense, and without the device."""

import numpy as np
from scipy import sparse

from music_map.preprocess.dataset import DISLIKE, LIKE, Events
from music_map.recency.history import ACTIVATION_POWERS, WALK_HALF_LIVES
from music_map.recency.moment import TREND_HALF_LIVES
from music_map.recency.scores import ATTENTION_HALF_LIVES, FEATURES

HOUR, MIN_AGE, LEAST = 3_600.0, 0.25, 0.05


def age_of(events, now):
    return np.maximum((now - events.timestamp.astype(np.int64)) / HOUR, MIN_AGE)


def engagement_of(events):
    value = np.clip(events.played_pct / 100.0, LEAST, 1.0)
    value[events.kind == LIKE] = 1.0
    value[events.kind == DISLIKE] = 0.0
    return value


def pick(events, which):
    return Events(*(column[which] for column in events))


def features_of(events, features, embeddings, *, now, num_users, num_items, latest_length):
    """Every feature of every song for every user, float64 [U, I, F]; events are sorted by user, then time."""
    events = pick(events, events.timestamp <= now)
    walks = list(relations(events, features, num_users, num_items))
    trend = song_trend(events, num_items, now)
    user_emb, item_emb = (np.asarray(x, np.float64) for x in embeddings)
    found = []
    for user in range(num_users):
        mine = pick(events, events.user == user)
        columns = [item_emb @ query for query in queries(mine, user_emb[user], item_emb, now, latest_length)]
        for into, back in walks:
            for half_life in WALK_HALF_LIVES:
                reached = back @ (into @ start(mine, num_items, now, half_life))
                columns.append(np.log1p(num_items * reached / max(reached.sum(), 1e-12)))
        known = familiar(mine, num_items, now)
        columns += [*trend.T, *known.T]
        # The queries, both walks over users and the song's age once more, of songs that the user met.
        columns += [column * known[:, 0] for column in (*columns[:7], trend[:, -1])]
        found.append(np.stack(columns, axis=1))
    assert found[0].shape == (num_items, len(FEATURES))
    return np.stack(found)


def queries(mine, user_emb, item_emb, now, length):
    yield user_emb
    latest = pick(mine, np.flatnonzero(mine.kind != DISLIKE)[::-1][:length])
    for half_life in ATTENTION_HALF_LIVES:
        a = engagement_of(latest) * 2.0 ** (-(age_of(latest, now) - age_of(latest, now).min(initial=1e9)) / half_life)
        yield (a / a.sum()) @ item_emb[latest.item] if len(a) else np.zeros_like(user_emb)


def start(mine, num_items, now, half_life):
    age = age_of(mine, now)
    weight = engagement_of(mine) * np.exp2((age.min(initial=np.inf) - age) / half_life) if len(age) else age
    total = np.bincount(mine.item, weight, num_items)
    return total / max(total.sum(), 1e-12)


def relations(events, features, num_users, num_items):
    """(into, back) of users, artists and albums."""
    graph = np.zeros((num_users, num_items))
    np.add.at(graph, (events.user, events.item), engagement_of(events))
    graph = np.log1p(graph)
    graph /= np.maximum(np.linalg.norm(graph, axis=1, keepdims=True), 1e-12)
    yield graph, graph.T
    for offsets, names, num in (
        (features.artist_offsets, features.artists, len(features.artist_ids)),
        (features.album_offsets, features.albums, len(features.album_ids)),
    ):
        has = sparse.csr_array((np.ones(len(names)), names, offsets), (num_items, num)).toarray()
        into = (has / np.maximum(has.sum(axis=1, keepdims=True), 1e-12)).T
        yield into, has / np.maximum(has.sum(axis=0), 1e-12)
        if names is features.artists:
            yield into, has


def song_trend(events, num_items, now):
    age, strength = age_of(events, now), engagement_of(events)
    columns = [np.log1p(np.bincount(events.item, strength * 2 ** (-age / h), num_items)) for h in TREND_HALF_LIVES]
    columns.append(np.log1p(np.bincount(events.item, strength, num_items)))
    pairs = {(u, i) for u, i, kind in zip(events.user, events.item, events.kind, strict=True) if kind != DISLIKE}
    columns.append(np.log1p(np.bincount(np.array([i for _, i in pairs], np.int64), minlength=num_items)))
    oldest = np.zeros(num_items)
    np.maximum.at(oldest, events.item, age)
    return np.stack([*columns, np.log(np.maximum(oldest, 1.0))], axis=1)


def familiar(mine, num_items, now):
    """FAMILIARITY of all songs for the user of these events, [I, F]; 0 for a song that was never met."""
    found = np.zeros((num_items, 8 + len(ACTIVATION_POWERS)))
    songs = np.unique(mine.item)
    plays = np.sum(mine.kind != DISLIKE)
    for song in songs:
        events = pick(mine, mine.item == song)
        age, strength = age_of(events, now), engagement_of(events)
        count = np.sum(events.kind != DISLIKE)
        activations = [np.log(np.sum(strength * age**-p) + LEAST * 8760.0**-p) for p in ACTIVATION_POWERS]
        found[song] = [
            1.0,
            *activations,
            np.log1p(count),
            np.log(age[-1]),
            strength.sum() / max(count, 1),
            strength[-1],
            (events.kind == LIKE).any(),
            (events.kind == DISLIKE).any(),
            np.log(max(plays, 1) / len(songs)),
        ]
    return found
