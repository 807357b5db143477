"""Reasons for listeners: gains add up, and the words are true of the logs."""

import re

import numpy as np
import pytest
from stored_run import extract_run

import music_map as mm
from music_map.preprocess.dataset import LISTEN
from music_map.retrieval.filters import Filters


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    return mm.Recommender.load(extract_run(tmp_path_factory.mktemp("reasons")))


def events_of(recommender, user):
    return recommender.user_scorer.events_of(recommender.ids.users.index_of(user))


@pytest.mark.parametrize("heard", [True, False])
def test_parts_are_what_the_score_consists_of_beyond_a_random_song(recommender, heard):
    user = 216
    answer = recommender.recommend(user=user, k=10, filters=Filters(heard=heard))
    row, scorer = recommender.ids.users.index_of(user), recommender.user_scorer
    items = recommender.ids.songs.indices([r.item_id for r in answer.recommendations])
    reference = recommender._explainer._reference
    group = scorer.group(np.array([row]), heard=heard)
    parts = group.head.contributions(group.reading, np.concatenate([items, reference])[None])
    parts = {name: values[0] for name, values in parts.items()}
    np.testing.assert_allclose(
        sum(parts.values())[:10], [r.score for r in answer.recommendations], rtol=1e-4, atol=1e-4
    )
    for at, r in enumerate(answer.recommendations):
        gains = [reason.gain for reason in r.reasons]
        assert gains == sorted(gains, reverse=True) and gains[-1] > 0 and r.why == []
        for reason in r.reasons:
            values = parts[reason.part]
            assert reason.gain == pytest.approx(values[at] - values[10:].mean(), abs=1e-4)


def test_words_are_true_of_the_logs(recommender):
    ids, export, said = recommender.ids, recommender.export, set()
    for user in ids.users.labels(range(0, len(ids.users), 7)):
        events = events_of(recommender, user)
        songs = set(ids.songs.labels(events.item.tolist()))
        for filters in (Filters(), Filters(heard=False)):
            for r in recommender.recommend(user=user, k=5, filters=filters).recommendations:
                item = ids.songs.index_of(r.item_id)
                for reason in r.reasons:
                    said.add(reason.part)
                    if reason.part == "played before":
                        listens = int(((events.item == item) & (events.kind == LISTEN)).sum())
                        found = re.match(r"played (\d+) times|played once|liked", reason.text)
                        assert int(found[1] or 0) == (listens if listens > 1 else 0) and r.item_id in songs
                    if reason.item_id is not None:
                        assert reason.item_id in songs and reason.item_id != r.item_id
                        assert str(reason.item_id) in reason.text
                    if reason.artist_id is not None:
                        assert reason.artist_id in r.artist_ids
                    if reason.album_id is not None:
                        assert reason.album_id in r.album_ids
                    if reason.part == "artists":
                        number = ids.artists.index_of(reason.artist_id)
                        assert any(
                            number in export.artists[slice(*export.artist_offsets[song : song + 2])]
                            for song in events.item
                        )
    assert {"played before", "latest songs", "trend", "embedding"} <= said


def test_explaining_a_song_gives_the_same_score_and_all_reasons(recommender):
    history = [(recommender.ids.songs.label(3), 25_000_000)]
    for asked in ({"user": 216}, {"history": history}):
        answer = recommender.recommend(**asked, k=3)
        for r in answer.recommendations:
            found = recommender.explain(r.item_id, **asked)
            assert found.score == pytest.approx(r.score, abs=1e-4) and found.rank <= r.rank + 5
            assert found.reasons[0].text == r.reasons[0].text and len(found.reasons) >= len(r.reasons)


def test_the_table_and_the_number_of_reasons(recommender):
    answer = recommender.recommend(user=216, k=3)
    first = answer.recommendations[0].reasons[0].text
    assert first in str(answer) and str(answer).splitlines()[0].endswith(" why") and first in answer._repr_html_()
    for most in (0, 2):
        (few,) = recommender.recommend_batch([mm.Query(user=216)], k=3, reasons=most)
        assert [r.reasons for r in few.recommendations] == [r.reasons[:most] for r in answer.recommendations]
    assert all(r.reasons == [] for r in recommender.recommend([40], user=216, k=3).recommendations)


def test_folded_in_listeners_have_reasons_too(recommender):
    events, songs = events_of(recommender, 216), recommender.ids.songs
    history = [(songs.label(int(i)), int(t)) for i, t in zip(events.item, events.timestamp, strict=True)]
    answer = recommender.recommend(history=history, k=10)
    played = [reason for r in answer.recommendations for reason in r.reasons if reason.part == "played before"]
    assert played and all(r.reasons for r in answer.recommendations)
    first = recommender.recommend(history=[(history[-1][0], None)], k=5, filters=Filters(heard=False)).recommendations
    assert {reason.item_id for r in first for reason in r.reasons} <= {history[-1][0], None}


def test_without_a_head_the_nearest_song_of_the_listener(recommender):
    export = recommender.export
    plain = type(recommender).__mro__[1](export, index="exact", user_songs=recommender._user_songs)
    answer, heard = plain.recommend(user=216, k=5), plain._user_songs.heard_by(recommender.ids.users.index_of(216))
    for r in answer.recommendations:
        (reason,) = r.reasons
        item = plain.ids.songs.index_of(r.item_id)
        others = heard[heard != item]
        best = others[np.argmax(plain.vectors[others] @ plain.vectors[item])]
        assert reason.item_id == plain.ids.songs.label(int(best)) and reason.gain == pytest.approx(r.score)
