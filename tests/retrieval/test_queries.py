"""Ids and queries as people write them, over ids that are hard to write."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.ids import Ids, Texts
from music_map.retrieval.queries import WrittenQuery, parse_ids, parse_query_line, read_id_file, read_lines

OWN = ["007", "song 030", "Hello, Goodbye", "line\u2028sep", "NEL\x85x", '12" mix', '"Heroes"', "  padded", "[x]", "{y"]
SONGS = Ids(np.arange(len(OWN), dtype=np.uint32), Texts.of(OWN))
NUMBERS = Ids(np.array([3, 5, 46], np.uint32))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("007, song 030", ["007", "song 030"]),
        ("Hello, Goodbye", ["Hello, Goodbye"]),
        ("007,Hello, Goodbye , nobody", ["007", "Hello, Goodbye", "nobody"]),
        ('"Hello, Goodbye",007', ["Hello, Goodbye", "007"]),
        ('"Heroes",12" mix', ['"Heroes"', '12" mix']),
        ('"""Heroes""","12"" mix"', ['"Heroes"', '12" mix']),
        ('"not, there",007', ["not, there", "007"]),
        ("  padded,  007", ["  padded", "007"]),
        ("a, b,,", ["a", "b"]),
        (",, ", []),
        ("", []),
        ('"', ['"']),
    ],
)
def test_an_id_may_hold_a_comma(text: str, expected: list[str]) -> None:
    assert parse_ids(text, SONGS) == expected


def test_the_whole_text_may_be_an_id_of_many_commas() -> None:
    own = ",".join("abcdefghijklmnopqrstuvwxyz")
    assert parse_ids(own, Ids(np.zeros(1, np.uint32), Texts.of([own]))) == [own]
    assert len(parse_ids(own, SONGS)) == 26


def test_numbers_are_separated_by_commas() -> None:
    assert parse_ids(" 3,5 ,x", NUMBERS) == ["3", "5", "x"]


@given(st.lists(st.sampled_from(OWN), min_size=1, max_size=8))
def test_known_ids_are_read_back_from_csv(wanted: list[str]) -> None:
    quoted = ",".join('"' + own.replace('"', '""') + '"' for own in wanted)
    assert parse_ids(quoted, SONGS) == wanted


def test_a_file_of_ids_is_read_whatever_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "allow.txt"
    path.write_bytes("\ufeff007\r\n\r\nline\u2028sep\n  padded\nNEL\x85x\n  gone \n".encode())
    assert read_id_file(path, SONGS) == ["007", "line\u2028sep", "  padded", "NEL\x85x", "gone"]
    path.write_bytes("\ufeff3\r\n46\r\n".encode())
    assert read_id_file(path, NUMBERS) == ["3", "46"]


def test_a_file_that_is_no_text_ends_as_one_line(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes(b"7\n\xff\xfe")
    with pytest.raises(UserError, match=r"ids.txt: cannot be read \(byte 2 is no UTF-8\); give a text file"):
        read_id_file(tmp_path / "ids.txt", SONGS)
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_lines(path)


def test_lines_of_queries(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_bytes(
        '\ufeff{"songs": ["007"]}\r\n\n{"songs": ["line\u2028sep"], "user": "Ann, B."}\n007,[x]\n[x]\n{y\n'.encode()
    )
    assert [(number, parse_query_line(line, SONGS)) for number, line in read_lines(path)] == [
        (1, WrittenQuery(("007",))),
        (3, WrittenQuery(("line\u2028sep",), "Ann, B.")),
        (4, WrittenQuery(("007", "[x]"))),
        (5, WrittenQuery(("[x]",))),
        (6, WrittenQuery(("{y",))),
    ]


def test_odd_values_stay_for_the_warning() -> None:
    line = '{"songs": [true, null, 1.5, {}, "\\ud83d", 99999999999], "dislikes": [[]], "user": 7, "ordered": false}'
    asked = parse_query_line(line, SONGS)
    assert asked == WrittenQuery((True, None, 1.5, {}, "\ud83d", 99999999999), 7, ([],), False)
    assert len(SONGS.resolve(asked.songs)[1]) == 6


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"songs": [1}', "not valid JSON"),
        ('{"songs": [' + 5_000 * "1" + "]}", "not valid JSON"),
        ('{"songs": ' + 100_000 * "[" + "}", "not valid JSON .nested too deep"),
        ('{"songs": [NaN]}', "NaN is no JSON value"),
        ('{"songs": [1e400]}', "1e400 is too large"),
        ('{"songs": "007"}', "songs must be a list of ids"),
        ('{"dislikes": null}', "dislikes must be a list of ids"),
        ('{"song": [1]}', "unknown field 'song'; fields are songs, user, dislikes, ordered"),
        ('{"ordered": 1}', "ordered must be true or false"),
    ],
)
def test_a_bad_line_says_what_is_wrong(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_query_line(line, SONGS)
