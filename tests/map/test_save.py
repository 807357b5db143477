"""The page's files and links (save.js), and its two sources of answers (query.js), in Node.js."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from music_map.ids import Ids, Texts
from music_map.retrieval.playlist_files import read_playlist

PAGE = Path(__file__).resolve().parents[2] / "music_map/map/page"
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js on this machine")


def run(script, code):
    """What `code` gives with `m`, the module of a script of the page."""
    text = f"const m = require({json.dumps(str(PAGE / script))}); (async () => console.log(JSON.stringify({code})))();"
    done = subprocess.run(["node", "-e", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_song_has_the_link_that_its_id_allows():
    spotify = "4uLU6hMCjMI75M1A2tKUQC"
    mbid = "f3a7e5d0-1b2c-4d5e-8f90-0a1b2c3d4e5f"
    ids = [f"spotify:track:{spotify}", spotify, mbid, "USRC17607839", "dQw4w9WgXcQ", 381, "Ada, Étude"]
    found = run("save.js", f"{json.dumps(ids)}.map((id) => m.linkOf(id))")
    assert [f and f["url"] for f in found] == [
        *[f"https://open.spotify.com/track/{spotify}"] * 2,
        f"https://musicbrainz.org/recording/{mbid}",
        "https://musicbrainz.org/isrc/USRC17607839",
        None, None, None,
    ]  # fmt: skip
    searched = run("save.js", 'm.linkOf(381, { title: "Étude & Co", artist: "Ada" })')
    assert searched["url"].endswith("search_query=Ada%20%C3%89tude%20%26%20Co") and searched["uri"] is None
    columns = run("save.js", 'm.linkOf(381, { title: "x", columns: { youtube_id: "dQw4w9WgXcQ" } })')
    assert columns["url"] == "https://www.youtube.com/watch?v=dQw4w9WgXcQ"


def test_a_playlist_as_m3u8_and_as_jspf():
    songs = (
        '[{ id: 381, title: "Étude\\n1", artist: "Ada", album: "Works", uri: null }, { id: "b", title: null, '
        'artist: null, album: null, uri: "spotify:track:x" }]'
    )
    lines = run("save.js", f'm.m3u8Of("Mine\\nand yours", {songs})').split("\n")
    assert lines == [
        "#EXTM3U", "#PLAYLIST:Mine and yours", "#EXTINF:-1,Ada - Étude 1", "#EXTALB:Works", "381", "#EXTINF:-1,b",
        "spotify:track:x", "",
    ]  # fmt: skip
    odd = """m.m3u8Of("x", [{ id: "#1 50%/2" }, { id: "a\\nb" }, { id: " c, d" }, { id: "Ada, Étude" }])"""
    assert run("save.js", odd).split("\n")[3:-1:2] == ["%231 50%25/2", "a%0Ab", " c, d", "Ada, Étude"]
    playlist = json.loads(run("save.js", f'm.jspfOf("Mine", {songs})'))["playlist"]
    assert playlist["title"] == "Mine"
    assert playlist["track"] == [
        {"title": "Étude\n1", "creator": "Ada", "album": "Works", "identifier": ["urn:music-map:song:381"]},
        {"identifier": ["spotify:track:x"]},
    ]


def test_a_saved_playlist_is_read_back_by_the_recommender(tmp_path):
    songs = (
        '[{ id: "#1 50%/2", title: "Étude - 1", artist: "Ada", album: "Works", uri: null }, { id: 381, title: null, '
        'artist: null, album: null, uri: null }, { id: "x", title: "B", artist: "C", album: null, '
        'uri: "spotify:track:4uLU6hMCjMI75M1A2tKUQC" }]'
    )
    for suffix, name in (("m3u8", "m3u8Of"), ("jspf", "jspfOf")):
        path = tmp_path / f"mine.{suffix}"
        path.write_text(run("save.js", f'm.{name}("Mine", {songs})'), encoding="utf-8")
        found = read_playlist(path)
        assert [track.name for track in found] == ["Ada - Étude - 1", "381", "C - B"]
        # Each id is found in a log that has it.
        for track, song in zip(found, ("#1 50%/2", "381", "4uLU6hMCjMI75M1A2tKUQC"), strict=True):
            assert track.find(Ids(np.arange(2, dtype=np.uint32), Texts.of(["another", song]))) == [1]


def test_a_view_as_a_link_and_back():
    view = {
        "at": [0.25, -0.5, 3.5], "song": "a,b&c=é", "songs": ["7", "x y"], "dislikes": ["#"], "ordered": False,
        "colour": "artist",
    }  # fmt: skip
    text = run("save.js", f"m.hashOf({json.dumps(view)})")
    assert text.startswith("#at=0.25,-0.5,3.5&") and " " not in text
    assert run("save.js", f"m.viewOf({json.dumps(text)})") == view
    for empty in ("", "#", "#search", "#at=1,2", "#at=a,b,c", "#songs="):
        assert run("save.js", f"m.viewOf({json.dumps(empty)})") is None
    assert run("save.js", 'm.viewOf("#songs=%E0%A4%A,7")')["songs"] == ["%E0%A4%A", "7"]


def test_the_service_as_the_source_of_answers():
    asked, found, near, listener = run(
        "query.js",
        """await (async () => {
      const asked = [], ids = ["a", "b", "c", "d"];
      const answers = { recommendations: [
        { item_id: "c", score: 0.9, why: [{ item_id: "b", weight: 0.7, similarity: 0.5 }] },
        { item_id: "not on the map", score: 0.8, why: [] },
        { item_id: "d", score: 0.7, why: [], reasons: [{ text: "popular now" }, { text: "by X" }] } ], warnings: [],
        tastes: [{ songs: ["b"], weight: 0.7 }, { songs: ["a"], weight: 0.3 }], latest: ["d", "no", "a"] };
      const ask = async (path, body) => (asked.push(body ? [path, body] : [path]), answers);
      const source = m.serviceSource({ ask, idOf: (i) => ids[i],
        rowOf: (id) => (ids.includes(id) ? ids.indexOf(id) : undefined), position: [0, 0, 0, 0, 1, 1, 3, 3] });
      const found = await source.answer(
        { playlist: [1, 0, 1], dislikes: [3], ordered: true, k: 3, diversity: 0, maxPerArtist: 2 });
      answers.recommendations.forEach((r) => { r.reasons ??= []; });
      return [asked, found, await source.nearest(0, 5), await source.listener(
        { user: "7/8", k: 3, diversity: 0, maxPerArtist: 2 })]; })()""",
    )
    assert asked == [
        ["recommend", {"songs": ["a", "b"], "dislikes": ["d"], "ordered": True, "k": 3, "reasons": 10,
                       "filters": {"max_per_artist": 2, "diversity": 0}}],
        ["similar", {"song": "a", "k": 5}],
        ["users/7%2F8?latest=200"],
        ["recommend", {"user": "7/8", "k": 3, "reasons": 3, "filters": {"max_per_artist": 2, "diversity": 0}}],
    ]  # fmt: skip
    assert found["playlist"] == [0, 1] and found["weights"] == [None, 0.7]
    assert (found["songs"], found["scores"], found["reasons"]) == ([2, 3], [0.9, 0.7], [1, None])
    # The first taste's star is at the song that is recommended for it; for the second none is: at its own song.
    assert found["stars"] == [[1, 1], [0, 0]]
    assert (listener["songs"], listener["played"]) == ([2, 3], [3, 0]) and listener["stars"] == []
    assert listener["words"] == ["", "popular now; by X"] and listener["about"]["latest"] == ["d", "no", "a"]
    assert near == [[2, 0.9], [3, 0.7]]
