"""Index, batch, every user: the commands on a trained workdir."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from commands import fails, launch

from music_map.retrieval.index import installed
from music_map.retrieval.recommender import Recommender
from music_map.runfiles import RunFiles
from music_map.storage import read_json, sealed, unsealed, write_json


@pytest.fixture(scope="module")
def work(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieval") / "work"
    shutil.copytree(trained[0] / "work", folder)
    return folder


def test_an_index_is_built_loaded_and_refused_when_stale(work):
    done = launch("build_index", f"--workdir={work}")
    assert "recall@100" in done.stdout and "loads in" in done.stdout
    recommender = Recommender.load(work)
    song = int(recommender.export.item_ids[0])
    assert len(recommender.recommend(songs=[song], k=3).recommendations) == 3
    assert len(recommender.similar(song, k=3).recommendations) == 3
    with RunFiles(work).new_folder("index") as folder:
        shutil.copytree(work / "index", folder, dirs_exist_ok=True)
        stored = unsealed(read_json(folder / "manifest.json"), folder / "manifest.json")
        write_json(folder / "manifest.json", sealed(stored | {"fingerprint": "another"}))
    fails("recommend", f"--workdir={work}", f"--songs={song}", says=["index", "another checkpoint", "build_index"])
    if installed():
        # A small catalogue would be searched exactly: the index that was asked for is used all the same.
        launch("build_index", f"--workdir={work}", "--index=scann")
        assert Recommender.load(work).index.backend == "scann"
    launch("build_index", f"--workdir={work}", "--index=exact", "--recall_target=0.9")
    launch("recommend", f"--workdir={work}", f"--songs={song}")


def test_a_batch_answers_every_line(work, tmp_path):
    ids = Recommender.load(work).export.item_ids
    lines = [f"{ids[0]},{ids[1]}", json.dumps({"songs": [int(ids[2])], "dislikes": [int(ids[3])]}), "", "4294967295"]
    (tmp_path / "queries").write_text("\n".join(lines))
    done = launch("recommend", f"--workdir={work}", f"--batch={tmp_path}/queries", f"--output={tmp_path}/out", "--k=4")
    assert "3 answers" in done.stdout and "1 of them errors" in done.stdout
    answers = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [len(a.get("recommendations", [])) for a in answers] == [4, 4, 0]
    assert int(ids[3]) not in [r["item_id"] for r in answers[1]["recommendations"]]
    assert "unknown song 4294967295" in answers[2]["error"]
    (tmp_path / "queries").write_text(f"{ids[0]}\nnine\n{ids[0]},nine\n" + json.dumps({"songs": [1], "ordered": "no"}))
    command = ("recommend", f"--workdir={work}", f"--batch={tmp_path}/queries")
    launch(*command, f"--output={tmp_path}/out", "--k=4")
    answers = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert "unknown song 'nine'" in answers[1]["error"] and "unknown song 'nine'" in answers[2]["warnings"][0]
    assert answers[2]["recommendations"] == answers[0]["recommendations"]
    assert "queries, line 4: ordered" in answers[3]["error"]
    fails(*command, says=["--output missing"])
    fails(*command, f"--output={tmp_path}", says=["--output=", "is a folder"])
    fails(*command, "--all_users", f"--output={tmp_path}/out", says=["give one of"])


def test_every_user_goes_to_parquet_and_on_after_a_stop(work, tmp_path):
    output = tmp_path / "all.parquet"
    command = ["recommend", f"--workdir={work}", "--all_users", "--k=3", f"--output={output}", "--max_per_artist=2"]
    launch(*command)
    users = Recommender.load(work).export.user_ids
    table = pq.read_table(output)
    assert table.column_names == ["uid", "rank", "item_id", "score", "name"]
    assert sorted(set(table["uid"].to_pylist())) == users.tolist() and len(table) == 3 * len(users)
    assert not output.with_name("all.parquet.parts").exists()
    parts = output.with_name("all.parquet.parts")
    parts.mkdir()
    (parts / "identity.json").write_text('"another"')
    fails(*command, says=["all.parquet.parts", "another model"])
    assert pq.read_table(output).equals(table)


def test_filters_on_the_command_line(work, tmp_path):
    ids = Recommender.load(work).export.item_ids
    (tmp_path / "deny").write_text("\n".join(map(str, ids[1:10])))
    command = ["recommend", f"--workdir={work}", f"--songs={ids[0]}", "--format=json", "--k=5"]
    found = json.loads(launch(*command, f"--deny={tmp_path}/deny", "--diversity=0.3", "--min_listeners=2").stdout)
    assert not {r["item_id"] for r in found["recommendations"]} & set(ids[:10].tolist())
    (tmp_path / "allow").write_text("\n".join(map(str, ids[1:4])))
    found = json.loads(launch(*command, f"--allow={tmp_path}/allow").stdout)
    assert {r["item_id"] for r in found["recommendations"]} <= set(ids[1:4].tolist())
    assert found["warnings"]
    fails(*command, f"--deny={tmp_path}/missing", says=["--deny", "missing"])
    fails(*command, "--min_listeners=1000000", says=["min_listeners=1000000"])
    fails("recommend", f"--workdir={work}", "--songs=" + ",".join(map(str, range(1100))), says=["at most 1024"])
