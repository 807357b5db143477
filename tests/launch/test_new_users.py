"""The protocol fold_in: users taken out of training, and back as histories."""

import json

import numpy as np
import pytest
from commands import fails, launch

import music_map as mm
from music_map.preprocess.cold import new_users
from music_map.run.new_users import SHARE


def test_folded_in_users_beside_trained_ones(trained, tmp_path):
    work = trained[0] / "work"
    command = ["evaluate", f"--workdir={work}", "--protocol=fold_in", f"--output={tmp_path}/first.json"]
    done = launch(*command)
    found = json.loads((tmp_path / "first.json").read_text())
    assert {"trained", "playlist_query", "most_pop", "item_knn"} <= set(found["baselines"])
    share = found["of_trained"]["model"]["ndcg@20"]
    assert share["share"] == pytest.approx(found["model"]["ndcg@20"] / found["baselines"]["trained"]["ndcg@20"])
    assert share["interval"][0] <= share["share"] <= share["interval"][1] and 0 <= share["p_value"] <= 1
    assert "of the same users trained on" in done.stdout
    # A tenth of the users, none of whom the second model has seen.
    run = mm.open_run(work)
    users = new_users(run.dataset.user_ids, fraction=SHARE)
    assert 0 < found["num_users"] <= users.sum() and 0.03 < users.mean() < 0.2
    apart = run.without(users, work / "fold_in")
    assert not users[apart.events("train").user].any()
    assert not np.diff(apart.graph.user_offsets)[users].any() and np.diff(run.graph.user_offsets)[users].any()
    assert apart.dataset.fingerprint != run.dataset.fingerprint and apart.dataset.train_end == run.dataset.train_end
    # The second model is trained once.
    again = launch(*command[:-1], f"--output={tmp_path}/second.json")
    second = json.loads((tmp_path / "second.json").read_text())
    assert second == found and "epoch" not in again.stderr
    fails(*command, "--baselines=sasrec", says=["sasrec", "fold_in", "item_knn"])
    fails("compare", work, work, "--protocol=fold_in", f"--output={tmp_path}/c.json", says=["fold_in", "evaluate.py"])
