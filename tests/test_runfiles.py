"""The files of a run: one manifest, replaced whole, checked when read; earlier runs open."""

import json
import os
import shutil

import numpy as np
import pytest

from music_map import runfiles, storage
from music_map.errors import DamagedFileError
from music_map.runfiles import RunFiles
from music_map.storage import ArrayWriter, write_json


def write_arrays(files, value):
    with files.new_folder("embeddings") as folder:
        writer = ArrayWriter(folder)
        writer.write("a", np.full(3, value))
        writer.finish(fingerprint="f", meta={})


@pytest.fixture
def files(tmp_path):
    made = RunFiles(tmp_path)
    made.write_json({"config.json": {"alpha": 0.6}, "recency/temporal.json": {"weights": {"a": 1.0}}})
    write_arrays(made, 1)
    return made


def test_what_was_written_is_read(files):
    assert files.read_json("config.json", {"alpha": float}) == {"alpha": 0.6}
    assert files.arrays("embeddings").load("a").tolist() == [1, 1, 1]
    files.write_json({"config.json": {"alpha": 0.7}})
    write_arrays(files, 2)
    assert files.read_json("config.json") == {"alpha": 0.7}
    assert files.arrays("embeddings").load("a").tolist() == [2, 2, 2]
    files.check()
    assert sorted(p.name for p in files.folder.iterdir()) == ["config.json", "embeddings", "manifest.json", "recency"]
    assert files.has("embeddings") and files.has("config.json") and not files.has("results.json")


def test_nothing_is_written_where_nothing_changes(files, monkeypatch):
    monkeypatch.setattr(storage, "write_bytes", lambda *args: pytest.fail("nothing changed"))
    files.write_json({"config.json": {"alpha": 0.6}})


@pytest.mark.parametrize("name", ["config.json", "recency/temporal.json", "embeddings/manifest.json", "manifest.json"])
def test_any_change_is_named(files, name):
    path = files.folder / name
    original = path.read_bytes()
    for at in range(len(original)):
        path.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
        with pytest.raises(DamagedFileError, match=f"{name}: .*; put"):
            files.check()
    path.write_bytes(original)
    files.check()


def test_a_missing_or_unlisted_file_is_named(files):
    (files.folder / "config.json").unlink()
    assert files.has("config.json")
    with pytest.raises(DamagedFileError, match=r"config\.json: no such file; put"):
        files.read_json("config.json")
    with pytest.raises(DamagedFileError, match=r"playlist\.json: no such file; train again"):
        files.read_json("playlist.json", remedy="train again")
    write_json(files.folder / "playlist.json", {})
    with pytest.raises(DamagedFileError, match=r"playlist\.json: is not a file of this run"):
        files.read_json("playlist.json")


def test_arrays_of_another_run_are_refused(files, tmp_path_factory):
    other = RunFiles(tmp_path_factory.mktemp("other"))
    write_arrays(other, 7)
    shutil.rmtree(files.folder / "embeddings")
    shutil.copytree(other.folder / "embeddings", files.folder / "embeddings")
    with pytest.raises(DamagedFileError, match=r"embeddings/manifest\.json: damaged \(its checksum differs"):
        files.arrays("embeddings")


def test_another_form_is_named(files):
    with pytest.raises(DamagedFileError, match=r"config\.json: has no 'beta'; put"):
        files.read_json("config.json", {"beta": float})


class Killed(BaseException):
    pass


@pytest.mark.parametrize("first", [True, False])
def test_a_write_stopped_anywhere_leaves_the_old_file_or_the_new(tmp_path, monkeypatch, first):
    """At every replacement of a file, which is all that changes what is there."""
    real, left = os.replace, 0
    values = ({"alpha": 1}, {"alpha": 2})

    def until_killed(source, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        real(source, target)

    for steps in range(8):
        files = RunFiles(tmp_path / str(steps))
        if not first:
            files.write_json({"config.json": values[0]})
            write_arrays(files, 0)
        left = steps
        monkeypatch.setattr(os, "replace", until_killed)
        try:
            files.write_json({"config.json": values[1]})
            write_arrays(files, 2)
        except Killed:
            pass
        finally:
            monkeypatch.setattr(os, "replace", real)
        if files.has("config.json"):
            assert files.read_json("config.json") in values[first:]
        if files.has("embeddings"):
            assert files.arrays("embeddings").load("a").sum() in ((6,) if first else (0, 6))
        assert first or (files.has("config.json") and files.has("embeddings"))
        files.check()
        files.write_json({"config.json": values[1]})  # the same command again
        write_arrays(files, 2)
        files.check()
        assert [
            len(e["sha256"]) for e in json.loads((files.folder / "manifest.json").read_text())["files"].values()
        ] == [1, 1]


def test_a_run_of_earlier_versions_opens_unverified_which_is_said_once(tmp_path, monkeypatch):
    monkeypatch.setattr(runfiles, "_told", set())
    write_json(tmp_path / "config.json", {"alpha": 0.6})
    write_json(tmp_path / "recency" / "temporal.json", {"a": 1})
    warnings = []
    files = RunFiles(tmp_path, warn=warnings.append)
    assert files.read_json("config.json") == {"alpha": 0.6} and files.has("recency/temporal.json")
    files.read_json("recency/temporal.json")
    assert len(warnings) == 1 and "not verified" in warnings[0]
    files.write_json({"playlist.json": {}})  # from here on all are verified
    files.check()
    write_json(tmp_path / "config.json", {"alpha": 0.7})
    with pytest.raises(DamagedFileError, match=r"config\.json: damaged"):
        files.read_json("config.json")
