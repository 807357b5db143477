"""Each preset on a small file in that export's layout."""

import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from music_map.convert.build import convert_logs
from music_map.convert.importing import import_logs
from music_map.convert.presets import PRESETS, detect, unpacked
from music_map.convert.settings import ColumnMapping
from music_map.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from layouts import EXPORTS, plays, written


def imported(tmp_path, preset, *paths):
    """The summary, the listens with their users' and songs' ids, and the table of songs by id."""
    found = PRESETS.find(preset)(paths)
    mapping = ColumnMapping(**{"user": None, **found.columns})
    summary = convert_logs(found.inputs, tmp_path / "raw", mapping, source=found.source)
    folder = tmp_path / "raw/flat/own"

    def table(name):
        path = folder / f"{name}.parquet"
        return {row["number"]: row for row in pq.read_table(path).to_pylist()} if path.exists() else {}

    users, songs = table("user_ids"), table("song_ids")
    rows = [
        (
            users.get(r["uid"], {}).get("id", r["uid"]),
            songs.get(r["item_id"], {}).get("id", r["item_id"]),
            r["timestamp"],
            r["played_ratio_pct"],
        )
        for r in pq.read_table(folder / "listens.parquet").to_pylist()
    ]
    return summary, rows, {row["id"]: row for row in songs.values()}, found.notes


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text, indent=2))
    return path


def spotify_play(ts, ms, uri, track, artist, album, **more):
    return {
        "ts": ts, "platform": "ios", "ms_played": ms, "conn_country": "DE", "ip_addr": "1.2.3.4",
        "master_metadata_track_name": track, "master_metadata_album_artist_name": artist,
        "master_metadata_album_album_name": album, "spotify_track_uri": uri, "episode_name": None,
        "episode_show_name": None, "spotify_episode_uri": None, "reason_start": "clickrow", "reason_end": "trackdone",
        "shuffle": False, "skipped": False, "offline": False, "offline_timestamp": None, "incognito_mode": False,
        **more,
    }  # fmt: skip


def test_spotify_extended_history(tmp_path):
    folder = tmp_path / "Spotify Extended Streaming History"
    write(folder / "Streaming_History_Audio_2022-2023_0.json", [
        spotify_play("2023-03-01T10:00:05Z", 201000, "spotify:track:AAA", "Song One", "Band", "LP"),
        spotify_play("2023-03-01T10:03:05Z", 1200, "spotify:track:BBB", "Song Two", "Band", "LP"),
        spotify_play("2023-03-01T11:00:00Z", 600000, None, None, None, None, episode_name="Pod"),
    ])  # fmt: skip
    write(folder / "Streaming_History_Audio_2023_1.json", [
        spotify_play("2023-04-01T10:00:00Z", 31000, "spotify:track:AAA", "Song One", "Band", "LP"),
    ])  # fmt: skip
    write(folder / "Streaming_History_Video_2022.json", [spotify_play("2022-01-01T00:00:00Z", 1, "v", "v", "v", "v")])
    write(folder / "ReadMeFirst_ExtendedStreamingHistory.pdf", "x")
    summary, rows, songs, _ = imported(tmp_path, "spotify", folder)
    at = 1_677_664_805
    assert rows == [
        ("me", "spotify:track:AAA", at, 100),
        ("me", "spotify:track:BBB", at + 180, 0),
        ("me", "spotify:track:AAA", 1_680_343_200, 100),
    ]
    assert summary.skipped == 1 and "spotify_track_uri: must be an id" in next(iter(summary.reasons))
    _, summary = import_logs("spotify", [folder], tmp_path / "named")
    assert next(iter(summary.reasons)).startswith("podcasts and others without the id of a song (the first: ")
    assert songs["spotify:track:AAA"] == {
        "number": 0, "id": "spotify:track:AAA", "title": "Song One", "artist": "Band", "album": "LP",
    }  # fmt: skip
    artists = pq.read_table(tmp_path / "raw/flat/own/artist_ids.parquet").to_pylist()
    assert artists == [{"number": 0, "id": "Band", "name": "Band"}]
    albums = pq.read_table(tmp_path / "raw/flat/own/album_ids.parquet").to_pylist()
    assert albums == [{"number": 0, "id": "Band - LP", "name": "LP"}]
    mapping = pq.read_table(tmp_path / "raw/flat/own/artist_item_mapping.parquet").to_pylist()
    assert mapping == [{"artist_id": 0, "item_id": 0}, {"artist_id": 0, "item_id": 1}]


def test_spotify_account_data(tmp_path):
    folder = tmp_path / "MyData"
    plays = [{"endTime": "2023-01-02 10:30", "artistName": "Band", "trackName": "Song One", "msPlayed": 201000}]
    write(folder / "StreamingHistory_music_0.json", plays)
    write(folder / "Playlist1.json", {"playlists": []})
    _, rows, songs, _ = imported(tmp_path, "spotify", folder)
    assert rows == [("me", "Band - Song One", 1_672_655_400, 100)]
    assert songs["Band - Song One"]["title"] == "Song One" and songs["Band - Song One"]["artist"] == "Band"


def test_lastfm_in_both_layouts(tmp_path):
    plain = 'Radiohead,OK Computer,Airbag,31 Dec 2023 10:30\n"Emerson, Lake & Palmer",,Tank,01 Jan 2024 00:01\n'
    _, rows, songs, _ = imported(tmp_path / "a", "lastfm", write(tmp_path / "a/someone.csv", plain))
    assert rows == [
        ("me", "Radiohead - Airbag", 1_704_018_600, 100),
        ("me", "Emerson, Lake & Palmer - Tank", 1_704_067_260, 100),
    ]
    assert songs["Radiohead - Airbag"]["album"] == "OK Computer"
    headed = (
        "uts,utc_time,artist,artist_mbid,album,album_mbid,track,track_mbid\n"
        '"1704018600","31 Dec 2023, 10:30","Radiohead","","OK Computer","","Airbag",""\n'
    )
    _, rows, _, _ = imported(tmp_path / "b", "lastfm", write(tmp_path / "b/recenttracks.csv", headed))
    assert rows == [("me", "Radiohead - Airbag", 1_704_018_600, 100)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("commas.csv", 'Radiohead,OK Computer,Airbag,"31 Dec 2023, 10:30"\n'),
        ("stats.csv", '\ufeffArtist;Album;AlbumId;Track;Date#me\nRadiohead;OK Computer;;"Airbag";"1704018600000"\n'),
        ("stats.json", {"username": "me", "scrobbles": [
            {"track": "Airbag", "artist": "Radiohead", "album": "OK Computer", "albumId": "", "date": 1704018600000}]}),
        ("scraper.tsv", "Title\tArtist\tAlbum\tDate\tTimestamp\n"
                        "Airbag\tRadiohead\tOK Computer\t31 Dec 2023, 10:30\t1704018600\n"),
        ("text.csv", 'utc_time,artist,album,track\n"31 Dec 2023, 10:30",Radiohead,OK Computer,Airbag\n'),
    ],
)  # fmt: skip
def test_lastfm_of_other_tools(tmp_path, name, text):
    path = write(tmp_path / name, text)
    _, rows, songs, _ = imported(tmp_path, "lastfm", path)
    assert rows == [("me", "Radiohead - Airbag", 1_704_018_600, 100)]
    assert songs["Radiohead - Airbag"]["album"] == "OK Computer"
    other = write(tmp_path / "z.csv", "Radiohead,OK Computer,Airbag,31 Dec 2023 10:30\n")
    with pytest.raises(UserError, match=rf"z.csv: has another layout than .*{name}; import one of them"):
        imported(tmp_path, "lastfm", path, other)


def test_lastfm1k(tmp_path):
    text = (
        "user_000001\t2009-05-04T23:08:57Z\tf1b1cf71\tDeep Dish\t\tFuck Me Im Famous\n"
        'user_000001\t2009-05-04T13:54:10Z\ta7f7df4a\tUnderworld\tdc394163\t"Composition 0919 (Live)\n'
        "user_000002\t2009-05-04T13:52:04Z\ta7f7df4a\tUnderworld\tdc394163\t\n"
    )
    path = write(tmp_path / "lastfm-dataset-1K/userid-timestamp-artid-artname-traid-traname.tsv", text)
    summary, rows, _, _ = imported(tmp_path, "lastfm1k", path.parent)
    assert rows == [
        ("user_000001", 'Underworld - "Composition 0919 (Live)', 1_241_445_250, 100),
        ("user_000001", "Deep Dish - Fuck Me Im Famous", 1_241_478_537, 100),
    ]
    assert summary.skipped == 1


@pytest.mark.parametrize("user", [True, False])
def test_listenbrainz(tmp_path, user):
    events = [
        {"listened_at": 1_600_000_000 + 300 * n, **({"user_name": "rob"} if user else {}), "recording_msid": "x",
         "track_metadata": {"track_name": f"Song {n}", "artist_name": "Band", "additional_info": {"isrc": "A"},
                            **({"release_name": "LP"} if n else {})}}
        for n in range(2)
    ]  # fmt: skip
    write(tmp_path / "listens/2020/9.jsonl", "\n".join(map(json.dumps, events)) + "\n")
    _, rows, songs, _ = imported(tmp_path, "listenbrainz", tmp_path / "listens")
    who = "rob" if user else "me"
    assert rows == [(who, "Band - Song 0", 1_600_000_000, 100), (who, "Band - Song 1", 1_600_000_300, 100)]
    assert songs["Band - Song 1"]["album"] == "LP" and songs["Band - Song 0"]["album"] is None


def test_million_playlists(tmp_path):
    def track(pos, name):
        return {"pos": pos, "artist_name": "Missy Elliott", "track_uri": f"spotify:track:{name}", "track_name": name,
                "artist_uri": "spotify:artist:2", "album_uri": "spotify:album:6", "duration_ms": 226863,
                "album_name": "The Cookbook"}  # fmt: skip

    slice_ = {
        "info": {"generated_on": "2017-12-03 08:41:42.057563", "slice": "0-999", "version": "v1"},
        "playlists": [
            {"name": "Throwbacks", "collaborative": "false", "pid": 0, "modified_at": 1_493_424_000, "num_tracks": 2,
             "tracks": [track(0, "A"), track(1, "B")], "num_edits": 6},
            {"name": "x", "collaborative": "false", "pid": 5, "modified_at": 1_506_556_800, "tracks": [track(0, "B")]},
        ],
    }  # fmt: skip
    write(tmp_path / "data/mpd.slice.0-999.json", slice_)
    _, rows, songs, notes = imported(tmp_path, "mpd", tmp_path / "data")
    assert rows == [
        (0, "spotify:track:A", 0, 100),
        (0, "spotify:track:B", 500, 100),
        (5, "spotify:track:B", 0, 100),
    ]
    assert songs["spotify:track:A"]["title"] == "A" and "no times" in notes[0]
    listens = pq.read_table(tmp_path / "raw/flat/own/listens.parquet")
    assert set(listens["track_length_seconds"].to_pylist()) == {227}


@pytest.mark.parametrize("layout", ["csv", "dat", "data"])
def test_movielens(tmp_path, layout):
    title = "Misérables, Les (1995)"
    texts = {
        "csv": ("ratings.csv", "userId,movieId,rating,timestamp\n1,73,4.5,964982703\n", "movies.csv",
                f'movieId,title,genres\n73,"{title}",Drama|War\n9,Never rated,Action\n'),
        "dat": ("ratings.dat", "1::73::4::964982703\n", "movies.dat", f"73::{title}::Drama|War\n"),
            "data": (
                "u.data", "1\t73\t4\t964982703\n", "u.item",
                f"73|{title}|01-Jan-1995||url|{'|'.join('0000000010000000010')}\n",
            ),
    }  # fmt: skip
    ratings, text, movies, items = texts[layout]
    write(tmp_path / ratings, text)
    (tmp_path / movies).write_bytes(items.encode("utf-8" if layout == "csv" else "latin-1"))
    summary, rows, songs, _ = imported(tmp_path, "movielens", tmp_path)
    assert rows == [(1, "73", 964_982_703, 90 if layout == "csv" else 80)] and summary.num_items == 1
    assert songs == {"73": {"number": 73, "id": "73", "title": title, "genre": "Drama|War"}}


def test_recbole(tmp_path):
    write(
        tmp_path / "lfm/lfm.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\ta\t3\t881250949\n"
    )
    write(
        tmp_path / "lfm/lfm.item",
        "item_id:token\tname:token_seq\tgenre:token\ta\tyear:float\na\tThe Song\tpop\t\t1999\n",
    )
    _, rows, songs, _ = imported(tmp_path, "recbole", tmp_path / "lfm")
    assert rows == [(7, "a", 881_250_949, 100)] and songs["a"] | {"number": 0} == {
        "number": 0, "id": "a", "title": "The Song", "genre": "pop",
    }  # fmt: skip


def test_recbole_without_times(tmp_path):
    rows = "".join(f"{user}\t{song}\t1\n" for user in range(20) for song in range(10))
    write(tmp_path / "lastfm.train.inter", "user_id:token\tartist_id:token\tweight:float\n" + rows)
    write(tmp_path / "lastfm.item", "artist_id:token\tname:token_seq\n3\tBand\n")
    summary, rows, songs, _ = imported(tmp_path, "recbole", tmp_path)
    assert summary.num_users == 20 and summary.num_items == 10 and songs["3"]["title"] == "Band"
    assert "no times: each user's songs are taken in a random order" in summary.notes[0]
    assert sorted(time for user, _, time, _ in rows if user == 7) == list(range(0, 1000, 100))
    # Each user has an order of their own, so no song is among the last of all.
    assert 4 < len({song for _, song, time, _ in rows if time == 900}) <= 10
    again = imported(tmp_path / "again", "recbole", tmp_path)[1]
    assert again == rows
    with pytest.raises(UserError, match="--sittings=30: a sitting ends with a pause, and this log has no times"):
        import_logs("recbole", [tmp_path], tmp_path / "raw2", changes={"sittings": 30.0})


@pytest.mark.parametrize("valid", [True, False])
def test_lightgcn(tmp_path, valid):
    write(tmp_path / "train.txt", "0 1 2\n1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28\n")
    write(tmp_path / "test.txt", "0 3\n1\n")
    if valid:
        write(tmp_path / "valid.txt", "0 4\n")
    summary, rows, _, notes = imported(tmp_path, "lightgcn", tmp_path)
    times = [time for *_, time, _ in rows]
    assert times.count(2) == 1 and (0, 3, 2, 100) in rows
    assert summary.events["listens"] == 30 + valid and "--config.data.path=FOLDER" in notes[0]
    assert times.count(1) == 1 if valid else (0 < times.count(1) < 10 and "no valid.txt" in notes[1])


def test_a_folder_without_the_export_is_told(tmp_path):
    write(tmp_path / "notes.txt", "x")
    # tests/test_extending.py may have added one.
    ours = [name for name, make in PRESETS.all().items() if make.__module__ == "music_map.convert.presets"]
    assert len(ours) == 8
    for preset in ours:
        with pytest.raises(UserError, match=r"holds none of|: no such file"):
            imported(tmp_path / preset, preset, tmp_path)


def test_lastfm_as_json_in_pages(tmp_path):
    def play(name, at):
        return {"artist": {"mbid": "", "#text": "Björk"}, "album": {"#text": "Post"}, "name": name, "streamable": "0",
                "date": {"uts": str(at), "#text": "01 Jan 2024, 00:01"}}  # fmt: skip

    now = {key: value for key, value in play("Now", 0).items() if key != "date"} | {"@attr": {"nowplaying": "true"}}
    write(
        tmp_path / "scrobbles-me.json", [[now, play("Hyperballad", 1_704_067_260)], [play("Army of Me", 1_704_000_000)]]
    )
    assert detect([tmp_path]) == "lastfm"
    summary, rows, songs, _ = imported(tmp_path, "lastfm", tmp_path)
    assert rows == [
        ("me", "Björk - Army of Me", 1_704_000_000, 100), ("me", "Björk - Hyperballad", 1_704_067_260, 100),
    ]  # fmt: skip
    assert songs["Björk - Army of Me"]["album"] == "Post" and summary.skipped == 1


def test_spotify_account_data_with_podcasts_in_a_zip(tmp_path):
    play = {"endTime": "2024-01-05 10:30", "artistName": "Band", "trackName": "Song", "msPlayed": 1000}
    pod = {"endTime": "2024-01-05 10:30", "podcastName": "Pod", "episodeName": "E1", "msPlayed": 1000}
    with zipfile.ZipFile(tmp_path / "my_spotify_data.zip", "w") as archive:
        plays = json.dumps([play, play | {"msPlayed": 40000}])
        archive.writestr("Spotify Account Data/StreamingHistory_music_0.json", plays)
        archive.writestr("Spotify Account Data/StreamingHistory_podcast_0.json", json.dumps([pod]))
        archive.writestr("Spotify Account Data/Playlist1.json", json.dumps({"playlists": []}))
        archive.writestr("Spotify Account Data/../../../out.json", "[]")
    found, summary = import_logs("auto", [tmp_path / "my_spotify_data.zip"], tmp_path / "raw")
    assert [path.name for path in found.inputs["listens"]] == ["StreamingHistory_music_0.json"]
    assert summary.events == {"listens": 2} and not (tmp_path.parent / "out.json").exists()
    listens = pq.read_table(tmp_path / "raw/flat/own/listens.parquet")
    assert sorted(listens["played_ratio_pct"].to_pylist()) == [0, 100]


def test_archives_are_named_in_place_of_the_folders_that_they_are_unpacked_to(tmp_path):
    for name in ("bad.zip", "bad.tar.gz"):
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(UserError, match=rf"{name}: cannot be unpacked .*; unpack it, and give the folder"):
            import_logs("auto", [tmp_path / name], tmp_path / "raw")
    write(tmp_path / "gowalla/train.txt", "0 1 2 x\n")
    with tarfile.open(tmp_path / "g.tgz", "w:gz") as archive:
        archive.add(tmp_path / "gowalla", "gowalla")
    with pytest.raises(UserError, match=rf"^{tmp_path}/g.tgz/gowalla/train.txt: line 1: 'x' is no integer"):
        import_logs("auto", [tmp_path / "g.tgz"], tmp_path / "raw")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", "")
    with pytest.raises(UserError, match=r"pictures.zip: holds no file that ends in .json, .*archive of an export"):
        import_logs("auto", [tmp_path / "pictures.zip"], tmp_path / "raw")


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_is_told_and_read_whole(tmp_path, name):
    preset, archive, make = EXPORTS[name]
    path = written(tmp_path / "export", archive, make(200))
    with unpacked([path]) as (files, _):
        assert detect(files) == preset
    _, summary = import_logs("auto", [path], tmp_path / "raw")
    songs = pq.read_table(tmp_path / "raw/flat/own/song_ids.parquet") if preset != "lightgcn" else None
    played = (
        200 if preset not in ("movielens", "recbole", "lightgcn") else len({(p.user, p.song) for p in plays(200, 60)})
    )
    playing = name == "lastfm-ghan-json"  # a row without a time
    assert summary.events["listens"] + summary.skipped == played + playing
    assert songs is None or songs["title"].null_count == 0


def test_listenbrainz_leaves_feedback_and_profile_out(tmp_path):
    event = {"listened_at": 1_600_000_000, "track_metadata": {"track_name": "Song", "artist_name": "Band"}}
    folder = tmp_path / "listenbrainz_me"
    write(folder / "listens/2020/9.jsonl", json.dumps(event) + "\n")
    write(folder / "feedback.jsonl", json.dumps({"recording_msid": "x", "score": 1}) + "\n")
    write(folder / "user.json", {"user_id": 1, "username": "me"})
    assert detect([folder]) == "listenbrainz"
    summary, rows, _, _ = imported(tmp_path, "listenbrainz", folder)
    assert rows == [("me", "Band - Song", 1_600_000_000, 100)] and not summary.skipped


@pytest.mark.parametrize(
    ("preset", "name", "text"),
    [
        ("spotify", "a.json", '[{"ts": "2023-03-01T10:00:05Z", "ms_played": 1}]'),
        ("spotify", "Streaming_History_Audio_2023_1.json", "[]"),
        ("lastfm", "recenttracks-me.csv", "uts,utc_time,artist\n"),
        ("lastfm", "me.csv", "Radiohead,OK Computer,Airbag,31 Dec 2023 10:30\n"),
        ("lastfm1k", "userid-timestamp-artid-artname-traid-traname.tsv", "x"),
        ("listenbrainz", "x.jsonl", '{"listened_at": 1, "track_metadata": {}}'),
        ("mpd", "slice.json", '{"info": {}, "playlists": []}'),
        ("movielens", "ml-100k/u.data", "1\t2\t3\t4\n"),
        ("recbole", "lfm/lfm.inter", "user_id:token"),
        ("lightgcn", "train.txt", "0 1"),
    ],
)
def test_exports_are_told_by_their_files(tmp_path, preset, name, text):
    path = write(tmp_path / name, text)
    assert detect([tmp_path]) == detect([path]) == preset


def test_what_is_no_export(tmp_path):
    for text, told in (
        ("[]", "holds no listens, nothing to learn from; check the file"),
        ("hello", "holds no listens, .*; rows skipped: 1, of them 1 for this reason: not valid JSON .*the first: "),
    ):
        with pytest.raises(UserError, match=f"x.json: {told}"):
            import_logs("lastfm", [write(tmp_path / "x.json", text)], tmp_path / "raw")
    rows = json.dumps([{"listened_at": 1, "track_metadata": {}}])
    with pytest.raises(UserError, match=r"has no column 'artist.#text', only .*; is it what the preset lastfm reads"):
        import_logs("lastfm", [write(tmp_path / "x.json", rows)], tmp_path / "raw")
    write(tmp_path / "plays.csv", "user,song,at\n1,2,3\n")
    with pytest.raises(UserError, match=r"plays.csv: is no export that is known; name its preset .*launch/convert.py"):
        detect([tmp_path / "plays.csv"])
    with pytest.raises(UserError, match="preset"):
        import_logs("tidal", [tmp_path / "plays.csv"], tmp_path / "raw")


def test_sittings_of_one_listener_count_as_users(tmp_path):
    plays = [(0, "a"), (60, "b"), (1860, "c"), (3661, "d"), (3661, "e"), (9000, "a")]
    rows = [
        {"ts": f"2023-03-01T{9 + at // 3600:02}:{at // 60 % 60:02}:{at % 60:02}Z", "ms_played": 40000,
         "master_metadata_track_name": name, "master_metadata_album_artist_name": "X", "spotify_track_uri": name}
        for at, name in plays
    ]  # fmt: skip
    rows.append({"ts": "2023-03-01T09:00:10Z", "ms_played": 5, "spotify_track_uri": None})
    path = write(tmp_path / "endsong_0.json", rows)
    _, summary = import_logs("spotify", [path], tmp_path / "raw", changes={"sittings": 30})
    listens = pq.read_table(tmp_path / "raw/flat/own/listens.parquet").to_pylist()
    users = [row["id"] for row in pq.read_table(tmp_path / "raw/flat/own/user_ids.parquet").to_pylist()]
    assert users == ["me 2023-03-01 09:00:00", "me 2023-03-01 10:01:01", "me 2023-03-01 11:30:00"]
    assert [(row["uid"], row["timestamp"], row["item_id"]) for row in listens] == [
        (0, 0, 0), (0, 333, 1), (0, 666, 2), (1, 0, 3), (1, 500, 4), (2, 0, 0),
    ]  # fmt: skip
    assert summary.num_users == 3 and summary.skipped == 1 and summary.last > 1_600_000_000
    assert "each of 3 sittings (a pause of 30 minutes ends one) of 1 listener counts" in summary.notes[0]
    with pytest.raises(UserError, match=r"--sittings=0.*must be minutes"):
        import_logs("spotify", [path], tmp_path / "raw2", changes={"sittings": 0.0})
