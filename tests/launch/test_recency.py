"""Recency through the commands: fitted in training, used by evaluate, resumed and mended."""

import json

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from commands import flags, launch

from music_map.recency.scores import FEATURES


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    base = tmp_path_factory.mktemp("recency")
    launch("generate", "--size=tiny", f"--output={base}/raw", "--seed=2")
    args = flags(f"{base}/raw", base, "--config.recency.enabled=True", "--config.data.split=global_temporal")
    args += ["--config.train.num_epochs=1", "--config.eval.protocol=global_temporal", "--config.recency.num_users=40"]
    return base, args, launch("train", *args)


def test_training_fits_the_head_without_the_targets(trained):
    base, _, done = trained
    assert "recency: fitted for protocol global_temporal" in done.stdout and "model_without_recency" in done.stdout
    head = json.loads((base / "work/recency/global_temporal.json").read_text())
    assert set(head["weights"]) == set(FEATURES) and head["num_users"] >= 1
    results = json.loads((base / "work/results.json").read_text())
    assert results["model"] != results["model_without_recency"]


def test_training_again_changes_nothing(trained):
    base, args, _ = trained
    before = json.loads((base / "work/results.json").read_text())["model"]
    done = launch("train", *args)
    assert "recency: fitted" not in done.stdout
    assert json.loads((base / "work/results.json").read_text())["model"] == before


def test_evaluate_fits_other_protocols_and_mends_a_damaged_head(trained):
    base, _, done = trained
    assert "recency: fitted for protocol temporal_repeats" in done.stdout  # what recommends songs that were heard
    command = ["evaluate", f"--workdir={base}/work", f"--output={base}/out.json", "--protocol=temporal_repeats"]
    launch(*command)
    wanted = json.loads((base / "out.json").read_text())["model"]
    (base / "work/recency/temporal_repeats.json").write_text("{}")
    second = launch(*command)
    assert "fitted anew" in second.stderr
    assert json.loads((base / "out.json").read_text())["model"] == wanted


def test_recommend_for_a_user_alone_reads_the_present(trained):
    base, _, _ = trained
    raw = pq.read_table(base / "raw/flat/tiny/listens.parquet", columns=["uid"])["uid"].to_pylist()
    user = max(set(raw), key=raw.count)
    command = ["recommend", f"--workdir={base}/work", f"--user={user}", "--format=json", "--k=5"]
    with_heard = json.loads(launch(*command).stdout)["recommendations"]
    new = json.loads(launch(*command, "--noheard").stdout)["recommendations"]
    assert len(with_heard) == len(new) == 5
    listens = pq.read_table(base / "raw/flat/tiny/listens.parquet").filter(pc.field("uid") == user)
    heard = set(listens["item_id"].to_pylist())
    assert not heard & {r["item_id"] for r in new} and heard & {r["item_id"] for r in with_heard}


def test_training_fits_the_playlist_query_and_evaluate_mends_it(trained):
    base, _, done = trained
    assert "playlist query: fitted on" in done.stdout
    stored = json.loads((base / "work/playlist.json").read_text())
    assert set(stored["heads"]) == {"space", "ordered", "unordered", "mixture"}
    assert stored["heads"]["space"]["centring"] != 0
    (base / "work/playlist.json").write_text("{}")
    command = ["evaluate", f"--workdir={base}/work", f"--output={base}/playlist.out", "--protocol=playlist"]
    assert "playlist query: fitted on" in launch(*command).stdout
    assert json.loads((base / "work/playlist.json").read_text()) == stored
    assert "playlist query: fitted" not in launch(*command).stdout
    found = json.loads((base / "playlist.out").read_text())["baselines"]
    assert {"mean_of_seeds", "mean_in_space", "unordered_attention"} <= set(found)
