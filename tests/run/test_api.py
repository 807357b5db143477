"""Python's way from logs to recommendations: README's example as it stands, data frames, names of settings, tables."""

import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from raw_logs import write_logs

import music_map as mm
from music_map.reporter import SILENT
from music_map.run.config import get
from music_map.run.options import configured, full_names, open_fields, plain_names, resolved
from music_map.sizes import FIELDS, sizes_for

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.search(r"```python\n(import music_map as mm\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
START = 1_700_000_000


def plays(num_users=30, num_songs=40, each=60):
    """A log with ids that are texts: users prefer songs of their own half."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(num_users), each)
    songs = (rng.integers(0, num_songs // 2, len(users)) * 2 + users % 2).tolist()
    times = START + rng.permutation(len(users)) * 600
    return {
        "listener": [f"user {u}" for u in users.tolist()],
        "track": [f"Song {s}" for s in songs],
        "played_at": times.tolist(),
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_of_the_readme(folder):
    assert len(EXAMPLE.splitlines()) <= 12
    columns = plays()
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(map(str, row)) for row in rows]
    (folder / "plays.csv").write_text("\n".join([",".join(columns), *lines]))
    made = {}
    exec(compile(EXAMPLE, "README.md", "exec"), made)
    run, results, answer = made["run"], made["results"], made["answer"]
    assert run.config.train.num_epochs == 5 and run.config.model.embedding_dim == 32
    assert set(os.listdir(run.workdir)) >= {"checkpoints", "metrics.jsonl", "results.json", "embeddings", "processed"}
    assert len(answer.recommendations) == 10 and not answer.warnings
    assert not {"Song 7", "Song 12"} & {r.item_id for r in answer.recommendations}
    # What is printed is what was measured and answered.
    for name, row in {"model": results["model"], **results["baselines"]}.items():
        assert re.search(rf"^{name} .*{row['ndcg@20']:.4f}", repr(results), re.MULTILINE)
        assert name in results._repr_html_() and f"{row['ndcg@20']:.4f}" in results._repr_html_()
    for song in answer.recommendations:
        assert song.item_id in repr(answer) and f"{song.score:.4f}" in answer._repr_html_()
    assert "30 users, 40 songs" in repr(run)
    # The same call goes on in its folder, and finds nothing to do.
    again = mm.train(made["logs"], workdir=run.workdir, epochs=5, embedding_dim=32, reporter=SILENT)
    assert again.trained.step == run.trained.step
    assert mm.evaluate(again.workdir, split="val", reporter=SILENT)["split"] == "val"


def test_data_frames_and_their_marks(folder):
    columns = plays()
    likes = pa.table({name: values[:5] for name, values in columns.items()})
    names = {"user": "listener", "item": "track", "time": "played_at"}
    table = pa.table({**columns, "track": pa.array(columns["track"]).dictionary_encode()})
    logs = mm.read_logs(table, likes=likes, **names, reporter=SILENT)
    assert logs.summary.num_items == 40
    assert logs.summary.events == {"listens": 1800, "likes": 5}
    assert "1,800" in repr(logs) and "1,800" in logs._repr_html_()
    in_layout = mm.read_logs(logs.folder, reporter=SILENT)
    assert (in_layout.folder, in_layout.size) == (Path("data/own"), "own")
    # A log of one person, from columns with the usual names, is read on the way.
    plain = {"user": columns["listener"], "item": columns["track"], "time": columns["played_at"]}
    run = mm.prepare(plain, "work", recency=False, min_interactions=20, reporter=SILENT)
    assert run.config.data.min_interactions == 20 and run.dataset.num_users == 30
    assert run.dataset.users.label(0) == "user 0" and run.workdir == Path("work")


@pytest.mark.parametrize(
    ("logs", "arguments", "says"),
    [
        ({"user": ["a"], "item": ["b"]}, {}, "listens: has no column 'time', only user, item; set time to one of them"),
        (3, {}, "listens: int is no table"),
        ("nothing.csv", {}, "nothing.csv: no such file"),
        (".", {}, ".: holds no flat/*/listens.parquet"),
        ({"user": ["a"]}, {"usr": "user"}, "read_logs(usr=...): there is no such column"),
        ({"user": ["a"], "item": ["b"], "time": ["soon"]}, {}, "listens: column time, row 0"),
    ],
)
def test_wrong_logs_are_named(folder, logs, arguments, says):
    with pytest.raises(mm.UserError) as e:
        mm.read_logs(logs, reporter=SILENT, **arguments)
    assert says in str(e.value) and "--" not in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("options", "settings", "says"),
    [
        ({"epoch": 3}, {}, "epoch=3: there is no such setting; did you mean epochs?"),
        ({"xyz": 3}, {}, "give other fields by settings"),
        ({}, {"model.alhpa": 1}, "did you mean model.alpha?"),
        ({}, {"modle.alpha": 1}, "did you mean model?"),
        ({}, {"model": 1}, "name one of its fields"),
        ({"alpha": 1}, {"model.alpha": 1}, "settings has 'model.alpha' too"),
        ({"epochs": "x"}, {}, "config.train.num_epochs='x': must be a whole number"),
        ({"loss": "none"}, {}, "config.loss.name='none'"),
    ],
)
def test_wrong_settings_are_named(folder, options, settings, says):
    with pytest.raises(mm.UserError) as e:
        mm.train("no logs yet", workdir="work", settings=settings, **options, reporter=SILENT)
    assert says in str(e.value)
    assert not os.listdir(folder)


def test_plain_names_are_fields():
    values = full_names({"epochs": 2, "gamma": 0.1, "baselines": ["random"], "parallel": "pmap"}, {"loss.l2": 1})
    config = configured(values)
    assert (config.train.num_epochs, config.model.gamma, config.loss.l2) == (2, 0.1, 1.0)
    assert (config.eval.baselines, config.parallel) == (("random",), "pmap")
    # A name that two sections have stands for neither of them.
    assert "name" not in plain_names() and plain_names()["loss"] == "loss.name"


def test_sizes_follow_the_logs(tmp_path):
    """Users 0..9 play songs 0..9 sixteen times each; user 10 plays 40 songs of its own three times."""
    own = np.repeat(np.arange(100, 140), 3)
    uid = np.concatenate([np.repeat(np.arange(10), 160), np.full(len(own), 10)])
    item = np.concatenate([np.tile(np.arange(10), 160), own])
    write_logs(tmp_path, listens=[(u, 5, i, 1, 100, 200) for u, i in zip(uid.tolist(), item.tolist(), strict=True)])
    places = {"data.raw_dir": str(tmp_path), "data.size": "50m"}
    config = resolved(configured(dict.fromkeys(FIELDS, 0) | places))
    assert [get(config, name) for name in FIELDS] == [
        *sizes_for([1600, 1600, 1720, 1720, 1720], 1720)
    ] and not open_fields(config)
    assert config.data.min_interactions == 10
    # What is given stays, and with a number of epochs the number of steps.
    given = {"train.num_epochs": 1, "train.batch_size": 5, "data.min_interactions": 2}
    config = resolved(configured(dict.fromkeys(FIELDS, 0) | places | given))
    assert all(get(config, name) == value for name, value in given.items()) and config.train.min_steps == 0
    assert resolved(configured(places)) == configured(places)
    gone = resolved(configured(dict.fromkeys(FIELDS, 0) | {"data.raw_dir": str(tmp_path / "none")}))
    assert gone.train.batch_size == 64


@pytest.mark.parametrize(
    ("kept", "events", "least", "batch"),
    [
        ([0, 0, 0, 0, 0], 0, 10, 64),
        ([88, 91, 95, 99, 100], 100, 5, 64),
        ([0, 10, 20, 60, 100], 100, 1, 64),
        ([400_000] * 5, 400_000, 10, 2048),
        ([45_881_950, 46_000_000, 47_000_000, 47_400_000, 47_456_444], 47_456_444, 10, 8192),
    ],
)
def test_sizes(kept, events, least, batch):
    assert sizes_for(kept, events)[0::2][:2] == (least, batch)


def test_training_needs_a_folder_and_a_run_has_its_own(folder):
    with pytest.raises(mm.UserError, match="workdir missing"):
        mm.train("logs")


def test_an_export_by_name(folder):
    text = "Radiohead,OK Computer,Airbag,31 Dec 2023 10:30\nRadiohead,,Lucky,31 Dec 2023 10:35\n"
    Path("me.csv").write_text(text)
    logs = mm.read_logs("me.csv", "raw", preset="auto", sittings=30.0, reporter=SILENT)
    assert logs.summary.num_users == 1 and logs.summary.num_items == 2
    with pytest.raises(mm.UserError, match="there is no such column"):
        mm.read_logs("me.csv", "raw", preset="lastfm", moods=1, reporter=SILENT)
    with pytest.raises(mm.UserError, match="preset"):
        mm.read_logs("me.csv", "raw", preset="x", reporter=SILENT)
