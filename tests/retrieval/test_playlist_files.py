"""Playlist files: every format is read back as it was written, real exports are read, and songs are found by name."""

import json

import numpy as np
import pytest

from music_map.errors import UserError
from music_map.ids import Ids, Texts
from music_map.retrieval.playlist_files import Track, read_playlist, track_of, write_playlist
from music_map.retrieval.queries import parse_ids, read_id_file

OWN = ["spotify:track:A1", 'b, "c"', "é/x 100%", "#4", "music/Mr. Mister - Kyrie.mp3"]
TITLES = ["Hello", "Hello, Goodbye", "Déjà Vu", "1979", "Hello"]
ARTISTS = ["Adele", "The Beatles", "", "Pumpkins", "Lionel Richie"]
ALBUMS = ["25", "", "", "", ""]
SONGS = Ids(
    np.arange(5, dtype=np.uint32),
    Texts.of(OWN),
    fields={"title": Texts.of(TITLES), "artist": Texts.of(ARTISTS), "album": Texts.of(ALBUMS)},
)
NUMBERS = Ids(SONGS.numbers + 10, fields=SONGS.fields)


@pytest.mark.parametrize("ids", [SONGS, NUMBERS], ids=["texts", "numbers"])
@pytest.mark.parametrize("suffix", ["m3u", "m3u8", "jspf"])
def test_what_is_written_is_read_back(tmp_path, ids, suffix):
    tracks = [track_of(ids, at) for at in (3, 0, 1, 2, 4)]
    write_playlist(tmp_path / f"x.{suffix}", tracks, title="two\nlines")
    found = read_playlist(tmp_path / f"x.{suffix}")
    assert [track.find(ids) for track in found] == [[3], [0], [1], [2], [4]]
    assert [track.name for track in found] == [track.name for track in tracks]
    assert found[1] == Track("Hello", "Adele", "25", (str(ids.label(0)),))


def test_jspf_is_what_players_expect(tmp_path):
    write_playlist(tmp_path / "x.jspf", [track_of(SONGS, 0), track_of(SONGS, 2)], title="Mine")
    playlist = json.loads((tmp_path / "x.jspf").read_text())["playlist"]
    assert playlist["title"] == "Mine" and playlist["track"] == [
        {"title": "Hello", "creator": "Adele", "album": "25", "identifier": ["spotify:track:A1"]},
        {"title": "Déjà Vu", "identifier": ["urn:music-map:song:%C3%A9%2Fx%20100%25"]},
    ]


def test_files_of_others(tmp_path):
    def found(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return [track.find(SONGS) for track in read_playlist(tmp_path / name)]

    m3u = "\ufeff#EXTM3U\r\n#EXTINF:295,ADELE \u2013 hello\r\n../Music/01.mp3\r\n\r\n"
    m3u += "C:\\Music\\The Beatles - Hello, Goodbye.mp3\r\n"
    assert found("a.m3u", m3u) == [[0], [1]]
    assert found("plain.m3u8", "music/Mr. Mister - Kyrie.mp3\nhttps://open.spotify.com/track/A1?si=x\n") == [[4], [0]]
    listenbrainz = {
        "playlist": {
            "title": "t", "identifier": "https://listenbrainz.org/playlist/1",
            "track": [
                {"title": "1979", "creator": "Pumpkins", "identifier": ["https://musicbrainz.org/recording/0a1"]},
                {"title": "Hello", "identifier": "x"},
            ],
        }
    }  # fmt: skip
    assert found("a.jspf", json.dumps(listenbrainz)) == [[3], [0, 4]]
    exportify = '"Track URI","Track Name","Album Name","Artist Name(s)"\n"spotify:track:ZZ","Hello","LP","Adele"\n'
    assert found("a.csv", exportify) == [[0]]
    assert found("ids.csv", "id\nspotify:track:A1\n\nnone\n") == [[0], []]
    assert found("a.txt", "Deja vu\n#4\n") == [[2], [3]]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.wav", "x", "is no playlist; give a file that ends in .m3u"),
        ("a.m3u", "#EXTM3U\n", "holds no song"),
        ("a.jspf", "{", "is no JSPF playlist"),
        ("a.jspf", "[]", "is no JSPF playlist"),
        ("a.jspf", "{}", "has no playlist.track"),
        ("a.csv", "year\n1999\n", "its columns are year; it needs title and artist, or id"),
        ("a.csv", "", "its columns are none"),
    ],
)
def test_files_that_are_no_playlists(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=says):
        read_playlist(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        read_playlist(tmp_path / "none.m3u")
    with pytest.raises(UserError, match=r"no playlist that can be written; end it in \.m3u, \.m3u8, \.jspf"):
        write_playlist(tmp_path / "x.csv", [])


def test_names_in_a_text_may_hold_commas(tmp_path):
    assert parse_ids("The Beatles - Hello, Goodbye,spotify:track:A1", SONGS) == [
        "The Beatles - Hello, Goodbye", "spotify:track:A1",
    ]  # fmt: skip
    assert parse_ids("hello, goodbye, 1979, x", NUMBERS) == ["hello, goodbye", "1979", "x"]
    (tmp_path / "allow.txt").write_text("Hello\n13\nx\n")
    assert read_id_file(tmp_path / "allow.txt", NUMBERS) == ["10", "14", "13", "x"]
