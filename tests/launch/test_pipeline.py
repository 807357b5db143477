"""The commands, end to end, as a user runs them: generated logs to recommendations, resume, and bad input."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ENV, ROOT, fails, flags, heard, launch, log_lines

from music_map.runfiles import RunFiles


def test_train_leaves_a_whole_workdir(trained):
    base, done = trained
    work = base / "work"
    for name in ("config.json", "metrics.jsonl", "results.json", "checkpoints", "embeddings"):
        assert (work / name).exists(), name
    assert "most_pop" in done.stdout and "item_knn" in done.stdout and "launch/recommend.py" in done.stdout
    lines = log_lines(work)
    assert any("train/loss" in line for line in lines) and any("val/ndcg@20" in line for line in lines)
    seconds = json.loads((work / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"seconds/train", "seconds/eval", "seconds/compile"} <= seconds.keys()
    for stats in ("stats.json", "graph_stats.json"):
        assert list((base / "processed").rglob(stats))


def test_the_commands_that_train_prints_work(trained):
    _, done = trained
    commands = [line for line in done.stdout.splitlines() if line.startswith("python launch/")]
    assert len(commands) == 2
    for command in commands:
        name, *args = command.removeprefix("python launch/").split()
        launch(name.removesuffix(".py"), *args)


def test_evaluate(trained):
    base, _ = trained
    for split in ("val", "test"):
        output = base / f"{split}.json"
        launch("evaluate", f"--workdir={base}/work", f"--output={output}", f"--split={split}")
        result = json.loads(output.read_text())
        assert {"protocol", "model", "baselines", "num_users", "config"} <= result.keys()
        assert {"most_pop", "item_knn"} <= result["baselines"].keys()
        for metrics in (result["model"], *result["baselines"].values()):
            for k in (10, 20, 50, 100):
                for name in ("recall", "ndcg", "hit_rate", "mrr", "map", "coverage"):
                    assert 0.0 <= metrics[f"{name}@{k}"] <= 1.0
        intervals = result["intervals"]
        low, high = intervals["model"]["ndcg@20"]
        assert low <= result["model"]["ndcg@20"] <= high and low < high
        assert intervals["baselines"].keys() == intervals["model_minus"].keys() == result["baselines"].keys()
    best = max(line["val/ndcg@20"] for line in log_lines(base / "work") if "val/ndcg@20" in line)
    again = json.loads((base / "val.json").read_text())["model"]["ndcg@20"]
    assert again == pytest.approx(best, rel=1e-6)


def test_evaluate_with_another_protocol(trained):
    base, _ = trained
    launch("evaluate", f"--workdir={base}/work", f"--output={base}/repeats.json", "--protocol=temporal_repeats")
    assert json.loads((base / "repeats.json").read_text())["protocol"] == "temporal_repeats"


def test_evaluate_with_a_protocol_that_the_data_cannot_answer(trained, tmp_path):
    base, _ = trained
    args = [f"--workdir={base}/work", f"--output={tmp_path}/out.json", "--protocol=global_temporal"]
    fails("evaluate", *args, says=["--protocol", "'global_temporal'", "--config.data.split=global_temporal"])


def test_cold_start(trained, raw, tmp_path):
    base, _ = trained
    evaluate = ["--protocol=cold_start", f"--output={tmp_path}/cold.json"]
    says = ["--protocol", "'cold_start' ranks songs held out", "--config.data.cold_item_fraction=0.1"]
    fails("evaluate", f"--workdir={base}/work", *evaluate, says=says)
    held_out = ["--config.data.cold_item_fraction=0.1", "--config.recency.enabled=False", "--config.train.num_epochs=1"]
    launch("train", *flags(raw, tmp_path, *held_out))
    launch("evaluate", f"--workdir={tmp_path}/work", *evaluate, "--split=val")
    result = json.loads((tmp_path / "cold.json").read_text())
    assert list(result["baselines"]) == ["random", "artist_pop", "audio_knn"]
    assert result["cold_target_share"] == 1.0 and 0 < result["num_candidates"] < 60


def test_evaluate_with_tuned_baselines(trained, tmp_path):
    base, _ = trained
    work = tmp_path / "work"
    shutil.copytree(base / "work", work)
    args = [f"--workdir={work}", f"--output={tmp_path}/out.json", "--baselines=most_pop,decay_pop,item_knn_decay"]
    first = launch("evaluate", *args, "--tune_baselines")
    assert "decay_pop: validation ndcg@20" in first.stdout and "item_knn_decay: validation" in first.stdout
    result = json.loads((tmp_path / "out.json").read_text())
    assert list(result["baselines"]) == ["most_pop", "decay_pop", "item_knn_decay"]
    (kept,) = work.glob("baselines-*.json")
    trials = json.loads(kept.read_text())["trials"]["decay_pop"]
    best = max(trials, key=lambda trial: trial["ndcg@20"])
    chosen = json.loads(kept.read_text())["settings"]["decay_pop"]
    assert chosen == {"half_life_days": best["half_life_days"]} == result["baseline_settings"]["decay_pop"]
    # Tuned once: the second time the file is read.
    again = launch("evaluate", *args, "--tune_baselines")
    assert "validation ndcg@20" not in again.stdout
    assert json.loads((tmp_path / "out.json").read_text()) == result
    launch("evaluate", *args, f"--baseline_settings={kept}")
    assert json.loads((tmp_path / "out.json").read_text()) == result
    # A file of the run: one figure changed by hand is noticed, a copy elsewhere is the user's own.
    changed = kept.read_text().replace(f'"half_life_days": {chosen["half_life_days"]}', '"half_life_days": 7.5')
    kept.write_text(changed)
    for flag in ("--tune_baselines", f"--baseline_settings={kept}"):
        fails("evaluate", *args, flag, says=[kept.name, "damaged (its checksum differs", "tune again"])
    (tmp_path / "own.json").write_text(changed)
    launch("evaluate", *args, f"--baseline_settings={tmp_path}/own.json")


def test_a_checkpoint_of_another_run_is_not_taken(trained, tmp_path):
    base, _ = trained
    work, args = tmp_path / "work", ["--baselines=most_pop", f"--output={tmp_path}/out.json"]
    shutil.copytree(base / "work", work)
    # As if this folder were of another training on the same data: config.json and manifest fit, the checkpoints do not.
    value = json.loads((work / "config.json").read_text())
    RunFiles(work).write_json({"config.json": {**value, "run": "0" * 64}})
    fails(
        "evaluate", f"--workdir={work}", *args, says=["this checkpoint belongs to another run", "no other checkpoint"]
    )


def test_evaluate_with_baselines_that_cannot_be(trained, tmp_path):
    base, _ = trained
    args = [f"--workdir={base}/work", f"--output={tmp_path}/out.json"]
    fails("evaluate", *args, "--baselines=most_popp", says=["--baselines", "most_pop"])
    fails("evaluate", *args, f"--baseline_settings={tmp_path}/no.json", says=[f"{tmp_path}/no.json", "no such file"])
    (tmp_path / "s.json").write_text('{"settings": {"ials": {"alfa": 1}}}')
    fails("evaluate", *args, f"--baseline_settings={tmp_path}/s.json", says=["s.json", "alfa", "alpha"])
    fails("evaluate", *args, "--tune_baselines", "--baseline_settings=x", says=["--tune_baselines", "exclude"])


def test_recommend_json(trained, raw):
    base, _ = trained
    songs, table = heard(raw)
    args = [f"--workdir={base}/work", f"--songs={songs[0]},{songs[1]}", "--k=10", "--format=json"]
    result = json.loads(launch("recommend", *args).stdout)
    found = [r["item_id"] for r in result["recommendations"]]
    assert len(found) == len(set(found)) == 10 and not {songs[0], songs[1]} & set(found)
    assert set(found) <= set(table["item_id"])
    first = result["recommendations"][0]
    assert {"rank", "item_id", "score", "artist_ids", "album_ids", "why"} <= first.keys()
    assert sum(reason["weight"] for reason in first["why"]) == pytest.approx(1.0, abs=1e-5)
    scores = [r["score"] for r in result["recommendations"]]
    assert scores == sorted(scores, reverse=True)


def test_recommend_for_a_user_leaves_out_dislikes_and_heard_songs(trained, raw):
    base, _ = trained
    songs, table = heard(raw)
    dislikes = pq.read_table(raw / "flat/tiny/dislikes.parquet").to_pydict()
    undone = pq.read_table(raw / "flat/tiny/undislikes.parquet").to_pydict()
    undone = set(zip(undone["uid"], undone["item_id"], strict=True))
    busy = sorted(set(table["uid"]), key=table["uid"].count, reverse=True)
    user = next(u for u in busy if u in set(dislikes["uid"]))
    args = [f"--workdir={base}/work", f"--songs={songs[0]}", f"--user={user}", "--k=500", "--format=json"]
    everything = {r["item_id"] for r in json.loads(launch("recommend", *args).stdout)["recommendations"]}
    disliked = {
        i for u, i in zip(dislikes["uid"], dislikes["item_id"], strict=True) if u == user and (u, i) not in undone
    }
    assert not disliked & everything
    mine = {i for u, i in zip(table["uid"], table["item_id"], strict=True) if u == user}
    assert mine & everything
    fresh = {r["item_id"] for r in json.loads(launch("recommend", *args, "--noheard").stdout)["recommendations"]}
    assert fresh and not mine & fresh


def test_recommend_table_and_partly_unknown_songs(trained, raw):
    base, _ = trained
    songs, _ = heard(raw)
    done = launch("recommend", f"--workdir={base}/work", f"--songs={songs[0]},4294967290", "--k=3", "--format=table")
    assert len(done.stdout.strip().splitlines()) == 4
    assert "warning: unknown song 4294967290" in done.stderr


def test_recommend_bad_input(trained):
    base, _ = trained
    work = f"--workdir={base}/work"
    fails("recommend", work, "--songs=4294967290", says=["unknown song 4294967290"])
    fails("recommend", work, "--songs=abc", says=["unknown song 'abc'"])
    fails("recommend", work, "--songs=", says=["empty playlist", "--songs"])
    fails("recommend", work, "--user=4294967290", says=["unknown user 4294967290"])
    fails("recommend", f"--workdir={base}/nowhere", "--songs=1", says=["nowhere", "launch/train.py"])


def test_resume_after_kill_equals_uninterrupted(trained, raw, tmp_path):
    """SIGKILL at random moments, then SIGTERM once: the run that goes on ends as the one that never stopped."""
    whole, _ = trained
    base = tmp_path
    # Slow enough to be hit: every dispatch is one step and ends in a checkpoint.
    args = flags(raw, base, "--config.train.steps_per_dispatch=1")
    rng = random.Random(int.from_bytes(os.urandom(4)))
    for kill in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "launch/train.py", *args], cwd=ROOT, env=ENV,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        checkpoints = base / "work" / "checkpoints"
        before = {p.name for p in checkpoints.glob("[0-9]*")}
        while process.poll() is None and {p.name for p in checkpoints.glob("[0-9]*")} <= before:
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 0.5))
        process.send_signal(kill)
        out, err = process.communicate(timeout=120)
        if kill == signal.SIGTERM:
            assert process.returncode == 0, err
            assert "stopped by a signal" in out or "test split" in out
    launch("train", *args)
    assert log_lines(base / "work") == log_lines(whole / "work")
    results = [json.loads((b / "work" / "results.json").read_text()) for b in (whole, base)]
    clock = ("train_seconds", "eval_seconds", "compile_seconds", "stages")
    first, second = ({k: v for k, v in r.items() if k not in clock} for r in results)
    assert first == second


def test_workdir_of_another_configuration(trained, raw):
    base, _ = trained
    fails(
        "train",
        *flags(raw, base, "--config.model.num_layers=3"),
        says=["config.model.num_layers=2, not 3", "--workdir"],
    )


def test_workdir_that_cannot_be_or_is_no_run(trained, raw, tmp_path):
    base, _ = trained
    (tmp_path / "file").touch()
    args = flags(raw, base)[:-1]
    fails("train", *args, f"--workdir={tmp_path}/file", says=[f"{tmp_path}/file", "choose another path"])
    fails("evaluate", f"--workdir={base}/work", f"--output={tmp_path}", says=["--output", "is a folder"])
    work = tmp_path / "work"
    shutil.copytree(base / "work", work)
    config = json.loads((work / "config.json").read_text())
    config["config"]["model"]["alpha"] = "high"
    (work / "config.json").write_text(json.dumps(config))
    says = [f"{work}/config.json", "damaged (its checksum differs from manifest.json)", "put the file back"]
    fails("evaluate", f"--workdir={work}", f"--output={tmp_path}/o.json", says=says)
    (work / "manifest.json").unlink()  # as in runs of earlier versions
    for content, says in (
        ("{", "not valid JSON"),
        ('{"a": 1}', "has no 'config'"),
        (json.dumps(config), "config.model.alpha"),
    ):
        (work / "config.json").write_text(content)
        fails("evaluate", f"--workdir={work}", f"--output={tmp_path}/o.json", says=[f"{work}/config.json", says])


def test_damaged_embeddings_are_made_anew(trained, raw, tmp_path):
    base, _ = trained
    shutil.copytree(base / "work", tmp_path / "work")
    victim = tmp_path / "work" / "embeddings" / "item_embeddings.npy"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(bytes(content))
    songs, _ = heard(raw)
    done = launch("recommend", f"--workdir={tmp_path}/work", f"--songs={songs[0]}", "--k=3")
    assert str(victim) in done.stderr and "made from the best checkpoint" in done.stderr
    assert len(done.stdout.strip().splitlines()) == 4


def test_damaged_best_checkpoint_falls_back(trained, tmp_path):
    base, _ = trained
    work = tmp_path / "work"
    shutil.copytree(base / "work", work)
    best = json.loads((work / "results.json").read_text())["step"]
    files = [p for p in (work / "checkpoints" / str(best)).rglob("*") if p.is_file()]
    victim = max(files, key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-7])
    done = launch("evaluate", f"--workdir={work}", f"--output={tmp_path}/out.json")
    assert str(victim) in done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["step"] != best


def test_damaged_shard_is_named(raw, tmp_path):
    args = flags(raw, tmp_path)
    launch("preprocess", *args[:-1])
    victim = next((tmp_path / "processed").rglob("train/item-00000.npy"))
    victim.write_bytes(victim.read_bytes()[:-3])
    fails("train", *args, says=[str(victim), "damaged"])


def test_missing_file_and_column(raw, tmp_path):
    broken = tmp_path / "raw"
    shutil.copytree(raw, broken)
    path = broken / "flat/tiny/listens.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["played_ratio_pct"]), path)
    fails("train", *flags(broken, tmp_path), says=[str(path), "played_ratio_pct"])
    pq.write_table(table.set_column(1, "timestamp", pa.array(["x"] * len(table))), path)
    fails("train", *flags(broken, tmp_path), says=[str(path), "timestamp"])
    path.write_bytes(path.read_bytes()[:100])
    fails("train", *flags(broken, tmp_path), says=[str(path)])
    path.unlink()
    fails("train", *flags(broken, tmp_path), says=[str(path)])
    assert not (tmp_path / "work").exists()


def test_filter_that_leaves_nothing(raw, tmp_path):
    fails("train", *flags(raw, tmp_path, "--config.data.min_interactions=1000000"), says=["min_interactions"])


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--config.model.num_layer=2", ["num_layer", "num_layers"]),
        ("--config.modle.num_layers=2", ["modle", "model"]),
        ("--config.train.batch_size=many", ["batch_size", "many"]),
        ("--config.loss.name=bprr", ["config.loss.name", "bpr"]),
        ("--config.eval.protocol=tempora", ["tempora", "temporal"]),
        ("--config.eval.protocol=global_temporal", ["config.eval.protocol", "--config.data.split=global_temporal"]),
        ("--config.graph.half_life_days=-1.0", ["half_life_days", "-1"]),
        ("--config.parallel=pmapp", ["config.parallel", "pmapp"]),
        ("--config.train.num_epochs=-1", ["config.train.num_epochs"]),
        ("--config.eval.metric=ndcg@7", ["config.eval.metric", "ndcg@7"]),
        ("--config.eval.ks=(0, 5)", ["config.eval.ks"]),
        ("--config.eval.baselines=('foo',)", ["config.eval.baselines", "foo", "item_knn"]),
        ("--config.retrieval.index=foo", ["config.retrieval.index", "scann"]),
        ("--confg=x", ["confg"]),
    ],
)
def test_wrong_flags(raw, tmp_path, flag, says):
    fails("train", *flags(raw, tmp_path, flag), says=says)


def test_nan_stops_with_a_clear_error(raw, tmp_path):
    fails(
        "train",
        *flags(raw, tmp_path, "--config.train.learning_rate=1e30", "--config.train.clip_norm=0.0",
               "--config.model.score=dot", "--config.train.warmup_steps=0"),
        says=["not finite at step", "learning_rate"],
    )  # fmt: skip


TEXT = "\n".join(f"{u} " + " ".join(str(i) for i in range(u % 2, 12, 2) if i != (u % 12)) for u in range(12)) + "\n"


def test_text_format(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.txt").write_text(TEXT)
    (data / "valid.txt").write_text("".join(f"{u} {u % 12}\n" for u in range(0, 12, 3)))
    (data / "test.txt").write_text("".join(f"{u} {u % 12}\n" for u in range(1, 12, 3)))
    launch(
        "train", "--config=configs/lightgcnpp.py:lastfm", f"--config.data.path={data}", f"--workdir={tmp_path}/work",
        f"--config.data.processed_dir={tmp_path}/processed", "--config.train.num_epochs=200",
        "--config.train.eval_every_epochs=20", "--config.train.learning_rate=0.02",
        "--config.train.patience=0",
    )  # fmt: skip
    metrics = json.loads((tmp_path / "work" / "results.json").read_text())["model"]
    # Even users like even songs: the one withheld comes first.
    assert metrics["recall@10"] == 1.0 and metrics["mrr@10"] > 0.8
