"""Folders of arrays: whole or not at all, damage named, fingerprints canonical."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from music_map import storage
from music_map.errors import DamagedFileError, UserError
from music_map.storage import (
    ArrayFolder,
    ArrayWriter,
    file_sha256,
    fingerprint,
    new_folder,
    npy_header,
    read_json,
    sealed,
    sweep,
    unsealed,
    write_json,
    write_text,
)


def write_folder(path, **arrays):
    with new_folder(path) as temporary:
        writer = ArrayWriter(temporary)
        for name, array in arrays.items():
            writer.write(name, array)
        writer.finish(fingerprint="f", meta={"n": 1})


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder):
    return sorted(p.name for p in folder.iterdir())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_fingerprints_ignore_the_order_of_keys_and_survive_json(value):
    backwards = dict(reversed(value.items()))
    assert fingerprint(value) == fingerprint(backwards) == fingerprint(json.loads(json.dumps(value)))


def test_fingerprints_tell_values_apart():
    values = [{}, [], None, 0, 1, "1", {"a": 1}, {"a": [1]}, {"a": 1, "b": 2}, {"ab": 12}, 1.5]
    assert len({fingerprint(v) for v in values}) == len(values)
    # sha256 of the two bytes {}
    assert fingerprint({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert fingerprint((1, 2)) == fingerprint([1, 2])
    with pytest.raises(ValueError):
        fingerprint({"a": float("nan")})


def test_file_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_text_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one")
    write_text(path, "two, ü")
    assert path.read_text() == "two, ü"
    assert names(path.parent) == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_write_text_keeps_the_old_text_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"a\.txt: no space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_json_round_trip_and_damage(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, None, "x"]})
    assert read_json(path) == {"a": [1, None, "x"]}
    path.write_text('{"a": [1, nu')
    with pytest.raises(DamagedFileError, match=r"a\.json: not valid JSON .*delete it"):
        read_json(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DamagedFileError, match=r"a\.json: not valid JSON"):
        read_json(path)
    with pytest.raises(DamagedFileError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")
    with pytest.raises(DamagedFileError, match="cannot be read"):
        read_json(tmp_path)
    with pytest.raises(ValueError):
        write_json(path, float("nan"))


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=hnp.arrays(
        st.one_of(hnp.integer_dtypes(), hnp.floating_dtypes(), hnp.boolean_dtypes()),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_arrays_survive_a_round_trip(tmp_path, array):
    write_folder(tmp_path / "f", a=array)
    folder = ArrayFolder.open(tmp_path / "f")
    for mmap in (False, True):
        loaded = folder.load("a", mmap=mmap)
        assert loaded.dtype == array.dtype and loaded.shape == array.shape
        np.testing.assert_array_equal(loaded, array)


def test_a_folder_keeps_fingerprint_meta_and_nested_names(tmp_path):
    write_folder(tmp_path / "f", **{"train/user-00000": np.arange(3)[::-1], "order": np.asfortranarray(np.eye(2))})
    folder = ArrayFolder.open(tmp_path / "f")
    assert (folder.fingerprint, folder.meta) == ("f", {"n": 1})
    assert folder.load("train/user-00000").tolist() == [2, 1, 0]
    assert names(tmp_path / "f") == ["manifest.json", "order.npy", "train"]


def test_objects_are_never_pickled(tmp_path):
    with pytest.raises(ValueError, match="pickle"):
        write_folder(tmp_path / "f", a=np.array([{}], dtype=object))
    assert names(tmp_path) == []


def test_register_takes_an_array_written_straight_to_disk(tmp_path):
    with new_folder(tmp_path / "f") as temporary:
        writer = ArrayWriter(temporary)
        array = np.lib.format.open_memmap(temporary / "m.npy", mode="w+", dtype=np.float32, shape=(2, 3))
        array[:] = 7
        array.flush()
        del array
        writer.register("m")
        writer.finish(fingerprint="f", meta={})
    np.testing.assert_array_equal(ArrayFolder.open(tmp_path / "f").load("m"), np.full((2, 3), 7, np.float32))


def test_a_failing_block_keeps_the_old_folder(tmp_path):
    path = tmp_path / "f"
    write_folder(path, a=np.arange(3))
    with pytest.raises(KeyboardInterrupt), new_folder(path) as temporary:
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert ArrayFolder.open(path).load("a").tolist() == [0, 1, 2]
    assert names(tmp_path) == ["f"]


def test_a_new_folder_replaces_the_old_one_only_at_the_end(tmp_path):
    path = tmp_path / "f"
    write_folder(path, a=np.arange(3), gone=np.arange(1))
    with new_folder(path) as temporary:
        (temporary / "x").touch()
        assert names(path) == ["a.npy", "gone.npy", "manifest.json"]
    assert names(path) == ["x"]
    assert names(tmp_path) == ["f"]


def test_folders_of_dead_processes_are_removed_and_of_living_ones_kept(tmp_path, dead_pid):
    (tmp_path / f".f.tmp-{dead_pid}").mkdir()
    (tmp_path / f".f.old-{dead_pid}").mkdir()
    (tmp_path / ".f.tmp-").mkdir()
    living = tmp_path / f".f.tmp-{os.getppid()}"
    living.mkdir()
    other = tmp_path / f".g.tmp-{dead_pid}"
    other.mkdir()
    write_folder(tmp_path / "f", a=np.arange(1))
    assert names(tmp_path) == sorted([living.name, other.name, "f"])


def test_a_folder_moved_aside_by_a_killed_process_is_put_back(tmp_path, dead_pid):
    write_folder(tmp_path / "f", a=np.arange(4))
    (tmp_path / "f").rename(tmp_path / f".f.old-{dead_pid}")
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "f"):
        raise KeyboardInterrupt
    assert ArrayFolder.open(tmp_path / "f").load("a").tolist() == [0, 1, 2, 3]
    assert names(tmp_path) == ["f"]


def test_a_process_killed_while_writing_leaves_the_old_folder(tmp_path):
    write_folder(tmp_path / "f", a=np.arange(4))
    script = (
        "import os, signal, sys; from pathlib import Path; from music_map.storage import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as t:\n"
        "    (t / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "f")], env={**os.environ, "PYTHONPATH": root})
    assert done.returncode < 0 and len(names(tmp_path)) == 2
    assert ArrayFolder.open(tmp_path / "f").load("a").tolist() == [0, 1, 2, 3]
    write_folder(tmp_path / "f", a=np.arange(2))
    assert names(tmp_path) == ["f"]


def test_a_flipped_bit_is_named(tmp_path):
    path = tmp_path / "f"
    write_folder(path, a=np.arange(100))
    content = bytearray((path / "a.npy").read_bytes())
    content[-1] ^= 1
    (path / "a.npy").write_bytes(content)
    folder = ArrayFolder.open(path)
    pattern = rf"^{re.escape(str(path))}/a\.npy: damaged \(its checksum differs .*delete .* run the command again"
    with pytest.raises(DamagedFileError, match=pattern):
        folder.load("a")
    assert folder.load("a", verify=False).shape == (100,)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("size", [0, 5, 100, 200])
def test_a_truncated_array_is_named_even_unverified(tmp_path, size, mmap):
    path = tmp_path / "f"
    write_folder(path, a=np.arange(100))
    os.truncate(path / "a.npy", size)
    for verify in (True, False):
        with pytest.raises(DamagedFileError, match=r"a\.npy: damaged .*delete"):
            ArrayFolder.open(path).load("a", verify=verify, mmap=mmap)


def test_a_missing_or_unknown_array_is_named(tmp_path):
    write_folder(tmp_path / "f", a=np.arange(3), b=np.arange(3))
    (tmp_path / "f" / "a.npy").unlink()
    folder = ArrayFolder.open(tmp_path / "f")
    with pytest.raises(DamagedFileError, match=r"a\.npy: missing; delete"):
        folder.load("a")
    with pytest.raises(DamagedFileError, match=r"manifest\.json: has no array 'c'"):
        folder.load("c")


def test_another_array_under_the_name_is_refused(tmp_path):
    write_folder(tmp_path / "f", a=np.arange(3, dtype=np.int32))
    np.save(tmp_path / "f" / "a.npy", np.arange(3, dtype=np.int64))
    with pytest.raises(DamagedFileError, match="shape or dtype differs"):
        ArrayFolder.open(tmp_path / "f").load("a", verify=False)


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"fingerprint": "f", "meta": {}}',
        '{"fingerprint": "f", "meta": {}, "arrays": []}',
        '{"fingerprint": 1, "meta": {}, "arrays": {}}',
        '{"fingerprint": "f", "meta": {}, "arrays": {"a": 3}}',
        '{"fingerprint": "f", "meta": {}, "arrays": {"a": {"dtype": "<i4"}}}',
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(DamagedFileError, match=r"manifest\.json: .*; (not a manifest; )?delete"):
        ArrayFolder.open(tmp_path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_goes_unnoticed(tmp_path, data):
    path = tmp_path / "f"
    write_folder(path, a=np.arange(5, dtype=np.uint8))
    name = data.draw(st.sampled_from(["manifest.json", "a.npy"]))
    content = bytearray((path / name).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    (path / name).write_bytes(content)
    try:
        folder = ArrayFolder.open(path)
        loaded = folder.load("a")
    except DamagedFileError:
        return
    # What is left are blanks of the JSON, written in another way.
    assert name == "manifest.json" and (folder.fingerprint, folder.meta) == ("f", {"n": 1})
    np.testing.assert_array_equal(loaded, np.arange(5, dtype=np.uint8))


def test_a_manifest_of_earlier_versions_opens(tmp_path):
    """It has no checksum of its own."""
    write_folder(tmp_path, a=np.arange(3))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["sha256"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert ArrayFolder.open(tmp_path).load("a").tolist() == [0, 1, 2]


def test_a_manifest_lists_nothing_outside_its_folder(tmp_path):
    for name in ("../a", "/a", "b/../../a"):
        entry = {"dtype": "<i8", "shape": [3], "sha256": ""}
        write_json(tmp_path / "manifest.json", {"fingerprint": "f", "meta": {}, "arrays": {name: entry}})
        with pytest.raises(DamagedFileError, match="outside the folder"):
            ArrayFolder.open(tmp_path)


@pytest.mark.parametrize(
    "shape, dtype, size",
    [((3,), "<i8", 2), ((-1,), "<i8", 3), ((2**40,), "<f8", 3), ((3,), "|O", 3), ((0, 2), "<i8", 1)],
)
def test_a_header_that_lies_is_refused_whatever_the_checksum(tmp_path, shape, dtype, size):
    header = npy_header(np.dtype("<i8"), (1,))
    lying = str({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    data = header[:10] + lying.ljust(len(header) - 11) + b"\n" + bytes(8 * size)
    (tmp_path / "a.npy").write_bytes(data)
    entry = {"dtype": dtype, "shape": list(shape), "sha256": file_sha256(tmp_path / "a.npy")}
    write_json(tmp_path / "manifest.json", {"fingerprint": "f", "meta": {}, "arrays": {"a": entry}})
    for mmap in (False, True):
        with pytest.raises(DamagedFileError, match=r"a\.npy: damaged"):
            ArrayFolder.open(tmp_path).load("a", mmap=mmap)


FORM = {"config": dict, "dataset": str, "weights?": {str: float}, "steps": [int], "best": (int, None), "on": bool}
GOOD = {"config": {}, "dataset": "d", "weights": {"a": 1, "b": 0.5}, "steps": [1, 2], "best": None, "on": True}


@pytest.mark.parametrize(
    "change, says",
    [
        ({}, None),
        ({"weights": ...}, None),
        ({"more": 1}, None),
        ({"dataset": ...}, "has no 'dataset'"),
        ({"dataset": 3}, "dataset is 3, not of type str"),
        ({"config": []}, "config is [], not of type dict"),
        ({"weights": {"a": "x"}}, 'weights.a is "x", not of type float'),
        ({"weights": {"a": True}}, "weights.a is true"),
        ({"steps": [1, 1.5]}, "steps[1] is 1.5, not of type int"),
        ({"steps": {}}, "steps is {}, not a list"),
        ({"best": "x"}, 'best is "x", none of what it can be'),
        ({"on": 1}, "on is 1, not of type bool"),
    ],
)
def test_json_of_another_form_is_named(tmp_path, change, says):
    value = {key: one for key, one in (GOOD | change).items() if one is not ...}
    write_json(tmp_path / "a.json", value)
    if says is None:
        assert read_json(tmp_path / "a.json", FORM) == value
        return
    with pytest.raises(DamagedFileError, match=rf"a\.json: {re.escape(says)}.*; delete it"):
        read_json(tmp_path / "a.json", FORM)


@pytest.mark.parametrize("text", ["[NaN]", "[-Infinity]", "[" * 100_000, "9" * 5_000, '{"a": 1'])
def test_what_is_no_json_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DamagedFileError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")


@given(value=st.dictionaries(st.text(), json_values))
def test_a_sealed_object_survives_and_tells_changes(value):
    value.pop("sha256", None)
    stored = json.loads(json.dumps(sealed(value)))
    assert unsealed(stored, "a.json") == value
    for other in ({**stored, "more": 1}, {"sha256": stored["sha256"], "other": value}, value):
        with pytest.raises(DamagedFileError, match=r"a\.json: damaged \(its checksum differs\)"):
            unsealed(other, "a.json")


def test_sweeping_a_folder_removes_what_killed_writers_left(tmp_path, dead_pid):
    write_folder(tmp_path / "sub" / "f", a=np.arange(3))
    (tmp_path / "sub" / "f").rename(tmp_path / "sub" / f".f.old-{dead_pid}")
    dead = f"{storage._HOST}-{dead_pid}-0"
    for name in (".a.json.k3j_d9x1", ".metrics.jsonl.abcdefgh", f".b.tmp-{dead}", f"sub/.c.npy.tmp-{dead_pid}"):
        (tmp_path / name).touch()
    kept = [".gitignore", ".lock", ".a.json.lock", "a.json", ".mine.tmp-x", f".e.tmp-{storage._HOST}-{os.getpid()}-9"]
    for name in (*kept, ".other.tmp-1234abcd-77-0", ".older.tmp-1234abcd-77-0"):
        (tmp_path / name).touch()
    (tmp_path / f".d.tmp-{dead}").mkdir()
    os.utime(tmp_path / ".older.tmp-1234abcd-77-0", (0, 0))
    sweep(tmp_path)
    assert names(tmp_path) == sorted([*kept, ".other.tmp-1234abcd-77-0", "sub"])  # of another host, and young
    assert names(tmp_path / "sub") == ["f"] and ArrayFolder.open(tmp_path / "sub" / "f").load("a").tolist() == [0, 1, 2]


def test_a_folder_is_replaced_without_a_moment_in_which_it_is_gone(tmp_path, monkeypatch):
    """Wherever the system swaps two names at once; a killed process cannot leave the place empty."""
    seen = []
    write_folder(tmp_path / "f", a=np.arange(3))
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *args: (seen.append(args), real(*args)))
    with new_folder(tmp_path / "f") as temporary:
        (temporary / "x").touch()
    assert names(tmp_path / "f") == ["x"] and names(tmp_path) == ["f"]
    assert seen == [] or sys.platform != "linux"


def test_where_names_cannot_be_swapped_the_folder_moves_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_exchange", lambda one, other: False)
    write_folder(tmp_path / "f", a=np.arange(3))
    write_folder(tmp_path / "f", a=np.arange(4))
    assert ArrayFolder.open(tmp_path / "f").load("a").tolist() == [0, 1, 2, 3] and names(tmp_path) == ["f"]


def test_an_array_that_is_read_survives_its_files_rewriting(tmp_path):
    """As a mapped one would not: the process would end with SIGBUS."""
    write_folder(tmp_path / "f", a=np.arange(10_000))
    read = ArrayFolder.open(tmp_path / "f").load("a")
    os.truncate(tmp_path / "f" / "a.npy", 0)
    assert read.sum() == 49_995_000


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(DamagedFileError, match=r"manifest\.json: no such file"):
        ArrayFolder.open(tmp_path)
