"""Reporters, and text of others made safe to print."""

import pytest

from music_map.reporter import SILENT, PrintReporter
from music_map.text import printable, printable_lines, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Sigur Rós – ágætis byrjun 👩‍🎤", "Sigur Rós – ágætis byrjun 👩‍🎤"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("two\r\nlines\t\u2028", r"two\r\nlines\t\u2028"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff", r"\udcff"),
    ],
)
def test_printable_escapes_what_a_terminal_obeys(text, shown):
    assert printable(text) == shown
    shown.encode()


def test_printable_lines_keeps_line_ends():
    assert printable_lines("a\x07\n\nb\r\n") == "a\\x07\n\nb\\r\n"


def test_shortened_fits_the_width():
    assert shortened("four", 4) == "four"
    assert shortened("fives", 4) == "fiv…"
    assert shortened("\x1b" * 1000, 10) == r"\x1b\x1b\…"


def test_print_reporter_prints_what_is_reported(capsys):
    reporter = PrintReporter()
    reporter.say("song\x1b[2J\nnext")
    reporter.note("on the way")
    reporter.warn("one\nline")
    with reporter.bar("work", 3, "song") as advance:
        advance(3)
    written = capsys.readouterr()
    assert written.out == "song\\x1b[2J\nnext\non the way\n"
    assert written.err.startswith("warning: one\\nline\n") and "work: 100%" in written.err


def test_silent_reports_nothing(capsys):
    SILENT.say("x")
    SILENT.note("x")
    SILENT.warn("x")
    with SILENT.bar("work", None, "song") as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")
