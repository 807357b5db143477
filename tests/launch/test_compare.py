"""launch/compare.py: two runs side by side, and what cannot be compared; playlists through launch/evaluate.py."""

import json
import shutil

import pytest
from commands import fails, flags, launch

from music_map.evaluation.playlist import SEED_COUNTS
from music_map.runfiles import RunFiles


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("compare")
    launch("generate", "--size=tiny", f"--output={base}/raw", "--seed=3")
    for name in "ab":
        args = [arg for arg in flags(f"{base}/raw", base) if not arg.startswith("--workdir")]
        seed = f"--config.train.seed={ord(name)}"
        launch("train", *args, "--config.train.num_epochs=1", seed, f"--workdir={base}/{name}")
    shutil.copytree(base / "a", base / "c")
    described = json.loads((base / "c/config.json").read_text())
    described["config"]["data"]["min_interactions"] += 1
    RunFiles(base / "c").write_json({"config.json": described | {"dataset": "another"}})
    return base


def test_two_seeds_are_compared_user_by_user(runs):
    done = launch("compare", f"{runs}/a", f"{runs}/b", f"--output={runs}/out.json", "--split=val")
    result = json.loads((runs / "out.json").read_text())
    assert result["split"] == "val" and result["num_users"] > 1
    for key, each in result["differences"].items():
        assert each["difference"] == pytest.approx(result["a"]["metrics"][key] - result["b"]["metrics"][key])
        assert each["interval"][0] <= each["difference"] <= each["interval"][1] and 0 < each["p_value"] <= 1
    assert "recall@20" in done.stdout and "randomization test" in done.stdout


def test_a_run_does_not_differ_from_itself(runs):
    launch("compare", f"{runs}/a", f"{runs}/a", f"--output={runs}/same.json")
    differences = json.loads((runs / "same.json").read_text())["differences"].values()
    assert all(d["difference"] == 0 and d["interval"] == [0, 0] and d["p_value"] == 1 for d in differences)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["a"], "RUN_B missing"),
        (["a", "b", "c"], "unexpected argument"),
        (["a", "nothing"], "no config.json there"),
        (["a", "c"], "config.data.min_interactions is "),
        (["a", "b", "--split=train"], "--split=train: must be val or test"),
        (["a", "b", "--protocol=lightgcm"], "lightgcn"),
    ],
)
def test_what_cannot_be_compared_is_one_line(runs, given, says):
    args = [arg if arg.startswith("--") else f"{runs}/{arg}" for arg in given]
    fails("compare", *args, says=[says])


def test_playlists_are_evaluated_by_number_of_seeds(runs):
    done = launch("evaluate", f"--workdir={runs}/a", "--protocol=playlist", f"--output={runs}/playlist.json")
    result = json.loads((runs / "playlist.json").read_text())
    assert result["seeds"] and set(result["seeds"]) <= {str(n) for n in SEED_COUNTS}
    for found in result["seeds"].values():
        assert {"mean_of_seeds", "last_seed"} <= set(found["baselines"]) and "ndcg@20" in found["intervals"]["model"]
    assert "by number of seeds" in done.stdout


def test_two_seeds_are_compared_by_their_playlists(runs):
    done = launch("compare", f"{runs}/a", f"{runs}/b", "--protocol=playlist", f"--output={runs}/playlists.json")
    result = json.loads((runs / "playlists.json").read_text())
    assert result["num_queries"] >= result["num_users"] and "ndcg@20" in result["differences"]
    assert "seeds" in done.stdout
