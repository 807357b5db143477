"""Ids of the logs to positions and back."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music_map.ids import Ids, Texts
from music_map.storage import ArrayFolder, ArrayWriter

NUMBERED = Ids(np.array([3, 7, 46, 2**32 - 1], np.uint32))
OWN = ["007", "7", "Hello, Goodbye", "line\u2028sep", "-5", "日本"]
NAMED = Ids(np.arange(6, dtype=np.uint32) * 2, Texts.of(OWN), Texts.of(["a - b", "", "", "", "", "ä"]))


def test_numbers_are_found_as_numbers_and_as_text() -> None:
    assert NUMBERED.indices([7, "7", np.uint32(46), np.int64(3), "4294967295", 8]).tolist() == [1, 1, 2, 0, 3, -1]
    assert NUMBERED.index_of("46") == 2 and NUMBERED.label(2) == 46 and NUMBERED.name(2) is None
    assert json.dumps(NUMBERED.labels(np.array([0, 3]))) == "[3, 4294967295]"


def test_texts_are_found_as_they_are() -> None:
    assert NAMED.indices(OWN).tolist() == list(range(6))
    assert NAMED.indices([7, "07", -5, 0, "hello, goodbye", " 7"]).tolist() == [1, -1, 4, -1, -1, -1]
    assert NAMED.labels(range(6)) == OWN
    assert [NAMED.name(n) for n in (0, 1, 5)] == ["a - b", None, "ä"]


ODD = [
    True,
    False,
    1.0,
    float("nan"),
    -1,
    2**32,
    2**70,
    10**5000,
    None,
    "",
    " 7 ",
    "٧",
    "+7",
    "7_0",
    "\ud83d",
    b"7",
    [],
    {},
]


@pytest.mark.parametrize("ids", [NUMBERED, NAMED], ids=["numbers", "texts"])
def test_odd_values_are_unknown_and_named_in_one_line(ids: Ids) -> None:
    known, unknown = ids.resolve([7, *ODD, "7"])
    assert known.tolist() == [1, 1] and len(unknown) == len(ODD)
    for value in ODD:
        text = ids.unknown("song", [value])
        assert text.startswith("unknown song ") and text.encode() and text.isprintable() and len(text) < 200


def test_the_warning_names_ten_and_an_example() -> None:
    assert NUMBERED.unknown("song", ["9", 8]) == (
        "unknown songs 9, 8: not in the logs, or with too few interactions; the ids look like 3"
    )
    assert NAMED.unknown("user", ["x\n\x1b[2J\u2028"]) == (
        "unknown user 'x\\n\\x1b[2J\\u2028': not in the logs, or with too few interactions; the ids look like '007'"
    )
    assert ", 9, ...: not" in NUMBERED.unknown("song", list(range(100)))
    assert Ids(np.zeros(0, np.uint32)).unknown("song", [1]).endswith("too few interactions")


@given(
    own=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True, max_size=30),
    wanted=st.lists(st.text() | st.integers(), max_size=10),
)
def test_resolves_as_a_dictionary_does(own: list[str], wanted: list[str | int]) -> None:
    ids = Ids(np.arange(len(own), dtype=np.uint32), Texts.of(own))
    wanted = [*wanted, *own[::3]]
    place = {text: at for at, text in enumerate(own)}
    known, unknown = ids.resolve(wanted)
    assert known.tolist() == [place[str(w)] for w in wanted if str(w) in place]
    assert unknown == [w for w in wanted if str(w) not in place]


@pytest.mark.parametrize("ids", [NUMBERED, NAMED], ids=["numbers", "texts"])
def test_written_and_read(tmp_path: Path, ids: Ids) -> None:
    writer = ArrayWriter(tmp_path)
    ids.write(writer, "item")
    writer.finish(fingerprint="f", meta={})
    found = Ids.load(ArrayFolder.open(tmp_path), "item", mmap=True)
    assert found.labels(range(len(ids))) == ids.labels(range(len(ids)))
    assert [found.name(n) for n in range(len(ids))] == [ids.name(n) for n in range(len(ids))]
    assert found.index_of("7") == 1


def test_254_000_ids_take_a_moment() -> None:
    own = [f"spotify:track:{n:022d}" for n in range(254_000)]
    ids = Ids(np.arange(len(own), dtype=np.uint32), Texts.of(own))
    start = time.process_time()
    assert ids.index_of(own[200_000]) == 200_000
    assert ids.indices(own[:10_000]).tolist() == list(range(10_000))
    assert time.process_time() - start < 2


SONGS = Ids(
    np.arange(5, dtype=np.uint32),
    fields={
        "title": Texts.of(["Hello", "hello", "Déjà vu", "Hello, Goodbye", ""]),
        "artist": Texts.of(["Adele", "Lionel  Richie", "", "The Beatles", "Nobody"]),
        "genre": Texts.of(["pop", "", "", "", ""]),
    },
)


def test_songs_are_found_by_name() -> None:
    assert [SONGS.name(at) for at in range(5)] == [
        "Adele - Hello", "Lionel  Richie - hello", "Déjà vu", "The Beatles - Hello, Goodbye", None,
    ]  # fmt: skip
    assert SONGS.find("adele \u2013 HELLO") == [0] and SONGS.find("Hello") == [0, 1] and SONGS.find("deja  vu") == [2]
    assert SONGS.find("the beatles - hello, goodbye") == [3] and SONGS.find("") == SONGS.find("x") == []
    assert NAMED.find("A - B") == [0] and NUMBERED.find("7") == [] and not NUMBERED.named and SONGS.named
    assert SONGS.field("genre", 0) == "pop" and SONGS.field("genre", 1) is SONGS.field("album", 0) is None


def test_fields_are_stored(tmp_path: Path) -> None:
    writer = ArrayWriter(tmp_path)
    SONGS.write(writer, "item")
    writer.finish(fingerprint="", meta={})
    read = Ids.load(ArrayFolder.open(tmp_path), "item")
    assert read.name(3) == SONGS.name(3) and set(read.fields) == {"title", "artist", "genre"}
