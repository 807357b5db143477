"""The playlist query against its formulas, and what is measured against what is recommended."""

import jax.numpy as jnp
import numpy as np
import pytest

from music_map.evaluation.pairs import Pairs
from music_map.evaluation.playlist import PlaylistTask
from music_map.evaluation.protocols import RankingTask, find_protocol
from music_map.evaluation.ranking import rank
from music_map.playlist.attention import attend, push_away
from music_map.playlist.companions import Companions
from music_map.playlist.heads import Mixture, untrained
from music_map.playlist.onward import Onward
from music_map.playlist.tastes import tastes_of
from music_map.preprocess.dataset import ItemFeatures
from music_map.retrieval.answers import Query
from music_map.retrieval.export import make_export, popularity_of
from music_map.retrieval.playlist_query import Asked, PlaylistQuery
from music_map.retrieval.recommender import Recommender
from music_map.run.sessions import QueryScores

SONGS, DIM, TOGETHER, LEAST = 120, 12, 2.0, 0.4
RNG = np.random.default_rng(0)
ROWS = np.repeat(np.eye(DIM)[:6], 20, axis=0) + 0.15 * RNG.normal(size=(SONGS, DIM))
VECTORS = (ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)).astype(np.float32)
LISTENERS = RNG.integers(1, 50, SONGS)
COMPANIONS = Companions(
    np.arange(SONGS + 1) * 5,
    np.concatenate([RNG.permutation(SONGS)[:5] for _ in range(SONGS)]).astype(np.int32),
    RNG.exponential(0.1, 5 * SONGS).astype(np.float32),
)
ONWARD = Onward(*(np.eye(DIM) + 0.3 * RNG.normal(size=(2, DIM, DIM))).astype(np.float32))
STRENGTHS = (0.7, 1.5)
HEADS = untrained(0.5)._replace(mixture=Mixture(*map(np.float32, (TOGETHER, LEAST, *STRENGTHS))))
NOBODY = np.zeros(DIM, np.float32)


@pytest.fixture(scope="module")
def query():
    return PlaylistQuery(VECTORS, popularity_of(LISTENERS), HEADS, companions=COMPANIONS, onward=ONWARD)


@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("pushed", [[], [3, 100]])
@pytest.mark.parametrize(("songs", "number"), [([5], 1), ([1, 7, 12], 1), ([1, 25, 7, 44, 90], 4)])
def test_scores_are_those_of_the_formulas(query, songs, number, pushed, share):
    songs, pushed = np.array(songs), np.array(pushed, np.int64)
    taste = VECTORS[50] if share else NOBODY
    (wanted,), (weights,) = query([Asked(songs, True, taste, share, pushed)])
    of = tastes_of(VECTORS[songs], LEAST)
    rows, where, popularity = VECTORS[songs], np.ones(len(songs), bool), popularity_of(LISTENERS)[songs]
    a = np.asarray(attend(jnp.asarray(rows), where, popularity, HEADS.ordered)[1])
    np.testing.assert_allclose(weights, a, rtol=1e-5)
    assert len(wanted.weights) == of.max() + 1 == number
    matrix = COMPANIONS.matrix.toarray()
    for at in range(number):
        mine = np.where(of == at, a, 0.0)
        np.testing.assert_allclose(wanted.weights[at], mine.sum(), rtol=1e-5)
        q, single = mine @ rows, (of == at).sum() == 1
        centre = rows[of == at].sum(axis=0)
        on = centre @ (ONWARD.one if single else ONWARD.several)
        q = q / np.linalg.norm(q) + (STRENGTHS[0] if single else STRENGTHS[1]) * on / np.linalg.norm(on)
        q = (1 - share) * q / np.linalg.norm(q) + share * taste
        q /= np.linalg.norm(q)
        (q,) = push_away(q[None], VECTORS[pushed], 0.5)
        np.testing.assert_allclose(wanted.vectors[at], q, atol=1e-5)
        plus = TOGETHER * (1 - share) * ((mine / mine.sum()) @ matrix[songs] - 0.5 * matrix[pushed].sum(axis=0))
        found = np.zeros(SONGS)
        found[wanted.plus[at][0]] = wanted.plus[at][1]
        np.testing.assert_allclose(found, np.maximum(plus, 0.0), atol=1e-5)


def test_songs_listened_to_together_are_told_pair_by_pair(query):
    found = query.together(np.array([4, 9]), np.array([1, 2, 3]))
    np.testing.assert_allclose(found, TOGETHER * COMPANIONS.matrix.toarray()[np.ix_([4, 9], [1, 2, 3])].T)


def test_what_is_measured_is_what_is_recommended(query):
    features = ItemFeatures(
        audio=np.zeros((0, 128), np.float32), audio_row=np.full(SONGS, -1, np.int32),
        artist_offsets=np.zeros(SONGS + 1, np.int64), artists=np.zeros(0, np.int32), artist_ids=np.zeros(0, np.uint32),
        album_offsets=np.zeros(SONGS + 1, np.int64), albums=np.zeros(0, np.int32), album_ids=np.zeros(0, np.uint32),
        track_seconds=np.zeros(SONGS, np.float32),
    )  # fmt: skip
    export = make_export(
        user_ids=np.zeros(0, np.uint32), item_ids=np.arange(SONGS, dtype=np.uint32),
        user_embeddings=np.zeros((0, DIM)), item_embeddings=VECTORS, listeners=LISTENERS, features=features,
    )  # fmt: skip
    recommender = Recommender(export, index="exact", heads=HEADS, companions=COMPANIONS, onward=ONWARD)
    seeds = np.stack([np.random.default_rng(seed).permutation(SONGS if seed % 2 else 20)[:6] for seed in range(12)])
    rows = np.arange(12, dtype=np.int32)
    size = {"num_rows": 12, "num_items": SONGS}
    masked = Pairs.of(rows.repeat(6), seeds.ravel(), **size)
    ranking = RankingTask(
        protocol=find_protocol("playlist"), split="val", users=rows, targets=masked, masked=masked,
        candidates=np.ones(SONGS, bool), num_dropped_users=0, cold_target_share=0.0,
    )  # fmt: skip
    scores = QueryScores(query, VECTORS, PlaylistTask(ranking, seeds.astype(np.int32), rows, 12))
    lists = rank(scores, rows, num_items=SONGS, k=20, candidates=ranking.candidates, masked=masked)
    answers = recommender.recommend_batch([Query(tuple(own)) for own in seeds.tolist()], k=20)
    assert [[r.item_id for r in answer.recommendations] for answer in answers] == lists.tolist()
    for own, answer in zip(seeds.tolist(), answers, strict=True):
        alone = recommender.recommend(own, k=20).recommendations
        assert [r.item_id for r in alone] == [r.item_id for r in answer.recommendations]
        explained = recommender.explain(alone[0].item_id, songs=own)
        assert explained.score == pytest.approx(alone[0].score, abs=1e-5)
    # Playlists of six songs at random: most of their songs lead a recommendation; of a single taste every song may.
    leads = [len({r.why[0].item_id for r in answers[row].recommendations}) for row in range(1, 12, 2)]
    assert np.mean(leads) > 4
