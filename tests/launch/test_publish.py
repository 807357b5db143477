"""launch/publish.py: what the folder holds, that it is enough to find near songs, and what is refused."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import fails, launch
from safetensors.numpy import load_file

from music_map import Recommender
from music_map.errors import UserError
from music_map.run.publish import push


@pytest.fixture(scope="module")
def published(trained):
    base, _ = trained
    done = launch("publish", f"--workdir={base}/work", f"--output={base}/model")
    assert "model.safetensors of" in done.stdout
    return base, base / "model"


def test_the_vectors_and_the_songs_are_those_of_the_recommender(published):
    base, model = published
    recommender = Recommender.load(base / "work", index="exact")
    arrays, songs = load_file(model / "model.safetensors"), pq.read_table(model / "songs.parquet")
    assert set(arrays) == {"song_vectors", "song_embeddings"}  # users only when they are asked for
    np.testing.assert_array_equal(arrays["song_vectors"], recommender.vectors)
    np.testing.assert_array_equal(arrays["song_embeddings"], recommender.export.item_embeddings)
    assert songs["item_id"].to_pylist() == recommender.ids.songs.labels(range(len(recommender.ids.songs)))
    assert songs["listeners"].to_pylist() == recommender.export.listeners.tolist()


def test_the_program_of_the_card_runs(published, monkeypatch):
    _, model = published
    text = (model / "README.md").read_text()
    program = text.split("```python")[1].split("```")[0]
    monkeypatch.chdir(model)
    names: dict = {}
    exec(program.rpartition("print")[0], names)
    assert {0, 1} & set(names["near"].tolist()) and len(names["near"]) == 10


def test_the_card_says_what_was_measured_and_set_but_not_where(published):
    base, model = published
    text, results = (model / "README.md").read_text(), json.loads((base / "work/results.json").read_text())
    assert text.startswith("---\n") and "library_name: music-map" in text
    assert f"| Music Map | {results['model']['recall@20']:.4f} |" in text and "| most_pop |" in text
    assert "- `model.embedding_dim`: 16" in text
    assert str(base) not in text + (model / "config.json").read_text()


def test_users_are_added_when_asked_for_and_an_older_folder_is_replaced(published):
    base, model = published
    launch("publish", f"--workdir={base}/work", f"--output={model}", "--users", "--title=Mine")
    assert len(load_file(model / "model.safetensors")["user_embeddings"]) > 0
    assert "# Mine" in (model / "README.md").read_text()


def test_what_cannot_be_written_or_uploaded_is_one_line(published, monkeypatch):
    base, model = published
    (base / "other").mkdir()
    (base / "other/thesis.txt").touch()
    fails("publish", f"--workdir={base}/work", f"--output={base}/other", says=["other than a published model"])
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"nobody/nothing: the upload failed.* is complete"):
        push(model, "nobody/nothing")
    with pytest.raises(UserError, match="OWNER/NAME"):
        push(model, "a b")
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        push(base / "other", "nobody/nothing")
