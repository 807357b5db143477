"""Guests' scores are those of a moment that has their events."""

import numpy as np
import pytest
from logs import NOW, NUM_ITEMS, NUM_USERS, item_features, make_events, random_rows

from music_map.preprocess.dataset import Events
from music_map.recency.guests import Guests, no_events
from music_map.recency.history import Histories
from music_map.recency.moment import observe
from music_map.recency.scores import FEATURES, Embeddings, RecencyScorer

DAY = 86_400


def scorer_of(events, embeddings, weights, *, now, num_users=NUM_USERS, backend):
    moment = observe(events, item_features(), now=now, num_users=num_users, num_items=NUM_ITEMS)
    histories = Histories.of(events, num_users=num_users)
    return RecencyScorer(embeddings, weights, moment, histories, latest_length=5, backend=backend)


def of_user(events, user, as_user=0):
    mine = events.user == user
    return Events(np.full(mine.sum(), as_user, np.int32), *(column[mine] for column in events[1:]))


@pytest.mark.parametrize("backend", ["csr", "segment"])
@pytest.mark.parametrize("kind", ["new", "known"])
def test_scores_and_contributions_as_if_the_events_were_in_the_logs(kind, backend):
    rng = np.random.default_rng(3)
    # User 3 is the guest: of the new one the logs have nothing, of the known one the events up to NOW.
    rows = random_rows(rng, 90)
    rows += [(u, i, 0, 0, 100) for u in range(NUM_USERS) for i in range(2)]
    if kind == "new":
        rows = [row for row in rows if row[0] != 3]
        fresh = random_rows(rng, 15, users=1)
    else:
        fresh = [(0, i, NOW + t, k, p) for _, i, t, k, p in random_rows(rng, 15, before=2 * DAY, users=1)]
    now = NOW + (0 if kind == "new" else 3 * DAY)
    embeddings = Embeddings(*(rng.normal(size=(n, 3)).astype(np.float32) for n in (NUM_USERS, NUM_ITEMS)))
    weights = dict(zip(FEATURES, rng.normal(size=len(FEATURES)).tolist(), strict=True))
    logs, plays = make_events(rows), make_events(fresh)
    whole = make_events(rows + [(3, *row[1:]) for row in fresh])
    wanted = scorer_of(whole, embeddings, weights, now=now, backend=backend)
    old = Histories.of(of_user(logs, 3), num_users=1) if kind == "known" else no_events(1)
    guests = Guests(
        embeddings.user[3:], np.array([3 if kind == "known" else -1], np.int32), old, Histories.of(plays, num_users=1)
    )
    base = scorer_of(logs, embeddings, weights, now=NOW, backend=backend)
    found = base.hosting(guests, now=now)
    # One, two and three rows take the ways of few and of many users.
    for rows_asked in (1, 3):
        scores = np.asarray(found(np.zeros(rows_asked, np.int32)))
        np.testing.assert_allclose(scores[-1], np.asarray(wanted(np.array([3])))[0], rtol=1e-4, atol=1e-4)
    songs = np.arange(NUM_ITEMS)
    reading, of_wanted = (
        found.reading(np.zeros(1, int)),
        wanted.contributions(wanted.reading([1, 3]), np.tile(songs, (2, 1))),
    )
    parts = found.contributions(reading, songs[None])
    for name, (values,) in parts.items():
        np.testing.assert_allclose(values, of_wanted[name][1], rtol=1e-4, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(sum(parts.values()), np.asarray(found(np.zeros(1, int))), rtol=1e-4, atol=1e-4)
    # Filled up to the size of a program.
    padded = base.hosting(guests.padded(4), now=now)
    reading = padded.reading(np.arange(4))
    for name, (values,) in padded.contributions(reading, songs[None]).items():
        np.testing.assert_allclose(values, of_wanted[name][1], rtol=1e-4, atol=1e-4, err_msg=name)
    best, scores = padded.rank(reading, 5)
    np.testing.assert_array_equal(best[:1], wanted.rank(np.array([3]), 5)[0])
    np.testing.assert_allclose(scores[:1], wanted.rank(wanted.reading([3], size=4), 5)[1][:1], rtol=1e-4, atol=1e-4)
    # Other users are not touched, and the base scorer still scores its own.
    np.testing.assert_array_equal(np.asarray(base(np.array([1])))[0].shape, (NUM_ITEMS,))
