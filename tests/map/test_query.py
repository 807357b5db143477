"""The page's own arithmetic (query.js) against the Python recommender over the same quantised vectors."""

import json
import shutil
import subprocess
from pathlib import Path

import maps
import numpy as np
import pytest

from music_map.map.agreement import agreement, recommender_of
from music_map.map.clusters import cluster
from music_map.map.quantise import dequantise, quantise
from music_map.retrieval.export import popularity_of
from music_map.retrieval.filters import Filters, allowed_songs

SCRIPT = Path(__file__).resolve().parents[2] / "music_map/map/page/query.js"
RUN = """
const q = require(process.argv[1]), input = JSON.parse(require("fs").readFileSync(0, "utf8"));
const songs = q.songVectors(Int16Array.from(input.codes), input.dim);
const rules = (asked) => [
  { most: asked.max_per_artist, offsets: input.offsets, values: Int32Array.from(input.artists) },
].filter((r) => r.most);
console.log(JSON.stringify(input.asked.map((asked) => {
  const found = q.recommend({ songs, popularity: input.popularity, heads: input.heads, push: input.push, asked,
    may: (i) => input.allowed[i], rules: rules(asked) });
  return { songs: found.songs, scores: found.values, weights: Array.from(found.weights), playlist: found.playlist,
    tastes: found.tastes.length, places: found.tastes.map((scores) => q.placeOf(scores, input.position)) };
})));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js on this machine to run query.js with")
@pytest.mark.parametrize("bits", [8, 16])
def test_the_same_songs_scores_and_weights_as_the_recommender(bits):
    export, rng = maps.songs(), np.random.default_rng(2)
    vectors = export.item_embeddings / np.linalg.norm(export.item_embeddings, axis=1, keepdims=True)
    codes, heads = quantise(vectors, bits=bits), maps.heads()
    asked = []
    for n, k, caps, diversity, dislikes in [
        (1, 10, 0, 0.0, 0), (2, 10, 0, 0.0, 0), (9, 20, 0, 0.0, 3), (70, 5, 0, 0.0, 1), (5, 10, 1, 0.0, 0),
        (5, 40, 2, 0.0, 2), (3, 10, 0, 0.5, 0), (6, 12, 1, 0.8, 2), (2, 500, 0, 0.0, 0), (4, 300, 1, 0.0, 0),
    ]:  # fmt: skip
        for ordered in (True, False):
            drawn = rng.permutation(len(vectors))[: n + dislikes].tolist()
            playlist = drawn[:n] + drawn[:1]  # a duplicate: its last place counts
            asked.append({"playlist": playlist, "dislikes": drawn[n:], "ordered": ordered, "k": k,
                          "max_per_artist": caps, "diversity": diversity})  # fmt: skip
    stored = {
        name: {f: np.asarray(v).tolist() for f, v in getattr(heads, name)._asdict().items()}
        for name in ("ordered", "unordered", "mixture")
    }
    given = {
        "codes": codes.ravel().tolist(), "dim": maps.DIM, "popularity": popularity_of(export.listeners).tolist(),
        "heads": stored, "push": 0.5, "asked": asked, "allowed": allowed_songs(Filters(), export).tolist(),
        "offsets": export.artist_offsets.tolist(), "artists": export.artists.tolist(),
        "position": rng.normal(size=2 * len(vectors)).tolist(),
    }  # fmt: skip
    done = subprocess.run(
        ["node", "-e", RUN, "--", str(SCRIPT)], input=json.dumps(given), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    ids, several = export.item_ids, 0
    for query, found in zip(asked, json.loads(done.stdout), strict=True):
        filters = Filters(max_per_artist=query["max_per_artist"], diversity=query["diversity"])
        recommender = recommender_of(export, dequantise(codes), heads, filters, dislike_push=0.5)
        wanted = recommender.recommend(
            ids[query["playlist"]].tolist(),
            dislikes=ids[query["dislikes"]].tolist(),
            ordered=query["ordered"],
            k=query["k"],
        ).recommendations
        assert ids[found["songs"]].tolist() == [r.item_id for r in wanted], query
        np.testing.assert_allclose(found["scores"], [r.score for r in wanted], atol=2e-6)
        weight = dict(zip(ids[found["playlist"]].tolist(), found["weights"], strict=True))
        for reason in wanted[0].why:
            assert weight[reason.item_id] == pytest.approx(reason.weight, abs=2e-6)
        assert np.isfinite(found["places"]).all() and len(found["places"]) == found["tastes"]
        several += found["tastes"] > 1
    assert 4 <= several <= 18  # of 20 playlists, two of a single song


def test_agreement_of_quantised_recommendations():
    export = maps.songs()
    vectors = export.item_embeddings / np.linalg.norm(export.item_embeddings, axis=1, keepdims=True)
    found = {
        bits: agreement(
            export, vectors, quantise(vectors, bits=bits), cluster(vectors, 6), maps.heads(), Filters(), num_queries=30
        )
        for bits in (8, 16)
    }
    assert found[8].num_queries == 30 and 0.9 < found[8].same_top_10 <= found[16].same_top_10
    assert 0 < found[16].worst_score_error < 1e-4 < found[8].worst_score_error < 0.02
    # Both the song and the query are rounded.
    assert found[8].worst_vector_error < 0.02
