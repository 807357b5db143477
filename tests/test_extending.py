"""The examples of docs/extending.md, from outside the package: found by their entry points, checked, trained with."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from graphs import random_graph

from music_map.errors import UserError
from music_map.evaluation.metrics import METRICS, per_user_metric, ranking_metrics, user_sums
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import PROTOCOLS, build_task
from music_map.evaluation.settings import EvalSettings
from music_map.losses import LOSSES, LossSettings, Scores
from music_map.model import encoder
from music_map.model.encoder import Embeddings, EncoderInputs
from music_map.model.propagation import adjacency
from music_map.model.settings import ModelSettings
from music_map.parallel.runners import make_runner
from music_map.preprocess.dataset import LIKE, LISTEN, Events, ItemFeatures
from music_map.retrieval.export import make_export
from music_map.retrieval.filters import FILTERS, Filters, filters_of
from music_map.retrieval.recommender import Recommender
from music_map.retrieval.settings import RetrievalSettings
from music_map.settings import from_stored, from_values
from music_map.training.optimizer import OptimizerSettings
from music_map.training.step import StepSettings

ROOT = Path(__file__).resolve().parents[1]
GRAPH, DENSE = random_graph(0, num_users=30, num_items=20, density=0.3)
SMALL = {"num_layers": 2, "embedding_dim": 8, "audio": False, "metadata": False, "id_dropout": 0.0, "backend": "csr"}
# Section of the page: the module that its example is in.
EXAMPLES = {
    "A loss": "my_loss",
    "An encoder": "my_encoder",
    "A text format": "my_format",
    "A filter": "my_filter",
    "A protocol": "my_protocol",
    "A metric": "my_metric",
}


def example(section):
    """The Python block of a section."""
    text = (ROOT / "docs" / "extending.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of packages, as pip leaves them, whose modules are the examples."""
    folder = tmp_path_factory.mktemp("site")
    for section, module in EXAMPLES.items():
        (folder / f"{module}.py").write_text(example(section))
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[music_map]\nmine = {module}\n")
    before = {table: table.all() for table in (FILTERS, PROTOCOLS, METRICS)}
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    # Other tests of this process see the tables as they are.
    for table, things in before.items():
        table.replace(things)


def train(mode="none", *, loss, model, steps=60):
    """Mean losses of the first and the last ten steps, and embeddings."""
    optimizer = OptimizerSettings(
        name="adam", learning_rate=1e-2, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=0.0,
        total_steps=steps,
    )  # fmt: skip
    runner = make_runner(
        mode, graph=GRAPH, inputs=EncoderInputs(adjacency(GRAPH, degree="weighted"), None), users="uniform",
        items="uniform", settings=StepSettings(model=model, loss=loss, optimizer=optimizer, batch_size=16),
        devices=jax.devices()[:2],
    )  # fmt: skip
    state, losses = runner.create_state(0), []
    for step in (0, steps - 10):
        state = state.logged(runner.empty_sums())
        state, finite = runner.advance(state, step, 10)
        assert finite
        losses.append(float(state.metric_sums["loss"]) / 10)
        state, _ = runner.advance(state, step + 10, steps - 20 if step == 0 else 0)
    return losses, runner.encode(runner.params(state.params))


def assert_trains_alike_on_two_devices(loss, model):
    one = train(loss=loss, model=model)
    assert one[0][1] < 0.9 * one[0][0]
    two = train("sharded", loss=loss, model=model)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_loss(site):
    loss = from_values(LossSettings, {"name": "hinge", "hinge_margin": 0.25, "l2": 1e-4})
    positive, negative = np.array([0.3, 0.9, -0.2]), np.array([0.2, 0.1, 0.4])
    cost = LOSSES.find("hinge").cost(Scores(jnp.asarray(positive), jnp.asarray(negative)), loss)
    np.testing.assert_allclose(cost, np.maximum(0, 0.25 - (positive - negative)), rtol=1e-6)
    assert_trains_alike_on_two_devices(loss, ModelSettings(**SMALL))


def test_fields_of_a_loss_of_ones_own_are_checked(site):
    with pytest.raises(UserError, match=r"config\.loss\.hinge_margin=0\.0: must be above 0"):
        from_values(LossSettings, {"name": "hinge", "hinge_margin": 0.0})
    with pytest.raises(UserError, match=r"config\.loss\.hinge_margin: there is no such field"):
        from_values(LossSettings, {"name": "bpr", "hinge_margin": 0.1})
    with pytest.raises(UserError, match=r"config\.loss\.name='hnige': must be one of .*bpr.*hinge"):
        from_values(LossSettings, {"name": "hnige"})


def test_an_encoder(site):
    model = from_values(ModelSettings, {"name": "appnp", "teleport": 0.3, "score": "dot", **SMALL})
    inputs = EncoderInputs(adjacency(GRAPH, degree="weighted"), None)
    params = encoder.init(jax.random.key(0), model, inputs)
    got = encoder.encode(params, inputs, model)
    size = len(DENSE) + DENSE.shape[1]
    whole = np.zeros((size, size))
    whole[: len(DENSE), len(DENSE) :] = DENSE
    whole += whole.T
    degree = whole.sum(1)
    scale = np.where(degree > 0, np.maximum(degree, 1e-9) ** -0.5, 0)
    first = layer = np.concatenate([params["user"], params["item"]]).astype(np.float64)
    for _ in range(2):
        layer = 0.3 * first + 0.7 * scale[:, None] * (whole @ (scale[:, None] * layer))
    np.testing.assert_allclose(np.concatenate(got[:2]), layer, rtol=1e-4, atol=1e-5)
    rows = encoder.encode(params, inputs, model, rows=Embeddings(jnp.array([3, 3]), jnp.array([1, 0, 7])))
    np.testing.assert_allclose(rows.item, got.item[np.array([1, 0, 7])], rtol=1e-6)
    assert_trains_alike_on_two_devices(LossSettings(name="bpr"), dataclasses.replace(model, score="cosine"))


def test_a_text_format(site, tmp_path):
    log = tmp_path / ".scrobbler.log"
    log.write_text(
        "#AUDIOSCROBBLER/1.1\n#TZ/UTC\n"
        "Nico\tDesertshore\tJanitor\t1\t260\tL\t1600000300\t\n"
        "Nico\tDesertshore\tMy Only Child\t3\t200\tS\t1600000100\t\n"
        "broken\n"
        "Can\t\tSpoon\t\t181\tL\t1600000000\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    command = [sys.executable, "launch/convert.py", "--preset=rockbox", f"--input={log}", f"--output={tmp_path}/own"]
    stopped = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert stopped.returncode == 2 and "row 2: 1 fields where 8 are expected" in stopped.stderr
    done = subprocess.run([*command, "--bad_rows=skip"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "2 listens" in done.stdout and "1 row skipped" in done.stdout and "1 row ignored" in done.stdout
    songs = pq.read_table(tmp_path / "own/flat/own/song_ids.parquet").to_pylist()
    assert [(row["id"], row["title"]) for row in songs] == [("Can - Spoon", "Spoon"), ("Nico - Janitor", "Janitor")]
    listens = pq.read_table(tmp_path / "own/flat/own/listens.parquet").to_pydict()
    assert listens["timestamp"] == [1600000000, 1600000300] and listens["track_length_seconds"] == [181, 260]


@pytest.fixture
def recommender():
    """Six songs, of 1, 2, ... 6 listeners."""
    features = ItemFeatures(
        audio=np.zeros((0, 128), np.float32), audio_row=np.full(6, -1, np.int32), artist_offsets=np.arange(7),
        artists=np.arange(6, dtype=np.int32), artist_ids=np.arange(6, dtype=np.uint32), album_offsets=np.zeros(7, int),
        albums=np.zeros(0, np.int32), album_ids=np.zeros(0, np.uint32), track_seconds=np.zeros(6, np.float32),
    )  # fmt: skip
    rows = np.random.default_rng(0).normal(size=(8, 4))
    export = make_export(
        user_ids=np.arange(2, dtype=np.uint32), item_ids=np.arange(6, dtype=np.uint32), user_embeddings=rows[6:],
        item_embeddings=rows[:6], listeners=np.arange(1, 7), features=features,
    )  # fmt: skip
    return Recommender(export, index="exact", filters=filters_of(RetrievalSettings()))


def test_a_filter(site, recommender):
    def ids(answer):
        return sorted(song.item_id for song in answer.recommendations)

    assert ids(recommender.recommend([1])) == [0, 2, 3, 4, 5]
    assert ids(recommender.recommend([1], filters=Filters(max_listeners=3))) == [0, 2]
    settings = from_values(RetrievalSettings, {"max_listeners": 4, "diversity": 0.1})
    assert filters_of(settings) == Filters(diversity=0.1, max_listeners=4)
    assert from_stored(RetrievalSettings, dataclasses.asdict(settings)) == (settings, [])
    with pytest.raises(UserError, match=r"config\.retrieval\.max_listeners=-1: must be at least 0"):
        from_values(RetrievalSettings, {"max_listeners": -1})
    with pytest.raises(UserError, match=r"filter='max_listener': must be one of .*; did you mean 'max_listeners'\?"):
        Filters(max_listener=3)


def test_a_filter_of_a_request(site, recommender):
    testclient = pytest.importorskip("fastapi.testclient")
    from music_map.serving.service import create_app

    with testclient.TestClient(create_app(recommender), base_url="http://localhost") as client:
        found = client.post("/recommend", json={"songs": [1], "filters": {"max_listeners": 3}}).json()
        assert sorted(song["item_id"] for song in found["recommendations"]) == [0, 2]
        refused = client.post("/recommend", json={"songs": [1], "filters": {"max_listeners": -1}})
        assert refused.status_code == 422 and "filters.max_listeners" in refused.json()["detail"]


def test_a_protocol(site):
    columns = {
        "train": [(0, 0, LISTEN, 100), (0, 1, LIKE, 0), (1, 2, LISTEN, 100)],
        "val": [(0, 1, LISTEN, 100), (0, 2, LISTEN, 96), (0, 3, LISTEN, 60), (1, 0, LISTEN, 99)],
        "test": [(1, 0, LISTEN, 100)],
    }
    splits = {}
    for name, rows in columns.items():
        user, item, kind, played = np.array(rows).T
        splits[name] = Events(user, item, np.arange(len(user)), kind, np.ones(len(user), int), played)
    task = build_task("to_the_end", "val", **splits, num_users=2, num_items=4)
    assert task.users.tolist() == [0, 1]
    assert [task.targets.items.tolist(), task.masked.items.tolist()] == [[2, 0], [1]]
    assert task.candidates.tolist() == [True, True, True, False]


def test_a_metric(site):
    topk, targets = np.array([[3, 1, 2], [0, 1, -1]]), Pairs(np.array([0, 2, 3]), np.array([1, 3, 1], np.int32))
    values = np.array([0.2 * (1 + 0.8), 0.2 * 0.8])
    assert ranking_metrics(topk, targets, catalogue=4, ks=(3,))["rbp@3"] == pytest.approx(values.mean())
    np.testing.assert_allclose(per_user_metric("rbp@3", topk, targets), values)
    sums = user_sums(topk, targets, ks=(3,))
    np.testing.assert_allclose(sums.numerators[:, sums.keys.index("rbp@3")], values)
    assert EvalSettings(metric="rbp@20").metric == "rbp@20"


def test_the_commands_find_all(site, tmp_path):
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}

    def run(*command):
        return subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
        )

    made = run("launch/generate.py", "--size=tiny", f"--output={tmp_path}/raw")
    assert made.returncode == 0, made.stderr
    done = run(
        "launch/train.py", "--config=configs/test.py", f"--config.data.raw_dir={tmp_path}/raw",
        f"--config.data.processed_dir={tmp_path}/processed", f"--workdir={tmp_path}/work", "--config.loss.name=hinge",
        "--config.model.name=appnp", "--config.train.num_epochs=1", "--config.eval.baselines=('most_pop',)",
        "--config.eval.metric=rbp@20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "val/rbp@20" in (tmp_path / "work/metrics.jsonl").read_text()
    again = run(
        "launch/evaluate.py", f"--workdir={tmp_path}/work", f"--output={tmp_path}/figures.json",
        "--protocol=to_the_end",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    low, high = figures["intervals"]["model"]["rbp@20"]
    assert (
        figures["protocol"] == "to_the_end" and low <= figures["model"]["rbp@20"] <= high and "rbp@20" in again.stdout
    )
    # Whoever heard most is among the users that the filter of ten interactions leaves.
    users = pq.read_table(tmp_path / "raw/flat/tiny/listens.parquet")["uid"].to_numpy()
    command = ["launch/recommend.py", f"--workdir={tmp_path}/work", f"--user={np.bincount(users).argmax()}"]
    answers = []
    for filters in ([], ["--max_listeners=5"]):
        found = run(*command, "--format=json", *filters)
        assert found.returncode == 0, found.stderr
        answers.append([song["item_id"] for song in json.loads(found.stdout)["recommendations"]])
    assert len(answers[0]) == len(answers[1]) == 10 and answers[0] != answers[1]
    wrong = run(*command, "--max_listeners=-1")
    assert wrong.returncode == 2 and "--max_listeners=-1: must be at least 0" in wrong.stderr
