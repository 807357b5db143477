"""Recency through the commands: fitted in training, used by evaluate, resumed and mended."""

import json
import socket
import subprocess
import sys

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from commands import ENV, ROOT, flags, launch

from music_map.recency.scores import FEATURES


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


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
    assert set(stored["heads"]) == {"space", "ordered", "unordered"}
    assert stored["heads"]["space"]["centring"] != 0
    (base / "work/playlist.json").write_text("{}")
    command = ["evaluate", f"--workdir={base}/work", f"--output={base}/playlist.out", "--protocol=playlist"]
    assert "playlist query: fitted on" in launch(*command).stdout
    assert json.loads((base / "work/playlist.json").read_text()) == stored
    assert "playlist query: fitted" not in launch(*command).stdout
    found = json.loads((base / "playlist.out").read_text())["baselines"]
    assert {"mean_of_seeds", "mean_in_space", "unordered_attention"} <= set(found)


def test_two_processes_finish_the_whole_command_with_the_same_results(trained):
    base, args, _ = trained
    flag = "--xla_backend_optimization_level=0"  # programs that run for a few steps: the less compilation, the better
    where = [f"--workdir={base}/two", "--config.parallel=sharded", f"--coordinator_address=127.0.0.1:{free_port()}"]
    command = [sys.executable, "launch/train.py", *args, *where, "--num_processes=2"]
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENV | {"XLA_FLAGS": flag}}
    started = [subprocess.Popen([*command, f"--process_id={i}"], cwd=ROOT, **pipes) for i in range(2)]
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    one, two = (json.loads((base / name / "results.json").read_text()) for name in ("work", "two"))
    assert one["num_users"] == two["num_users"] and one["step"] == two["step"]
    assert one["baselines"] == two["baselines"]
    for form in ("model", "model_without_recency"):
        assert two[form] == pytest.approx(one[form], abs=0.01)  # sums in another order may swap near ties
    heads = [json.loads((base / name / "recency/temporal_repeats.json").read_text()) for name in ("work", "two")]
    assert heads[0]["num_users"] == heads[1]["num_users"]
    assert heads[1]["weights"] == pytest.approx(heads[0]["weights"], abs=0.01)
    # What the processes have made together is a run like any other.
    query = ["recommend", f"--workdir={base}/two", "--format=json", "--k=5", "--user"]
    user = pq.read_table(base / "raw/flat/tiny/listens.parquet", columns=["uid"])["uid"][0].as_py()
    assert len(json.loads(launch(*query, user).stdout)["recommendations"]) == 5
