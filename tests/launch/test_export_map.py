"""launch/export_map.py on a trained run: the page, again the same, close to an older map, with names; bad input."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import fails, launch

from music_map.map.page import block_of
from music_map.map.payload import unpack
from music_map.map.projection import installed
from music_map.retrieval.recommender import Recommender


def contents(path):
    return unpack(block_of(path.read_text(), source=str(path)), source=str(path))


@pytest.mark.skipif(not installed(), reason="umap-learn is not installed")
def test_a_map_and_one_like_it(trained, tmp_path):
    work = trained[0] / "work"
    done = launch(
        "export_map", f"--workdir={work}", f"--output={tmp_path}/map.html", f"--positions={tmp_path}/map.parquet"
    )
    recommender = Recommender.load(work)
    ids = recommender.export.item_ids
    assert f"{len(ids)} songs" in done.stdout and "of the top 10" in done.stdout
    arrays, meta = contents(tmp_path / "map.html")
    np.testing.assert_array_equal(arrays["item_ids"], ids)
    assert pq.read_table(tmp_path / "map.parquet")["item_id"].to_pylist() == ids.tolist()
    assert meta["facts"]["same_top_10"] > 0.9
    launch("export_map", f"--workdir={work}", f"--output={tmp_path}/next.html", f"--previous={tmp_path}/map.parquet")
    moved = np.linalg.norm(contents(tmp_path / "next.html")[0]["position"] - arrays["position"], axis=1)
    assert np.median(moved) < 0.2


def test_names_settings_and_bad_input(trained, tmp_path):
    work = trained[0] / "work"
    ids = Recommender.load(work).export.item_ids
    (tmp_path / "songs.json").write_text(json.dumps([{"item_id": int(i), "title": f"Song of {i}"} for i in ids[:5]]))
    command = ["export_map", f"--workdir={work}", f"--output={tmp_path}/map.html", "--method=pca"]
    launch(
        *command, f"--metadata={tmp_path}/songs.json", "--bits=16", "--max_songs=50", "--num_clusters=3", "--title=Mine"
    )
    first = (tmp_path / "map.html").read_bytes()
    arrays, meta = contents(tmp_path / "map.html")
    assert arrays["codes"].dtype == np.int16 and len(arrays["item_ids"]) == 50 and meta["facts"]["title"] == "Mine"
    assert meta["facts"]["num_catalogue"] == len(ids) and len(meta["clusters"]) <= 3
    launch(
        *command, f"--metadata={tmp_path}/songs.json", "--bits=16", "--max_songs=50", "--num_clusters=3", "--title=Mine"
    )
    assert (tmp_path / "map.html").read_bytes() == first
    fails(*command, f"--metadata={tmp_path}/none.csv", says=[f"{tmp_path}/none.csv", "no such file"])
    fails(*command, f"--previous={tmp_path}/songs.json", says=[f"{tmp_path}/songs.json", "holds no map"])
    fails(*command, "--bits=4", says=["--bits=4", "8 or 16"])
    fails("export_map", f"--workdir={work}", f"--output={tmp_path}", says=["--output", "is a folder"])
    fails("export_map", f"--workdir={tmp_path}", f"--output={tmp_path}/a.html", says=["train first"])
