"""A run that commit 257b738 trained opens, evaluates and recommends with the figures that commit printed.

tests/data/run_of_257b738.json has those figures, and the commands that gave them.
"""

import json

import numpy as np
import pytest
from stored_run import DATA, extract_run

import music_map as mm
from music_map.reporter import SILENT
from music_map.retrieval.export import load_export
from music_map.retrieval.recommender import Recommender as Scorer
from music_map.storage import ArrayFolder

PRINTED = json.loads((DATA / "run_of_257b738.json").read_text())
QUERIES = [
    {"songs": [40, 663]},
    {"user": 216},
    {"user": 886, "filters": mm.Filters(heard=False)},
    {"songs": [1366, 1654], "user": 2670},
    {"songs": [40, 1366], "filters": mm.Filters(max_per_artist=1, diversity=0.3)},
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return extract_run(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def listeners(workdir):
    """The number of listeners of each song as the old export has it; see `test_answers_for_songs`."""
    return ArrayFolder.open(workdir / "embeddings").load("listeners")


@pytest.fixture(scope="module")
def recommender(workdir, listeners):
    return mm.Recommender.load(workdir)


def same(found, wanted):
    """Asserts that nested figures agree; `wanted` may have fewer."""
    if isinstance(wanted, dict):
        for name, value in wanted.items():
            same(found[name], value)
    elif isinstance(wanted, list):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-6)
    else:
        assert found == wanted


@pytest.mark.parametrize("protocol", ["temporal", "playlist"])
def test_evaluation(workdir, protocol):
    same(mm.evaluate(workdir, protocol, reporter=SILENT), PRINTED[protocol])


def test_a_run_without_newer_fields_means_what_it_did(workdir):
    config = mm.open_run(workdir).config
    assert (config.model.name, config.loss.name, config.recency.enabled) == ("lightgcnpp", "debiased_contrastive", True)


def answers_like_printed(recommender, numbers):
    for number in numbers:
        answer, printed = recommender.recommend(**QUERIES[number], k=10), PRINTED["answers"][number]
        assert [r.item_id for r in answer.recommendations] == printed["songs"]
        np.testing.assert_allclose([r.score for r in answer.recommendations], printed["scores"], atol=1e-5)


def test_answers_for_users(recommender):
    answers_like_printed(recommender, [1, 2])


def test_answers_for_songs(workdir, listeners, recommender):
    # 257b738 counted the listeners of its export wrongly, and a playlist's query depends on which songs have any.
    # With its counts the answers are those that it printed; the right ones are counted from the events.
    export, _ = load_export(workdir / "embeddings")
    settings = {"heads": recommender.heads, "dislike_push": recommender.dislike_push, "index": "exact"}
    answers_like_printed(Scorer(export._replace(listeners=listeners), **settings), [0, 3, 4])
    graph = mm.open_run(workdir).graph
    counted = [len(set(graph.user[graph.item == song].tolist())) for song in range(graph.num_items)]
    assert export.listeners.tolist() == counted != listeners.tolist()
