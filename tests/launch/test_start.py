"""From an export to its map in one command; imports by name; answers by name, from and to playlist files."""

import json
import random

import pyarrow.parquet as pq
from commands import fails, launch

SONGS = [
    (f"spotify:track:{n:04}", f"Song, {n}", f"Artist {n // 5}") for n in range(30)
]  # few enough for the map to do without UMAP


def spotify_export(folder, sittings=40):
    """One listener: in a sitting songs of four neighbouring artists, and one podcast."""
    rng, plays = random.Random(0), []
    for day in range(sittings):
        first = rng.randrange(3) * 10
        for place in range(9):
            uri, title, artist = SONGS[first + (day + place) % 10]
            plays.append({
                "ts": f"2023-{1 + day // 28:02}-{1 + day % 28:02}T10:{4 * place:02}:05Z", "ms_played": 40_000,
                "spotify_track_uri": uri, "master_metadata_track_name": title,
                "master_metadata_album_artist_name": artist, "master_metadata_album_album_name": "LP",
            })  # fmt: skip
    plays.append({"ts": "2023-01-02T10:00:00Z", "ms_played": 1, "spotify_track_uri": None, "episode_name": "Pod"})
    (folder / "Streaming_History_Audio_2023_1.json").write_text(json.dumps(plays))
    return folder


def test_an_export_is_imported_by_name(tmp_path):
    spotify_export(tmp_path, sittings=2)
    said = launch("import", "auto", str(tmp_path), f"--output={tmp_path}/own").stdout
    assert "preset spotify: told by the files" in said and "18 listens" in said and "1 row skipped" in said
    assert "--config=configs/own.py" in said and (tmp_path / "own/flat/own/song_ids.parquet").exists()
    said = launch("import", "spotify", str(tmp_path), f"--output={tmp_path}/new", "--dry_run", "--sittings=30").stdout
    assert "2 users" in said and not (tmp_path / "new").exists()
    fails("import", "tidal", str(tmp_path), says=["preset", "spotify, lastfm"])
    fails("import", "spotify", says=["PATH... missing"])


def test_one_command_from_an_export_to_its_map(tmp_path):
    export, work = spotify_export(tmp_path), tmp_path / "work"
    done = launch("start", str(export), f"--workdir={work}", "--epochs=1", "--open=false")
    assert "one listener: nothing can be learnt of who likes what" in done.stderr
    assert (
        "each of 40 sittings" in done.stderr and "the model" in done.stdout and f"map: {work}/map.html" in done.stdout
    )
    assert (work / "map.html").stat().st_size > 100_000
    sizes = json.loads((work / "config.json").read_text())["config"]
    train = sizes["train"]
    assert (train["batch_size"], train["num_epochs"], sizes["data"]["min_interactions"]) == (64, 1, 5)
    query = [f"--workdir={work}", "--k=3"]
    by_name = launch("recommend", *query, "--songs=artist 0 - song, 3,Song, 4", "--format=json").stdout
    answer = json.loads(by_name)
    assert answer["query"]["songs"] == [SONGS[3][0], SONGS[4][0]]
    assert answer["recommendations"][0]["name"].startswith("Artist ")
    table = launch("recommend", *query, f"--songs={SONGS[3][0]}", f"--output={tmp_path}/more.m3u8").stdout
    assert "Artist 0 - Song, 3: " in table and "#EXTINF:-1,Artist" in (tmp_path / "more.m3u8").read_text()
    again = launch("recommend", *query, f"--playlist={tmp_path}/more.m3u8", f"--output={tmp_path}/x.jspf").stdout
    assert (
        len(again.splitlines()) == 5 and json.loads((tmp_path / "x.jspf").read_text())["playlist"]["track"][0]["title"]
    )
    launch("recommend", f"--workdir={work}", "--k=2", "--all_users", f"--output={tmp_path}/all.parquet")
    assert pq.read_table(tmp_path / "all.parquet")["name"][0].as_py().startswith("Artist ")
    fails("recommend", *query, "--songs=1", f"--output={tmp_path}/x.txt", says=["--output", "no playlist", ".m3u8"])
    fails("start", str(tmp_path / "none"), says=["no such file"])
